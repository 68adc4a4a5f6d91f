"""Encoder-decoder contrast (EDC): reverse distillation whose encoder adapts to the domain.

Guo, Lu, Jia, Zhang, Li, "Encoder-Decoder Contrast for Unsupervised Anomaly Detection in Medical
Images", IEEE TMI 43(3), 2024, after the released code:

- the pretrained encoder is trained together with the decoder, at a tenth of its learning rate;
- the decoder starts from the encoder's fourth level, without a bottleneck, and reconstructs the
  first three. It mirrors a ResNet, with the same blocks and number of blocks per level, and
  upsamples bilinearly;
- the loss is one cosine per flattened level ("globality"). Targets get no gradient, so the encoder
  learns only through its fourth level, and cannot make its features easy by making them constant;
- all BatchNorm layers follow their data slowly (momentum 0.01).

The encoder's BatchNorm is in train mode for fundus, brain MRI and skin, and in eval mode for OCT;
that is ``encoder_batch_norm`` here. Learning rates are those of the released script for brain MRI
(Br35H). We have read the code and the abstract, not the paper.

Added: the pretrained encoder stays in memory during training, as the reference for detecting a
collapse. Left out: clipping the gradient norm at 1, which hardly affects Adam's steps, and the best
iteration by test labels, which the released scripts print beside the last.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from medrd.models.cosine import pixel_distance, resized, summed_distance
from medrd.models.detector import Batch, Detector, OptimizerSpec, Step, group
from medrd.models.monitors import CollapseMonitor
from medrd.models.settings import ModelSection, Rate, TeacherConfig, Weight
from medrd.models.student import deep_decoder
from medrd.models.teacher import DeepTeacher, Teacher

BATCHNORM_MOMENTUM = 0.01


class EDCConfig(ModelSection):
    """Encoder-decoder contrast, Guo et al., TMI 2024."""

    name: Literal["edc"] = "edc"
    teacher: TeacherConfig = TeacherConfig()
    """What the encoder starts from."""
    lr: Rate = 5e-4
    """Learning rate of the decoder."""
    encoder_lr: Rate = 5e-5
    """Learning rate of the encoder, as released for brain MRI; 1e-5 for other kinds of images."""
    weight_decay: Weight = 1e-4
    """AdamW's betas are PyTorch's defaults, as released."""
    encoder_batch_norm: Literal["train", "eval"] = "train"
    """Mode of the encoder while training: ``train`` (batch statistics, which follow the new
    domain) or ``eval`` (the pretrained statistics)."""


class EDC(Detector):
    """Trained encoder and decoder.

    Parameters
    ----------
    teacher
        A built and loaded teacher with a fourth level. The encoder starts as its copy; the teacher
        itself is frozen, and used only in training.
    settings
        Its section of a config.
    """

    section = EDCConfig
    source = "Guo et al., TMI 2024"
    teacher_kind = DeepTeacher
    monitor: CollapseMonitor
    training_only = ("teacher",)

    def __init__(self, teacher: Teacher, settings: EDCConfig) -> None:
        super().__init__()
        self.settings = settings
        self.teacher = teacher
        self.encoder = copy.deepcopy(teacher).requires_grad_(True)
        self.decoder = deep_decoder(teacher, bilinear=True)
        for network in (self.encoder, self.decoder):
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = BATCHNORM_MOMENTUM
        if settings.encoder_batch_norm == "eval":
            self.frozen_batchnorm = (self.encoder,)
        self.monitor = CollapseMonitor()
        self.size_multiple = teacher.strides[-1]
        self.freeze(teacher)
        self.train()

    def teacher_loaded(self) -> None:
        """The encoder starts as the teacher."""
        self.encoder.load_state_dict(self.teacher.state_dict())

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The encoder's three levels of (B, 3, H, W) images, detached, and the decoder's."""
        *levels, deepest = self.encoder(images)
        return [level.detach() for level in levels], self.decoder(deepest)

    def contrastive_loss(self, batch: Batch) -> Tensor:
        """Sum over levels of the mean cosine distance of the flattened levels, in [0, 6]."""
        targets, outputs = self.features(batch.images)
        if self.training:
            with torch.no_grad():
                self.monitor.see("trained encoder", targets, self.teacher(batch.images)[:3])
        return summed_distance(targets, outputs)

    def steps(self) -> list[Step]:
        """One: AdamW with a learning rate for the encoder and one for the decoder."""
        settings = self.settings
        return [
            Step(
                name="contrast",
                groups=[group(self.decoder), group(self.encoder, lr=settings.encoder_lr)],
                optimizer=OptimizerSpec(
                    "adamw",
                    {"lr": settings.lr, "weight_decay": settings.weight_decay},
                ),
                loss=self.contrastive_loss,
            )
        ]

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Mean of the three levels' cosine distances, in [0, 2]: (B, H, W) float32.

        As released, the levels are averaged at the shallowest level's size, then resized to the
        images.
        """
        targets, outputs = self.features(images)
        maps = [
            resized(pixel_distance(a, b), targets[0]) for a, b in zip(targets, outputs, strict=True)
        ]
        return resized(torch.stack(maps).mean(0), images)
