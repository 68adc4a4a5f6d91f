"""Random changes of healthy slices that leave them healthy: sides, contrast, brightness, bias.

What differs between scanners and what a lesion changes are both intensities; see docs/flagship.md
for what these ranges are worth.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medrd.config import MEDIAN_INTENSITY, AugmentConfig, Layout
from medrd.simulate.shapes import uniform

_BIAS_POINTS = 3


def augment(
    images: Tensor,
    region: Tensor,
    config: AugmentConfig,
    layout: Layout,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) in [0, 1] and (B, H, W) bool, each sample changed by draws of its own.

    All slices of a stack change alike; places are not intensities and only turn with a flip.
    """
    count, device = len(images), images.device
    modalities = len(layout.modalities)

    def factor(spread: float) -> Tensor:
        """(B, 1, M, 1, 1) between exp(-spread) and exp(spread)."""
        drawn = uniform(generator, count, 1, modalities, 1, 1, low=-spread, high=spread)
        return drawn.exp().to(device)

    # Drawn whether used or not: one setting does not move what another draws.
    turned = (uniform(generator, count) < 0.5).to(device)
    gamma, gain = factor(config.gamma), factor(config.gain)
    points = torch.randn(count, modalities, _BIAS_POINTS, _BIAS_POINTS, generator=generator)
    strength = uniform(generator, count, 1, 1, 1, high=config.bias)

    # What has been repeated to three equal channels has no more intensities than its first.
    shown = images if layout.intensities < images.shape[1] == 3 else images[:, : layout.intensities]
    stack = shown.unflatten(1, (-1, modalities))
    if config.gamma > 0:
        stack = MEDIAN_INTENSITY * (stack / MEDIAN_INTENSITY) ** gamma  # which stays as it is
    if config.gain > 0:
        stack = stack * gain
    if config.bias > 0:
        field = F.interpolate(
            (points * strength).to(device), images.shape[2:], mode="bicubic", align_corners=True
        )
        stack = stack * field.exp()[:, None]
    changed = torch.cat([stack.flatten(1, 2).clamp(0, 1), images[:, shown.shape[1] :]], dim=1)
    if config.flip:
        changed = torch.where(turned[:, None, None, None], changed.flip(-1), changed)
        region = torch.where(turned[:, None, None], region.flip(-1), region)
    last = images.is_contiguous(memory_format=torch.channels_last)
    return changed.contiguous(
        memory_format=torch.channels_last if last else torch.contiguous_format
    ), region
