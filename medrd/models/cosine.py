"""Cosine distances between feature levels, always in float32.

In bfloat16 a cosine near 1 has steps of 1/256: most of a trained map would vanish.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def global_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of the flattened levels: (B, C, H, W) x 2 -> (B,)."""
    return 1 - F.cosine_similarity(a.float().flatten(1), b.float().flatten(1), dim=1)


def pixel_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine over channels at each position: (B, C, H, W) x 2 -> (B, H, W)."""
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=1)


def summed_distance(
    a: Sequence[Tensor], b: Sequence[Tensor], form: Literal["global", "pixel"] = "global"
) -> Tensor:
    """Sum over levels of the mean distance, of flattened levels or per position: a scalar."""
    distance = global_distance if form == "global" else pixel_distance
    return torch.stack([distance(x, y).mean() for x, y in zip(a, b, strict=True)]).sum()


def summed_map(a: Sequence[Tensor], b: Sequence[Tensor], images: Tensor) -> Tensor:
    """Per-position distances of all levels, each resized to the images, summed: (B, H, W).

    Bilinear with ``align_corners=True`` as in RD4AD's released code.
    """
    size = (images.shape[-2], images.shape[-1])
    total: Tensor | None = None
    for level_a, level_b in zip(a, b, strict=True):
        distance = pixel_distance(level_a, level_b)[:, None]
        level = F.interpolate(distance, size=size, mode="bilinear", align_corners=True)
        total = level if total is None else total + level
    if total is None:
        raise ValueError("no feature levels to compare")
    return total[:, 0]


def resized(distances: Tensor, like: Tensor) -> Tensor:
    """Bilinear with ``align_corners=False``: (B, h, w), (B, C, H, W) -> (B, H, W)."""
    size = (like.shape[-2], like.shape[-1])
    return F.interpolate(distances[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
