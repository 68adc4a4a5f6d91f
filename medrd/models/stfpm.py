"""Student-Teacher Feature Pyramid Matching (STFPM).

Wang, Han, Ding, Huang, "Student-Teacher Feature Pyramid Matching for Anomaly Detection",
BMVC 2021, after the released code. Where the two differ, this follows the code: the paper
halves the squared distance, the code does not.

Other implementations differ more: anomalib sums the loss over the batch, which multiplies the
gradient by half the batch size while the learning rate stays at 0.4, and some of its runs collapse.
Here the mean is taken, and a :class:`StudentMonitor` still checks for a dead student.

Left out: the fourth layers, which the released code computes and never reads, and its choice of the
epoch with the lowest mean map on a fifth of the normal images. Its batches have 32 images, and its
maps are not smoothed; here batch size and smoothing (``scoring.sigma_px``) come from the config,
and are the same for all detectors by default.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medrd.models.cosine import resized
from medrd.models.detector import Batch, Detector, OptimizerSpec, Step, group
from medrd.models.monitors import GRACE, StudentMonitor
from medrd.models.settings import Beta, ModelSection, Rate, TeacherConfig, Weight
from medrd.models.student import fresh_encoder
from medrd.models.teacher import Teacher


class STFPMConfig(ModelSection):
    """Student-teacher feature pyramid matching, Wang et al., BMVC 2021."""

    name: Literal["stfpm"] = "stfpm"
    teacher: TeacherConfig = TeacherConfig()
    lr: Rate = 0.4
    momentum: Beta = 0.9
    weight_decay: Weight = 1e-4
    """``lr``, ``momentum`` and ``weight_decay`` are settings of SGD."""


class STFPM(Detector):
    """Frozen teacher, and a student of its kind that starts with random weights.

    Parameters
    ----------
    teacher
        Built and loaded; it is frozen here.
    settings
        Its section of a config.
    grace
        Batches before the monitor's first verdict; see :class:`StudentMonitor`.
    """

    section = STFPMConfig
    source = "Wang et al., BMVC 2021"
    monitor: StudentMonitor

    def __init__(self, teacher: Teacher, settings: STFPMConfig, *, grace: int = GRACE) -> None:
        super().__init__()
        self.settings = settings
        self.teacher = teacher
        self.student = fresh_encoder(teacher)
        self.size_multiple = teacher.strides[-1]
        self.monitor = StudentMonitor(grace=grace)
        self.freeze(teacher)

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Teacher's and student's levels of (B, 3, H, W) images, of length 1 over channels."""
        with torch.no_grad():
            targets = [normalised(level) for level in self.teacher(images)]
        return targets, [normalised(level) for level in self.student(images)]

    def distillation_loss(self, batch: Batch) -> Tensor:
        """Sum over levels of the mean squared distance: a scalar in [0, 12]."""
        targets, outputs = self.features(batch.images)
        losses = torch.stack(
            [squared_distance(a, b).mean() for a, b in zip(targets, outputs, strict=True)]
        )
        if self.training:
            self.monitor.see(targets, outputs, losses.detach())
        return losses.sum()

    def steps(self) -> list[Step]:
        """One: SGD on the student."""
        settings = self.settings
        optimizer = {
            "lr": settings.lr,
            "momentum": settings.momentum,
            "weight_decay": settings.weight_decay,
        }
        return [
            Step(
                name="distil",
                groups=[group(self.student)],
                optimizer=OptimizerSpec("sgd", optimizer),
                loss=self.distillation_loss,
            )
        ]

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Product of the levels' squared distances, in [0, 64]: (B, H, W) float32.

        The levels are multiplied at the shallowest level's size, then resized to the images.
        """
        targets, outputs = self.features(images)
        product = torch.ones_like(targets[0][:, 0])
        for a, b in zip(targets, outputs, strict=True):
            product = product * resized(squared_distance(a, b), targets[0])
        return resized(product, images)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared length of the difference over channels: (B, C, H, W) x 2 -> (B, H, W)."""
    return (a - b).square().sum(1)


def normalised(level: Tensor) -> Tensor:
    """Normalise to length 1 over channels, in float32 even under autocast."""
    return F.normalize(level.float(), dim=1)
