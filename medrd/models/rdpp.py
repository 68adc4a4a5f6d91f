"""RD++: reverse distillation with projected features.

Tien et al., "Revisiting Reverse Distillation for Anomaly Detection", CVPR 2023. Every level of the
teacher goes through a projection before the student sees it. Its training has three aims: a slice
with simplex noise in a box has the same projection as the clean slice (``reconstruct``),
projections differ from the teacher's noisy features (``contrast``), and projections of all healthy
slices are similar (optimal transport between the batch and the shuffled batch).

As in the released code:

- the distillation loss is RD4AD's cosine of each flattened level; targets are the teacher's
  features, not the projected ones, and the map compares those;
- the contrast compares the projected *clean* features with the *raw* features of the noisy slice,
  flattened; beyond the margin of 0.5 it is zero;
- the three losses are summed over levels, weighted 1, 0.01 and 0.1, and divided by 1.11.

**The transport term.** The released code passes the batch (softmaxed, flattened) and a permuted
copy of it to a debiased Sinkhorn loss that treats rows as points of a set. A set and its
permutation are the same set, so value and gradient are zero whatever the weights (geomloss returns
1e-10 with a gradient of 1e-14). ``transport="batch"``, the default, is that term, and computes
nothing. ``transport="pairs"`` is *our* reading of its purpose and has no published numbers: the
transport cost between the positions of each slice and those of the next slice in the batch (every
slice gets a partner; the released shuffle may map it to itself), as unit vectors over channels,
with each level pooled to at most 8 x 8 positions.

Left out of the released training: gradients accumulated over two batches of 16 (here every
batch is a step), hand-set epochs for each class of MVTec, and the choice of the best epoch on
the test set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medrd.models.cosine import global_distance, summed_distance, summed_map
from medrd.models.detector import Batch, Detector, OptimizerSpec, Step, group
from medrd.models.settings import Beta, ModelSection, Rate, SimplexBoxConfig, TeacherConfig, Weight
from medrd.models.sinkhorn import sinkhorn_divergence
from medrd.models.student import reverse_student
from medrd.models.teacher import Teacher

BLUR = 0.05
"""The blur of the Sinkhorn loss, as released."""
POOLED = 8
"""Positions along each side that ``transport="pairs"`` compares."""


def projection(channels: int) -> nn.Sequential:
    """Four 3x3 convolutions through C/2, C/4 and C/2 channels, normalised per slice."""
    widths = (channels, channels // 2, channels // 4, channels // 2, channels)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.InstanceNorm2d(outputs),
            nn.LeakyReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class RDPPConfig(ModelSection):
    """RD++, Tien et al., CVPR 2023."""

    name: Literal["rdpp"] = "rdpp"
    teacher: TeacherConfig = TeacherConfig()
    lr: Rate = 5e-3
    projection_lr: Rate = 1e-3
    projection_weight: Weight = 0.2
    """Weight of the three projection losses relative to the distillation."""
    reconstruct_weight: Weight = 0.01
    contrast_weight: Weight = 0.1
    """Both weights are relative to the transport term's, which is 1."""
    contrast_margin: float = Field(0.5, ge=-1, le=1)
    """Cosine below which projected and noisy features differ enough."""
    transport: Literal["batch", "pairs"] = "batch"
    """``batch``: the released code's transport term, which is always 0; ``pairs``: between one
    slice and the next, our reading."""
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    """``lr``, ``projection_lr`` and ``betas`` are settings of Adam, for the student and for the
    projections."""
    noise: SimplexBoxConfig = SimplexBoxConfig()


class RDPP(Detector):
    """Frozen teacher; trainable projections, bottleneck and decoder.

    The student is :func:`medrd.models.student.reverse_student`.
    """

    section = RDPPConfig
    source = "Tien et al., CVPR 2023"
    simulation = "simplex_box"

    def __init__(self, teacher: Teacher, settings: RDPPConfig) -> None:
        super().__init__()
        self.settings = settings
        self.teacher = teacher
        self.projections = nn.ModuleList(projection(channels) for channels in teacher.channels)
        self.bottleneck, self.decoder = reverse_student(teacher)
        self.size_multiple = 2 * teacher.strides[-1]
        self.freeze(teacher)

    def project(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Pass each level through its projection; shapes stay the same."""
        return [each(level) for each, level in zip(self.projections, levels, strict=True)]

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Teacher's and student's levels of (B, 3, H, W) images."""
        with torch.no_grad():
            targets = self.teacher(images)
        return targets, self.decoder(self.bottleneck(self.project(targets)))

    def loss(self, batch: Batch) -> Tensor:
        """Distillation plus the weighted projection losses: a scalar."""
        simulated, _ = batch.changed()
        with torch.no_grad():
            clean = self.teacher(batch.images)
            noisy = self.teacher(simulated)
        # Separately, not concatenated: the activations of half a batch fit the caches better.
        projected_clean, projected_noisy = self.project(clean), self.project(noisy)
        outputs = self.decoder(self.bottleneck(projected_clean))
        return summed_distance(
            clean, outputs
        ) + self.settings.projection_weight * self.projection_loss(
            noisy, projected_noisy, projected_clean
        )

    def projection_loss(
        self,
        noisy: Sequence[Tensor],
        projected_noisy: Sequence[Tensor],
        projected: Sequence[Tensor],
    ) -> Tensor:
        """Transport, reconstruction and contrast over levels, as weighted: a scalar.

        ``noisy`` are the teacher's levels of the changed slices, ``projected_noisy`` their
        projections, and ``projected`` those of the clean slices.
        """
        settings = self.settings
        reconstruct = summed_distance(projected_noisy, projected, "pixel")
        contrast = _sum(
            (1 - global_distance(a, b) - settings.contrast_margin).clamp(min=0).mean()
            for a, b in zip(noisy, projected, strict=True)
        )
        total = settings.reconstruct_weight * reconstruct + settings.contrast_weight * contrast
        if settings.transport == "pairs":
            total = total + _sum(paired_transport(level) for level in projected)
        return total / (1 + settings.reconstruct_weight + settings.contrast_weight)

    def steps(self) -> list[Step]:
        """One: Adam on projections and student, each with its learning rate."""
        settings = self.settings
        return [
            Step(
                name="distil",
                groups=[
                    group(self.bottleneck, self.decoder),
                    group(self.projections, lr=settings.projection_lr),
                ],
                optimizer=OptimizerSpec("adam", {"lr": settings.lr, "betas": settings.betas}),
                loss=self.loss,
            )
        ]

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Sum of the three levels' cosine distances, in [0, 6]: (B, H, W) float32."""
        return summed_map(*self.features(images), images)


def paired_transport(level: Tensor) -> Tensor:
    """Transport cost between each slice and the next, averaged: (B, C, H, W) -> scalar."""
    size = (min(POOLED, level.shape[2]), min(POOLED, level.shape[3]))
    pooled = F.adaptive_avg_pool2d(level.float(), size)
    points = F.normalize(pooled.flatten(2), dim=1, eps=1e-6).mT
    return sinkhorn_divergence(points, points.roll(1, 0), diameter=2.0, blur=BLUR).mean()


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
