"""EfficientNet-Lite0, the embedded teacher, without timm.

It has the tensor names, initial weights and, bit for bit, the features of timm's
``tf_efficientnet_lite0`` (Tan & Le, ICML 2019; the Lite variant has no squeeze-and-excitation, and
ReLU6 instead of swish). Importing timm takes seconds, because it also imports torchvision and
``torch._dynamo``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

NAME = "tf_efficientnet_lite0"
_STEM = 32
_STAGES = (
    # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class Lite0Levels:
    """Levels of features, as timm's ``FeatureInfo`` describes them."""

    stages: tuple[int, ...]

    def channels(self) -> list[int]:
        """Number of channels of each level."""
        return [_STAGES[stage][-1] for stage in self.stages]

    def reduction(self) -> list[int]:
        """Stride of each level."""
        return [2 * math.prod(stage[2] for stage in _STAGES[: last + 1]) for last in self.stages]

    def module_name(self) -> list[str]:
        """Name of the module behind each level."""
        return [f"blocks.{stage}" for stage in self.stages]


class Lite0(nn.Module):
    """The stages of the network, whose levels are the last stages before each halving.

    Parameters
    ----------
    out_indices
        Which of the five levels to return: strides 2, 4, 8, 16 and 32.
    """

    def __init__(self, out_indices: Sequence[int] = range(5)) -> None:
        super().__init__()
        last = [i for i, (_, after) in enumerate(pairwise(_STAGES)) if after[2] == 2]
        levels = [*last, len(_STAGES) - 1]
        self.feature_info = Lite0Levels(tuple(levels[index] for index in out_indices))
        self.conv_stem = _conv(3, _STEM, 3, stride=2)
        self.bn1 = _norm(_STEM)
        # timm constructs a layer here that the network does not use. Without its random numbers, a
        # seed would give other weights than with timm.
        for _ in range(2):
            nn.Conv2d(8, 8, 1)
        stages, width = [], _STEM
        for count, kernel, stride, expansion, channels in _STAGES:
            blocks: list[nn.Module] = []
            for number in range(count):
                step = stride if number == 0 else 1
                if expansion == 1:
                    blocks.append(_Separable(width, channels, kernel, step))
                else:
                    blocks.append(_Inverted(width, channels, kernel, step, expansion))
                width = channels
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> levels (B, C_l, H / stride_l, W / stride_l)."""
        x, levels = _relu6(self.bn1(self.conv_stem(images))), []
        for number, stage in enumerate(self.blocks):
            x = stage(x)
            if number in self.feature_info.stages:
                levels.append(x)
        return levels


class _Separable(nn.Module):
    """A depthwise convolution and a 1x1 convolution; no shortcut, as the width changes."""

    def __init__(self, width: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = _conv(width, width, kernel, stride=stride, groups=width)
        self.bn1 = _norm(width)
        self.conv_pw = _conv(width, channels, 1)
        self.bn2 = _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = _relu6(self.bn1(self.conv_dw(x)))
        result: Tensor = self.bn2(self.conv_pw(x))
        return result


class _Inverted(nn.Module):
    """An inverted residual block, with a shortcut if input and output have the same shape."""

    def __init__(self, width: int, channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = width * expansion
        self.conv_pw = _conv(width, wide, 1)
        self.bn1 = _norm(wide)
        self.conv_dw = _conv(wide, wide, kernel, stride=stride, groups=wide)
        self.bn2 = _norm(wide)
        self.conv_pwl = _conv(wide, channels, 1)
        self.bn3 = _norm(channels)
        self.shortcut = stride == 1 and width == channels

    def forward(self, x: Tensor) -> Tensor:
        inner = _relu6(self.bn1(self.conv_pw(x)))
        inner = _relu6(self.bn2(self.conv_dw(inner)))
        inner = self.bn3(self.conv_pwl(inner))
        return inner + x if self.shortcut else inner


class _ConvSame(nn.Conv2d):
    """A strided convolution that pads as TensorFlow does: an odd pixel goes to the far side."""

    def forward(self, input: Tensor) -> Tensor:
        size, stride = self.kernel_size[0], self.stride[0]
        padding = []
        for length in (input.shape[-1], input.shape[-2]):
            total = max((math.ceil(length / stride) - 1) * stride + size - length, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(input, padding))


def _conv(width: int, channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride == 1:
        return nn.Conv2d(width, channels, kernel, 1, kernel // 2, groups=groups, bias=False)
    return _ConvSame(width, channels, kernel, stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _relu6(x: Tensor) -> Tensor:
    return F.relu6(x, inplace=True)
