"""Helpers for detectors that learn from simulated anomalies: masks at levels, and modes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@torch.no_grad()
def masks_at_levels(mask: Tensor, levels: Sequence[Tensor]) -> list[Tensor]:
    """A mask at the size of each level: (B, H, W) bool -> (B, H_l, W_l) float32, 0 or 1.

    As in RD with Expert's released code, the mask is resized from one level to the next (256, 64,
    32, 16), bilinearly with aligned corners, and cut at 0.5 after each.
    """
    masks, current = [], mask[:, None].float()
    for level in levels:
        size = (level.shape[-2], level.shape[-1])
        current = F.interpolate(current, size=size, mode="bilinear", align_corners=True)
        current = (current >= 0.5).float()
        masks.append(current[:, 0])
    return masks


@contextmanager
def in_eval(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode within the block, then restore its mode."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
