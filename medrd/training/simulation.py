"""Which simulation of the data side serves a detector, with the settings of its config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Generator, Tensor

from medrd.config import AnyRecipeConfig, Config
from medrd.models.detector import Detector, Simulation
from medrd.simulate.anomalies import AnomalySimulator, Simulated
from medrd.simulate.augment import augment
from medrd.simulate.foreground import foreground
from medrd.simulate.noise import CoarseNoise, SimplexBox
from medrd.simulate.shapes import ALL

Augment = Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]
"""(images (B, C, H, W), region (B, H, W), generator on the CPU) -> both, changed but healthy."""


class Simulator(Protocol):
    """Something that changes a batch; see :class:`medrd.simulate.anomalies.AnomalySimulator`."""

    def __call__(
        self, images: Tensor, region: Tensor, generator: Generator, samples: slice = ALL
    ) -> Simulated:
        """(B, C, H, W), (B, H, W) and a generator on the CPU -> changed images and mask."""
        ...


_MAKERS: dict[Simulation, tuple[Callable[..., Simulator], str]] = {
    "anomalies": (AnomalySimulator, "simulation"),
    "coarse_noise": (CoarseNoise, "noise"),
    "simplex_box": (SimplexBox, "noise"),
}
"""What makes each kind, and which section of the model's config has its settings."""


def simulator_for(config: Config, detector: Detector) -> Simulator | None:
    """What the detector asks for; None where it asks for nothing."""
    if detector.simulation is None:
        return None
    section = _MAKERS[detector.simulation][1]
    return make_simulator(
        detector.simulation, dict(getattr(config.model, section)), recipe=config.recipe
    )


def augment_for(config: Config) -> Augment | None:
    """The random changes of healthy slices that a config asks for; None where it asks for none."""
    wanted, layout = config.train.augment, config.recipe.layout
    if not wanted.any:
        return None
    return lambda images, region, generator: augment(images, region, wanted, layout, generator)


def make_simulator(
    kind: Simulation, settings: Mapping[str, Any], *, recipe: AnyRecipeConfig
) -> Simulator:
    """A simulator for slices of a recipe, with the settings of its section of a config."""
    settings = dict(settings)
    place = settings.pop("place", "anywhere")
    simulator = _MAKERS[kind][0](**settings, layout=recipe.layout)
    if recipe.kind == "pictures" and place == "object":
        return lambda images, region, generator, samples=ALL: simulator(
            images, foreground(images, region), generator, samples
        )
    return simulator
