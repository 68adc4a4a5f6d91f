"""Relation-based distillation (RKDAD): the student learns relations between the teacher's levels.

This is a reconstruction. Of Cheng, Yang, Liu, "Relation-Based Knowledge Distillation for Anomaly
Detection", PRCV 2021, we found the abstract and no code, so we do not claim the paper's numbers.
From the abstract:

- the student has the teacher's architecture and starts with random weights;
- it learns the FSP matrices of adjacent levels (Yim et al., "A Gift from Knowledge Distillation",
  CVPR 2017): the inner products over all positions between each channel of one level and each
  channel of the next, divided by the number of positions. The larger level is max-pooled to the
  size of the smaller. The loss is the squared distance between teacher's and student's matrices;
- an image is anomalous if its matrices differ: this is the image score here
  (``scoring.image_score: model``).

Our choices, because the abstract leaves them open:

- feature vectors are first normalised to length 1, so that all levels count equally;
- the map: an FSP matrix is the mean over positions of the outer products of two levels' features,
  so the map is the squared distance between these products, position by position;
- a term that matches the features themselves (``feature_weight``): without it, the student learns
  only the means, which features that differ from the teacher's everywhere can have too;
- Adam and its learning rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from medrd.models.cosine import resized
from medrd.models.detector import Batch, Detector, OptimizerSpec, Step, group
from medrd.models.monitors import StudentMonitor
from medrd.models.settings import Beta, ModelSection, Rate, TeacherConfig
from medrd.models.stfpm import normalised, squared_distance
from medrd.models.student import fresh_encoder
from medrd.models.teacher import Teacher


class RKDADConfig(ModelSection):
    """Relation-based distillation: a reconstruction from the abstract of Cheng et al., 2021."""

    name: Literal["rkdad"] = "rkdad"
    teacher: TeacherConfig = TeacherConfig()
    feature_weight: float = Field(1.0, gt=0)
    """Weight of the features' own distance beside that of their relations."""
    lr: Rate = 0.005
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """``lr`` and ``betas`` are settings of Adam."""


class RKDAD(Detector):
    """Frozen teacher, and a student of its kind that starts with random weights."""

    section = RKDADConfig
    source = "reconstruction from the abstract of Cheng et al., PRCV 2021"
    monitor: StudentMonitor
    scores_images = True

    def __init__(self, teacher: Teacher, settings: RKDADConfig) -> None:
        super().__init__()
        self.settings = settings
        self.teacher = teacher
        self.student = fresh_encoder(teacher)
        self.size_multiple = teacher.strides[-1]
        self.monitor = StudentMonitor()
        self.freeze(teacher)

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Teacher's and student's levels of (B, 3, H, W) images."""
        with torch.no_grad():
            targets = self.teacher(images)
        return targets, self.student(images)

    def distillation_loss(self, batch: Batch) -> Tensor:
        """Distance between the FSP matrices, plus the weighted one between features: a scalar."""
        levels, own = self.features(batch.images)
        targets, outputs = (
            [normalised(level) for level in levels],
            [normalised(level) for level in own],
        )
        distances = torch.stack(
            [squared_distance(a, b).mean() for a, b in zip(targets, outputs, strict=True)]
        )
        if self.training:
            self.monitor.see(targets, outputs, distances.detach())
        return fsp_distance(levels, own).mean() + self.settings.feature_weight * distances.sum()

    def steps(self) -> list[Step]:
        """One: Adam on the student."""
        settings = self.settings
        return [
            Step(
                name="distil",
                groups=[group(self.student)],
                optimizer=OptimizerSpec("adam", {"lr": settings.lr, "betas": settings.betas}),
                loss=self.distillation_loss,
            )
        ]

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Sum over adjacent levels of the squared distance between products, in [0, 8]: (B, H,
        W)."""
        return _relation_map(*self.features(images), images)

    def map_and_score(self, images: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        """The map, and the distance of the image's FSP matrices (B,)."""
        targets, outputs = self.features(images)
        return _relation_map(targets, outputs, images), fsp_distance(targets, outputs)


def fsp_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Mean over positions of the outer products: (B, C, H, W), (B, D, H, W) -> (B, C, D)."""
    # Autocast is off, because the matrices differ by less than bfloat16's steps.
    with torch.autocast(a.device.type, enabled=False):
        return a.float().flatten(2) @ b.float().flatten(2).mT / (a.shape[-2] * a.shape[-1])


def fsp_distance(targets: Sequence[Tensor], outputs: Sequence[Tensor]) -> Tensor:
    """Squared distance between FSP matrices, summed over adjacent levels: (B,), up to 4 each."""
    pairs = zip(_adjacent(targets), _adjacent(outputs), strict=True)
    terms = [(fsp_matrix(*a) - fsp_matrix(*b)).square().sum((1, 2)) for a, b in pairs]
    return torch.stack(terms).sum(0)


def _relation_map(targets: Sequence[Tensor], outputs: Sequence[Tensor], images: Tensor) -> Tensor:
    """Distance of the products: |a b' - c d'|² = |a|²|b|² + |c|²|d|² - 2 (a.c)(b.d)."""
    maps = []
    for (a, b), (c, d) in zip(_adjacent(targets), _adjacent(outputs), strict=True):
        distance = _dot(a, a) * _dot(b, b) + _dot(c, c) * _dot(d, d) - 2 * _dot(a, c) * _dot(b, d)
        maps.append(resized(distance, images))
    return torch.stack(maps).sum(0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Over channels: (B, C, H, W) x 2 -> (B, H, W)."""
    return (a * b).sum(1)


def _adjacent(levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Each level and the next deeper one, at the latter's size and of length 1 over channels."""
    pairs = []
    for level, deeper in pairwise(levels):
        pooled = F.max_pool2d(level, level.shape[-1] // deeper.shape[-1])
        pairs.append((normalised(pooled), normalised(deeper)))
    return pairs
