"""Cosine similarity distillation with attention one-class embeddings (CSKD).

This is a reconstruction. Of Sheng, Jing, Wang, Zhang, "Cosine similarity knowledge distillation for
surface anomaly detection", Scientific Reports 14, 2024, we could read only the abstract and found
no code, so we do not claim the paper's numbers. From the abstract:

- teacher and student have the same deep architecture; the student is neither smaller nor reversed;
- the loss is a cosine distance between their features;
- the student has an "attention one-class embedding" (AOCE), which keeps it from responding to an
  anomaly as the teacher does.

The form of the embedding is our own. Behind each level of the student, it has a bottleneck with
``reduction`` times fewer channels (a 1x1 and a 3x3 convolution), weighted by the attention of CBAM
(Woo et al., ECCV 2018) over channels and positions, and a 1x1 convolution back to the teacher's
width. There is no bypass. The loss takes one cosine of each flattened level, as RD4AD's released
code does; ``loss: pixel`` takes a cosine per position. The map (RD4AD's), Adam and its learning
rate are our choices too.

Left out: the adaptive choice of the best epoch, whose criterion the abstract does not give.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medrd.models.blocks import conv, conv_bn_relu
from medrd.models.cosine import summed_distance, summed_map
from medrd.models.detector import Batch, Detector, OptimizerSpec, Step, group
from medrd.models.settings import Beta, ModelSection, Rate, TeacherConfig
from medrd.models.student import fresh_encoder
from medrd.models.teacher import Teacher


class CSKDConfig(ModelSection):
    """Cosine similarity distillation: a reconstruction from the abstract of Sheng et al., 2024."""

    name: Literal["cskd"] = "cskd"
    teacher: TeacherConfig = TeacherConfig()
    loss: Literal["global", "pixel"] = "global"
    """Cosine of the flattened features or per position."""
    reduction: int = Field(4, ge=1)
    """Channels of a level over those of its embedding."""
    lr: Rate = 0.005
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """``lr`` and ``betas`` are settings of Adam."""


class CSKD(Detector):
    """Frozen teacher, a student of its kind that starts with random weights, and its embeddings."""

    section = CSKDConfig
    source = "reconstruction from the abstract of Sheng et al., Sci Rep 2024"

    def __init__(self, teacher: Teacher, settings: CSKDConfig) -> None:
        super().__init__()
        self.settings = settings
        self.teacher = teacher
        self.student = fresh_encoder(teacher)
        self.embeddings = nn.ModuleList(
            attention_embedding(channels, settings.reduction, signed=teacher.layout is None)
            for channels in teacher.channels
        )
        self.size_multiple = teacher.strides[-1]
        self.freeze(teacher)

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Teacher's levels of (B, 3, H, W) images, and the student's behind their embeddings."""
        with torch.no_grad():
            targets = self.teacher(images)
        levels = self.student(images)
        return targets, [e(level) for e, level in zip(self.embeddings, levels, strict=True)]

    def distillation_loss(self, batch: Batch) -> Tensor:
        """Sum over levels of the mean cosine distance: a scalar in [0, 6]."""
        return summed_distance(*self.features(batch.images), self.settings.loss)

    def steps(self) -> list[Step]:
        """One: Adam on the student and its embeddings."""
        settings = self.settings
        return [
            Step(
                name="distil",
                groups=[group(self.student, self.embeddings)],
                optimizer=OptimizerSpec("adam", {"lr": settings.lr, "betas": settings.betas}),
                loss=self.distillation_loss,
            )
        ]

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Sum of the three levels' cosine distances, in [0, 6]: (B, H, W) float32."""
        return summed_map(*self.features(images), images)


def attention_embedding(channels: int, reduction: int, *, signed: bool) -> nn.Module:
    """A bottleneck with attention, which keeps a level's shape.

    With ``signed``, for teachers whose features can be negative, it ends without ReLU.
    """
    from timm.layers.cbam import CbamModule  # takes seconds, which other models need not wait for

    width = max(channels // reduction, 1)
    layers = [
        conv_bn_relu(channels, width, 1),
        conv_bn_relu(width, width),
        CbamModule(width, rd_ratio=1 / 4),
        conv(width, channels, 1),
        nn.BatchNorm2d(channels),
    ]
    if not signed:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
