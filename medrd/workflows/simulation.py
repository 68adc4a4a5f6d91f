"""Which simulation of the data side serves a detector, with the settings of its config."""

from __future__ import annotations

from collections.abc import Callable

from torch import Generator, Tensor

from medrd.config import Config
from medrd.data.foreground import foreground
from medrd.data.noise import CoarseNoise, SimplexBox
from medrd.data.simulate import AnomalySimulator, Simulated
from medrd.models.detector import Detector, Simulation

Simulator = Callable[[Tensor, Tensor, Generator], Simulated]
"""(images (B, 3, H, W), region (B, H, W), generator on the CPU) -> changed images and mask."""


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
    make, section = _MAKERS[detector.simulation]
    settings = dict(getattr(config.model, section))
    place = settings.pop("place", "anywhere")
    recipe = config.recipe
    # One modality, or grey, in three equal channels: what is put in must be equal too.
    tied = len(recipe.channels) == 1 if recipe.kind == "volumes" else recipe.colour == "grey"
    simulator = make(**settings, tied=tied)
    if recipe.kind == "pictures" and place == "object":
        return lambda images, region, generator: simulator(
            images, foreground(images, region), generator
        )
    return simulator
