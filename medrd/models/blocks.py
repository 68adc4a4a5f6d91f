"""Residual blocks of the reverse-distillation student, down (strided) and up (transposed or
bilinear)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded so that stride 1 keeps the size."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        conv(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def upsample(inputs: int, outputs: int, factor: int) -> nn.Module:
    """A transposed convolution with kernel = stride = factor; a 1x1 convolution for 1."""
    if factor == 1:
        return conv(inputs, outputs, 1)
    return nn.ConvTranspose2d(inputs, outputs, factor, factor, bias=False)


class _Residual(nn.Module):
    """``activation(body(x) + shortcut(x))``."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, *, signed: bool) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.activation = nn.Identity() if signed else nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return result


Block = Callable[..., nn.Module]
"""(inputs, outputs, *, stride, up, signed, bilinear) -> a residual block. At most one of ``stride``
(down by it) and ``up`` (up by it) differs from 1; ``signed`` leaves off the last ReLU; ``bilinear``
enlarges between the convolutions instead of by a transposed one (EDC)."""


def bottleneck(width_ratio: float) -> Block:
    """Bottleneck blocks whose 3x3 convolution has ``width_ratio`` x outputs channels.

    1/4 is ResNet-50's, 1/2 Wide-ResNet-50-2's.
    """

    def build(
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        up: int = 1,
        signed: bool = False,
        bilinear: bool = False,
    ) -> nn.Module:
        width = int(outputs * width_ratio)
        middle: nn.Module
        if up > 1 and bilinear:
            middle = nn.Sequential(_enlarge(up), conv(width, width, 3))
        else:
            middle = upsample(width, width, up) if up > 1 else conv(width, width, 3, stride)
        body = nn.Sequential(
            conv(inputs, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            middle,
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            conv(width, outputs, 1),
            nn.BatchNorm2d(outputs),
        )
        shortcut = _shortcut(inputs, outputs, stride, up, bilinear=bilinear)
        return _Residual(body, shortcut, signed=signed)

    return build


def basic(
    inputs: int,
    outputs: int,
    *,
    stride: int = 1,
    up: int = 1,
    signed: bool = False,
    bilinear: bool = False,
) -> nn.Module:
    """ResNet-18's block: two 3x3 convolutions."""
    transposed = up > 1 and not bilinear
    first = upsample(inputs, outputs, up) if transposed else conv(inputs, outputs, 3, stride)
    body = nn.Sequential(
        first,
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        *([_enlarge(up)] if up > 1 and bilinear else []),
        conv(outputs, outputs, 3),
        nn.BatchNorm2d(outputs),
    )
    shortcut = _shortcut(inputs, outputs, stride, up, bilinear=bilinear)
    return _Residual(body, shortcut, signed=signed)


def _enlarge(factor: int) -> nn.Module:
    return nn.Upsample(scale_factor=factor, mode="bilinear")


def _shortcut(inputs: int, outputs: int, stride: int, up: int, *, bilinear: bool) -> nn.Module:
    if up > 1 and bilinear:
        return nn.Sequential(conv(inputs, outputs, 1), _enlarge(up), nn.BatchNorm2d(outputs))
    if up > 1:
        return nn.Sequential(upsample(inputs, outputs, up), nn.BatchNorm2d(outputs))
    if stride > 1 or inputs != outputs:
        return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
    return nn.Identity()
