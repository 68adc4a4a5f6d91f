"""Reverse distillation with skip connections: SK-RD4AD and Skip-TS, which differ in two parts.

- Park et al., "SK-RD4AD: Skip-Connected Reverse Distillation for Robust One-Class Anomaly
  Detection", CVPR Workshops 2025, after the released code.
- Liu, Jiao, Lu, Chen, "Anomaly Detection for Medical Images Using Teacher-Student Model With Skip
  Connections and Multiscale Anomaly Consistency", IEEE TIM 2024, after the released code.

Both are RD4AD with two additions. Each stage of the decoder but the first gets the sum of the
output of the stage before it and the teacher's level of that size. And the loss has a consistency
term: the levels' mean squared errors should agree, after the deeper level is upsampled. The methods
differ in where the decoder starts (SK-RD4AD: RD4AD's bottleneck; Skip-TS: the teacher's fourth
level, without a bottleneck) and in which pairs of levels the consistency term compares.

The loss and the map use the stages' own outputs, before the teacher's level is added, but an
anomaly in the teacher's features at one level reaches the next stage: both papers consider the
finer details worth it. The released code has a ReLU after each sum. It changes nothing, since both
summands end with one, and is left out (it would cut the features of teachers whose features are
signed).

Where SK-RD4AD's text and code differ, this follows the code: its skips, called non-corresponding
after the stage that they lead to, join features of the same level. The weight of its consistency
term is 0.05 for one category and 0.005 in the run over all of MVTec AD, where a loop variable
overwrites the option; the default here is 0.05.

Left out: the choice of the best epoch by test labels, which both training scripts make.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medrd.models.cosine import summed_distance, summed_map
from medrd.models.detector import Batch, Detector, OptimizerSpec, Step, group
from medrd.models.settings import Beta, ModelSection, Rate, TeacherConfig, Weight
from medrd.models.student import Decoder, deep_decoder, reverse_student
from medrd.models.teacher import DeepTeacher, Teacher


class SkipConnected(Detector):
    """The common parts of both: the skips, the loss, the map.

    Subclasses make the decoder and define its input.
    """

    decoder: Decoder
    consistency_pairs: Sequence[tuple[int, int, int]]
    """(deeper level, its size when compared, shallower level), levels from 0."""

    def __init__(self, teacher: Teacher, settings: SKRD4ADConfig | SkipTSConfig) -> None:
        super().__init__()
        self.settings = settings
        self.teacher = teacher
        self.make_student(teacher)
        self.freeze(teacher)

    def make_student(self, teacher: Teacher) -> None:
        """Set the decoder, any layers before it, and ``size_multiple``."""
        raise NotImplementedError

    def embed(self, levels: Sequence[Tensor]) -> Tensor:
        """The decoder's input, from all of the teacher's levels."""
        raise NotImplementedError

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Teacher's and student's three levels of (B, 3, H, W) images."""
        with torch.no_grad():
            levels = self.teacher(images)
        targets = levels[:3]
        current, outputs = self.embed(levels), []
        for target, stage in zip(reversed(targets), self.decoder.stages, strict=True):
            output = stage(current)
            outputs.append(output)
            current = output + target
        return targets, outputs[::-1]

    def distillation_loss(self, batch: Batch) -> Tensor:
        """Sum over levels of the cosine distance, plus the weighted consistency term: a scalar."""
        targets, outputs = self.features(batch.images)
        distance = summed_distance(targets, outputs)
        inconsistency = consistency(targets, outputs, self.consistency_pairs)
        return distance + self.settings.consistency_weight * inconsistency

    def steps(self) -> list[Step]:
        """One: Adam on all but the teacher."""
        settings = self.settings
        students = [network for network in self.children() if network is not self.teacher]
        return [
            Step(
                name="distil",
                groups=[group(*students)],
                optimizer=OptimizerSpec("adam", {"lr": settings.lr, "betas": settings.betas}),
                loss=self.distillation_loss,
            )
        ]

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Sum of the three levels' cosine distances, in [0, 6]: (B, H, W) float32."""
        return summed_map(*self.features(images), images)


class SKRD4ADConfig(ModelSection):
    """Skip-connected reverse distillation, Park et al., CVPR Workshops 2025."""

    name: Literal["sk_rd4ad"] = "sk_rd4ad"
    teacher: TeacherConfig = TeacherConfig()
    consistency_weight: Weight = 0.05
    """Weight of the difference between the levels' errors; the released run over all of MVTec AD
    has 0.005."""
    lr: Rate = 0.005
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    """``lr`` and ``betas`` are settings of Adam, as in the released implementation."""


class SKRD4AD(SkipConnected):
    """SK-RD4AD: with RD4AD's bottleneck; each level is compared with the next deeper one."""

    section = SKRD4ADConfig
    source = "Park et al., CVPR Workshops 2025"
    consistency_pairs = ((2, 1, 1), (1, 0, 0))

    def make_student(self, teacher: Teacher) -> None:
        """RD4AD's bottleneck and decoder."""
        self.bottleneck, self.decoder = reverse_student(teacher)
        self.size_multiple = 2 * teacher.strides[-1]

    def embed(self, levels: Sequence[Tensor]) -> Tensor:
        """RD4AD's embedding of the three levels."""
        embedding: Tensor = self.bottleneck(levels)
        return embedding


class SkipTSConfig(ModelSection):
    """Skip-TS, Liu et al., TIM 2024."""

    name: Literal["skip_ts"] = "skip_ts"
    teacher: TeacherConfig = TeacherConfig()
    consistency_weight: Weight = 0.05
    """Weight of the difference between the levels' errors."""
    lr: Rate = 0.005
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    """``lr`` and ``betas`` are settings of Adam, as in the released implementation."""


class SkipTS(SkipConnected):
    """Skip-TS: the decoder starts from the teacher's fourth level; all pairs are compared.

    For the comparison, deeper levels are upsampled to the size of the shallowest.
    """

    section = SkipTSConfig
    source = "Liu et al., TIM 2024"
    teacher_kind = DeepTeacher
    consistency_pairs = ((2, 0, 1), (1, 0, 0), (2, 0, 0))

    def make_student(self, teacher: Teacher) -> None:
        """A decoder that begins at the fourth level."""
        self.decoder = deep_decoder(teacher)
        self.size_multiple = teacher.strides[-1]

    def embed(self, levels: Sequence[Tensor]) -> Tensor:
        """The fourth level."""
        return levels[3]


def consistency(
    targets: Sequence[Tensor], outputs: Sequence[Tensor], pairs: Sequence[tuple[int, int, int]]
) -> Tensor:
    """Sum over pairs of levels of the difference between their mean squared errors: a scalar.

    Parameters
    ----------
    targets, outputs
        (B, C, H, W) by level.
    pairs
        (deeper level, level to whose size it is upsampled, shallower level). As released, the
        features are upsampled bilinearly with ``align_corners=True``, and the error is computed
        after that.
    """
    terms = []
    for deeper, at, shallower in pairs:
        size = (targets[at].shape[-2], targets[at].shape[-1])
        target, output = (
            F.interpolate(levels[deeper].float(), size=size, mode="bilinear", align_corners=True)
            for levels in (targets, outputs)
        )
        error = F.mse_loss(targets[shallower].float(), outputs[shallower].float())
        terms.append((F.mse_loss(target, output) - error).abs())
    return torch.stack(terms).sum()
