"""Which simulation of the data side serves a detector, with the settings of its config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Generator, Tensor

from medrd.config import AnyRecipeConfig, Config
from medrd.data.foreground import foreground
from medrd.data.noise import CoarseNoise, SimplexBox
from medrd.data.simulate import AnomalySimulator, Simulated
from medrd.data.simulate_shapes import ALL
from medrd.models.detector import Detector, Simulation


class Simulator(Protocol):
    """Something that changes a batch; see :class:`medrd.data.simulate.AnomalySimulator`."""

    def __call__(
        self, images: Tensor, region: Tensor, generator: Generator, samples: slice = ALL
    ) -> Simulated:
        """(B, 3, H, W), (B, H, W) and a generator on the CPU -> changed images and mask."""
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


def make_simulator(
    kind: Simulation, settings: Mapping[str, Any], *, recipe: AnyRecipeConfig
) -> Simulator:
    """A simulator for slices of a recipe, with the settings of its section of a config."""
    settings = dict(settings)
    place = settings.pop("place", "anywhere")
    # One modality, or grey, in three equal channels: what is put in must be equal too.
    tied = len(recipe.channels) == 1 if recipe.kind == "volumes" else recipe.colour == "grey"
    simulator = _MAKERS[kind][0](**settings, tied=tied)
    if recipe.kind == "pictures" and place == "object":
        return lambda images, region, generator, samples=ALL: simulator(
            images, foreground(images, region), generator, samples
        )
    return simulator
