"""Guided information injection: a reverse-distillation student that also sees teacher features.

This is the student of RD with Expert (Liu et al., AAAI 2025). Between two stages of the decoder,
details from the teacher are joined to the stage's output, gated by their similarity, so that
anomalous features of the teacher do not pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrd.models.blocks import conv_bn_relu
from medrd.models.student import reverse_student
from medrd.models.teacher import Teacher


class Injection(nn.Module):
    """One injection point, at one level of the teacher.

    Parameters
    ----------
    channels, shallower
        Channels of this level and of the one before it.
    gating
        Mix details and output by their similarity before they are joined.
    """

    def __init__(self, channels: int, shallower: int, *, gating: bool) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(shallower, channels, 1)
        self.details = conv_bn_relu(channels, channels, 3)
        self.gate = conv_bn_relu(channels, channels, 3) if gating else None
        self.join = conv_bn_relu(2 * channels, channels, 3)

    def forward(self, output: Tensor, level: Tensor, shallower: Tensor) -> Tensor:
        """Join the teacher's details to a stage's output: the input of the next stage, same shape.

        Parameters
        ----------
        output
            (B, C, h, w) of the decoder's stage at this level.
        level, shallower
            The teacher's: (B, C, h, w), and the larger one before it.
        """
        size = (level.shape[-2], level.shape[-1])
        smaller = F.interpolate(shallower, size=size, mode="bilinear", align_corners=False)
        added: Tensor = self.details(level + self.reduce(smaller))
        if self.gate is not None:
            likeness = similarity(output, level)
            added = self.gate(added * likeness + output * (1 - likeness))
        joined: Tensor = self.join(torch.cat([output, added], dim=1))
        return joined


@torch.no_grad()
def similarity(output: Tensor, level: Tensor) -> Tensor:
    """Cosine over channels: (B, C, h, w) x 2 -> (B, 1, h, w) in [0, 1], without gradient.

    For features after a ReLU, as in the paper, it is never negative; for other teachers, opposite
    features count as dissimilar (0).
    """
    cosine = F.cosine_similarity(output.float(), level.float(), dim=1)
    return cosine.clamp(min=0)[:, None].to(output.dtype)


class GuidedStudent(nn.Module):
    """RD4AD's bottleneck and decoder with an injection after each stage but the last.

    Its outputs are those of the stages themselves, before the injections. All ``Conv2d`` start
    Xavier-normal, as released; transposed ones keep PyTorch's default.
    """

    def __init__(self, teacher: Teacher, *, gating: bool) -> None:
        super().__init__()
        self.bottleneck, self.decoder = reverse_student(teacher)
        widths = teacher.channels[::-1]
        self.injections = nn.ModuleList(
            Injection(width, shallower, gating=gating) for width, shallower in pairwise(widths)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The teacher's levels, shallow to deep -> outputs of the same number, shapes and order."""
        deepest_first = list(features)[::-1]
        current: Tensor = self.bottleneck(features)
        levels: list[Tensor] = []
        for number, stage in enumerate(self.decoder.stages):
            if number:
                inject = self.injections[number - 1]
                current = inject(current, deepest_first[number - 1], deepest_first[number])
            current = stage(current)
            levels.append(current)
        return levels[::-1]
