"""Reverse distillation from one-class embedding (RD4AD).

Deng & Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding",
CVPR 2022. Where text and released code disagree, this follows the code:

- the loss is one cosine of each *flattened* level (``loss="global"``), not the mean of
  per-position cosines of the paper's equations 1 and 2 (``loss="pixel"``);
- the bottleneck has no attention, and maps are summed.

The released code's unused parts (layer 4 of the teacher, one 1x1 convolution and its
BatchNorm in the bottleneck) are left out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medrd.models.cosine import summed_distance, summed_map
from medrd.models.detector import Batch, Detector, OptimizerSpec, Step, group
from medrd.models.settings import Beta, ModelSection, Rate, TeacherConfig
from medrd.models.student import reverse_student
from medrd.models.teacher import Teacher


class RD4ADConfig(ModelSection):
    """Reverse distillation, Deng & Li, CVPR 2022."""

    name: Literal["rd4ad"] = "rd4ad"
    teacher: TeacherConfig = TeacherConfig()
    loss: Literal["global", "pixel"] = "global"
    """Cosine of the flattened features (the released code) or per position (the paper)."""
    lr: Rate = 0.005
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    """``lr`` and ``betas`` are settings of Adam, as in the released code."""


class RD4AD(Detector):
    """Frozen teacher, trainable bottleneck and decoder.

    The student is :func:`medrd.models.student.reverse_student`.
    """

    section = RD4ADConfig
    source = "Deng & Li, CVPR 2022"

    def __init__(self, teacher: Teacher, settings: RD4ADConfig) -> None:
        super().__init__()
        self.settings = settings
        self.teacher = teacher
        self.bottleneck, self.decoder = reverse_student(teacher)
        self.size_multiple = 2 * teacher.strides[-1]
        self.freeze(teacher)

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Teacher's and student's levels of (B, 3, H, W) images."""
        with torch.no_grad():
            targets = self.teacher(images)
        return targets, self.decoder(self.bottleneck(targets))

    def distillation_loss(self, batch: Batch) -> Tensor:
        """Sum over levels of the mean cosine distance: a scalar in [0, 6]."""
        return summed_distance(*self.features(batch.images), self.settings.loss)

    def steps(self) -> list[Step]:
        """One: Adam on bottleneck and decoder."""
        settings = self.settings
        return [
            Step(
                name="distil",
                groups=[group(self.bottleneck, self.decoder)],
                optimizer=OptimizerSpec("adam", {"lr": settings.lr, "betas": settings.betas}),
                loss=self.distillation_loss,
            )
        ]

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Sum of the three levels' cosine distances, in [0, 6]: (B, H, W) float32."""
        return summed_map(*self.features(images), images)
