"""Random changes that leave healthy slices healthy: flips, contrast, brightness, bias fields.

Scanners and lesions both change intensities; docs/flagship.md says what these ranges are worth.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medrd.config import MEDIAN_INTENSITY, AugmentConfig, ChannelLayout
from medrd.simulate.shapes import uniform

_BIAS_POINTS = 3


def augment(
    images: Tensor,
    region: Tensor,
    config: AugmentConfig,
    layout: ChannelLayout,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Change (B, C, H, W) in [0, 1] and (B, H, W) bool, with independent draws for each sample.

    All slices of a stack change alike; positions are not intensities and change only with a flip.
    """
    count, device = len(images), images.device
    modalities = len(layout.modalities)

    def factor(spread: float) -> Tensor:
        """(B, 1, M, 1, 1) between exp(-spread) and exp(spread)."""
        drawn = uniform(generator, count, 1, modalities, 1, 1, low=-spread, high=spread)
        return drawn.exp().to(device)

    # Drawn whether used or not, so that one setting does not change the draws of another.
    turned = (uniform(generator, count) < 0.5).to(device)
    gamma, gain = factor(config.gamma), factor(config.gain)
    points = torch.randn(count, modalities, _BIAS_POINTS, _BIAS_POINTS, generator=generator)
    strength = uniform(generator, count, 1, 1, 1, high=config.bias)

    # If one modality is repeated to three channels, only the first holds its intensities.
    shown = images if layout.intensities < images.shape[1] == 3 else images[:, : layout.intensities]
    stack = shown.unflatten(1, (-1, modalities))
    if config.gamma > 0:
        stack = MEDIAN_INTENSITY * (stack / MEDIAN_INTENSITY) ** gamma  # which does not change
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
