"""The simulation that a detector needs, with the settings of its config."""

from __future__ import annotations

from collections.abc import Callable

from torch import Generator, Tensor

from medrd.config import (
    AnyRecipeConfig,
    CoarseNoiseConfig,
    Config,
    SimplexBoxConfig,
    SimulationConfig,
)
from medrd.models.detector import Detector, Simulation
from medrd.simulate.anomalies import AnomalySimulator, Simulated
from medrd.simulate.augment import augment
from medrd.simulate.foreground import foreground
from medrd.simulate.noise import CoarseNoise, SimplexBox

Augment = Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]
"""(images (B, C, H, W), region (B, H, W), generator on the CPU) -> both, changed but healthy."""

Simulator = Callable[[Tensor, Tensor, Generator], Simulated]
"""(images (B, C, H, W), region (B, H, W), generator on the CPU) -> changed images and mask; see
:class:`medrd.simulate.anomalies.AnomalySimulator`."""

_MAKERS: dict[Simulation, tuple[Callable[..., Simulator], str]] = {
    "anomalies": (AnomalySimulator, "simulation"),
    "coarse_noise": (CoarseNoise, "noise"),
    "simplex_box": (SimplexBox, "noise"),
}
"""The constructor of each kind, and the section of the model's config with its settings."""


def simulator_for(config: Config, detector: Detector) -> Simulator | None:
    """The simulator that a detector needs; None if it needs none."""
    if detector.simulation is None:
        return None
    section = _MAKERS[detector.simulation][1]
    return make_simulator(detector.simulation, getattr(config.model, section), recipe=config.recipe)


def augment_for(config: Config) -> Augment | None:
    """The augmentation of healthy slices in a config; None if there is none."""
    settings, layout = config.train.augment, config.recipe.layout
    if not settings.any:
        return None
    return lambda images, region, generator: augment(images, region, settings, layout, generator)


def make_simulator(
    kind: Simulation,
    settings: SimulationConfig | CoarseNoiseConfig | SimplexBoxConfig,
    *,
    recipe: AnyRecipeConfig,
) -> Simulator:
    """A simulator for slices of a recipe, with its section of a config."""
    simulator = _MAKERS[kind][0](settings, layout=recipe.layout)
    if recipe.kind == "pictures" and getattr(settings, "place", "") == "object":
        return lambda images, region, generator: simulator(
            images, foreground(images, region), generator
        )
    return simulator
