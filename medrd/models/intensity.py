"""The untrained baseline: the brightness of a voxel.

On FLAIR, thresholding the (equalised) intensity beats many trained detectors (Meissen,
Kaissis & Rueckert, "Challenging Current Semi-Supervised Anomaly Segmentation Methods for
Brain MRI", 2021). With ``recipe.normalise: rank`` the channel holds each voxel's rank in
its brain, which is histogram equalisation over the whole volume.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from medrd.models.detector import Detector, Step
from medrd.models.settings import ModelSection


class IntensityConfig(ModelSection):
    """The untrained baseline: the channel itself, rank-normalised by the recipe."""

    learns: ClassVar[bool] = False

    name: Literal["intensity"] = "intensity"
    channel: int = Field(0, ge=0, le=2)
    """Index of the channel, of three."""


class Intensity(Detector):
    """Returns one channel of its input as the anomaly map; nothing to train."""

    section = IntensityConfig
    source = "untrained baseline; cf. Meissen et al. 2021"
    teacher_kind = None

    def __init__(self, settings: IntensityConfig) -> None:
        super().__init__()
        self.channel = settings.channel

    def steps(self) -> list[Step]:
        """None."""
        return []

    def anomaly_map(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H, W) float32, the channel as it is."""
        return images[:, self.channel].float()
