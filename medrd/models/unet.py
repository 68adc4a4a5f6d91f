"""The U-Net of DAE: weight-standardised convolutions, SiLU, then group norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StandardisedConv(nn.Conv2d):
    """A 3x3 convolution with reflection padding; filters are scaled to mean 0 and deviation 1.

    Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight
    Standardization", 2019.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        std, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (std + 1e-5), self.bias)


def group_count(channels: int) -> int:
    """The median divisor (the upper of two): 8 for 64 and 32 for 512 channels."""
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    return divisors[len(divisors) // 2]


def _pair(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [
            StandardisedConv(width, outputs),
            nn.SiLU(inplace=True),
            nn.GroupNorm(group_count(outputs), outputs),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """A U-Net from images to images.

    Parameters
    ----------
    channels
        Channels of input and output.
    base
        Channels of the first level; each deeper level has twice as many.
    depth
        Number of levels; between them the size is halved, ``depth - 1`` times.
    """

    def __init__(self, channels: int, *, base: int, depth: int) -> None:
        super().__init__()
        widths = [base * 2**level for level in range(depth)]
        self.down = nn.ModuleList(
            _pair(a, b) for a, b in zip([channels, *widths], widths, strict=False)
        )
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 2, 2) for width in widths[-2::-1]
        )
        self.up = nn.ModuleList(_pair(2 * width, width) for width in widths[-2::-1])
        self.last = nn.Conv2d(base, channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape; sides are multiples of ``2 ** (depth - 1)``."""
        skips: list[Tensor] = []
        x = images
        for number, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if number else x)
            skips.append(x)
        skips.pop()
        for enlarge, block in zip(self.enlarge, self.up, strict=True):
            x = block(torch.cat([enlarge(x), skips.pop()], dim=1))
        result: Tensor = self.last(x)
        return result
