"""ReContrast: a frozen and a trainable encoder, each reconstructed from the other.

Guo, Lu, Jia, Zhang, Li, "ReContrast: Domain-Specific Anomaly Detection via Contrastive
Reconstruction", NeurIPS 2023, after the released code (its plain script for MVTec AD):

- both encoders start as the teacher; one stays frozen, the other is trained;
- one bottleneck and one decoder (RD4AD's) read the features of both, as one batch, so that
  their BatchNorm layers see both;
- the reconstruction from the trainable encoder must match the frozen one, and vice versa. Targets
  get no gradient: the trainable encoder learns only through the bottleneck;
- the loss is a global cosine with hard mining: points nearer to their target than mean + alpha x
  std get no gradient, where alpha rises from -3 to 1 over the first tenth of the training.

Where paper and code differ, this follows the code: the paper's figure 1 has two decoders with the
same weights, while in the code each direction has its own 1x1 convolutions at the decoder's end.
BatchNorm of the trainable encoder is in train mode, or in eval mode, as the authors chose class by
class; that is ``encoder_batch_norm`` here.

Left out: the "stable" scripts (partial BatchNorm, an optimiser reset every 500 iterations, an
encoder that pauses then), and the choice of the best checkpoint by test labels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from medrd.models.cosine import global_distance, pixel_distance, summed_map
from medrd.models.detector import Batch, Detector, OptimizerSpec, Step, group
from medrd.models.monitors import CollapseMonitor
from medrd.models.settings import ModelSection, Rate, TeacherConfig, Weight
from medrd.models.student import reverse_student
from medrd.models.teacher import Teacher

ALPHA, RAMP = (-3.0, 1.0), 0.1
"""Hard mining of the released code: alpha rises from the first value to the second over this share
of the training."""


class ReContrastConfig(ModelSection):
    """ReContrast, Guo et al., NeurIPS 2023."""

    name: Literal["recontrast"] = "recontrast"
    teacher: TeacherConfig = TeacherConfig()
    lr: Rate = 2e-3
    encoder_lr: Rate = 1e-5
    weight_decay: Weight = 1e-5
    """``encoder_lr`` is the learning rate of the trainable encoder, ``lr`` that of all else.
    AdamW's betas are PyTorch's defaults, as released."""
    encoder_batch_norm: Literal["train", "eval"] = "train"
    """Mode of the trainable encoder while training: ``train`` (batch statistics, which follow
    the new domain) or ``eval`` (the teacher's statistics; steadier on some data)."""


class ReContrast(Detector):
    """Frozen teacher, trainable encoder, bottleneck, decoder and heads.

    Parameters
    ----------
    teacher
        Built and loaded; it is frozen here, and a copy of it trained.
    settings
        Its section of a config.
    """

    section = ReContrastConfig
    source = "Guo et al., NeurIPS 2023"
    monitor: CollapseMonitor

    def __init__(self, teacher: Teacher, settings: ReContrastConfig) -> None:
        super().__init__()
        self.settings = settings
        self.teacher = teacher
        self.encoder = copy.deepcopy(teacher).requires_grad_(True)
        self.bottleneck, self.decoder = reverse_student(teacher)
        self.heads = nn.ModuleList(_heads(teacher.channels) for _ in range(2))
        if settings.encoder_batch_norm == "eval":
            self.frozen_batchnorm = (self.encoder,)
        self.monitor = CollapseMonitor()
        self.size_multiple = 2 * teacher.strides[-1]
        self.freeze(teacher)
        self.train()

    def teacher_loaded(self) -> None:
        """The trainable encoder starts as the teacher."""
        self.encoder.load_state_dict(self.teacher.state_dict())

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Six targets and six reconstructions of (B, 3, H, W) images.

        First come the frozen encoder's three levels with their reconstruction from the trainable
        one, then the trainable encoder's with their reconstruction from the frozen one.
        """
        with torch.no_grad():
            frozen = self.teacher(images)
        adapted = self.encoder(images)
        both = [torch.cat(pair) for pair in zip(adapted, frozen, strict=True)]
        count = images.shape[0]  # chunk(2) and len() would tie an exported graph to one batch size
        levels = self.decoder(self.bottleneck(both))
        halves = [(level[:count], level[count:]) for level in levels]
        outputs = [
            head(half[view])
            for view, heads in enumerate(self.heads)
            for head, half in zip(cast(nn.ModuleList, heads), halves, strict=True)
        ]
        return [*frozen, *adapted], outputs

    def contrastive_loss(self, batch: Batch) -> Tensor:
        """Half the sum over both directions and all levels of the mined distance, in [0, 6]."""
        targets, outputs = self.features(batch.images)
        self.monitor.see("trained encoder", targets[3:], targets[:3])
        alpha = hardness(batch.progress)
        distances = [
            mined_distance(target, output, alpha)
            for target, output in zip(targets, outputs, strict=True)
        ]
        return torch.stack(distances).sum() / 2

    def steps(self) -> list[Step]:
        """One: AdamW with a learning rate for the encoder and one for the rest."""
        settings = self.settings
        return [
            Step(
                name="recontrast",
                groups=[
                    group(self.bottleneck, self.decoder, self.heads),
                    group(self.encoder, lr=settings.encoder_lr),
                ],
                optimizer=OptimizerSpec(
                    "adamw",
                    {"lr": settings.lr, "weight_decay": settings.weight_decay},
                ),
                loss=self.contrastive_loss,
            )
        ]

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Sum of the six cosine distances, in [0, 12]: (B, H, W) float32."""
        return summed_map(*self.features(images), images)


def hardness(progress: float) -> float:
    """Alpha at this share of the training."""
    start, end = ALPHA
    return start + (end - start) * min(progress / RAMP, 1.0)


def mined_distance(target: Tensor, output: Tensor, alpha: float) -> Tensor:
    """Mean over images of 1 - cosine of the flattened levels; easy points get no gradient.

    (B, C, H, W) x 2 -> scalar. Its value does not depend on ``alpha``. A point is easy if its own
    cosine distance is below mean + alpha x std of all points of the level, batch included.
    """
    target = target.detach()
    with torch.no_grad():
        distance = pixel_distance(target, output)
        easy = distance < distance.mean() + alpha * distance.std()
    gated = torch.where(easy[:, None], output.detach(), output)
    return global_distance(target, gated).mean()


def _heads(channels: Sequence[int]) -> nn.ModuleList:
    """A 1x1 convolution for each level, initialised as in the released code."""
    heads = nn.ModuleList(nn.Conv2d(width, width, 1) for width in channels)
    for head in heads:
        if isinstance(head, nn.Conv2d):
            nn.init.kaiming_normal_(head.weight, mode="fan_out", nonlinearity="relu")
    return heads
