"""Labels: the visible part of a simulated change, as an annotator would outline it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

_ROUNDS = 8
GAP_PX = 2.0
"""Unchanged pixels within this distance of changed ones on all sides count as changed.

The distance is for 256². A shifted texture matches its own grey values here and there. Such
pinholes in a label would teach a network nothing, and few survive resampling to feature maps.
"""


def visible_label(
    before: Tensor,
    after: Tensor,
    within: Tensor,
    *,
    min_change: float,
    gap_px: int,
    min_pixels: int,
) -> Tensor:
    """Outline where two batches of images differ visibly, without pinholes and specks.

    Parameters
    ----------
    before, after
        (B, C, H, W).
    within
        (B, H, W) bool; the label stays inside it.
    min_change
        Smallest visible difference, in the channel that differs most.
    gap_px
        Half the side of the square that closes gaps; 0 closes none.
    min_pixels
        8-connected parts with fewer pixels are left out.

    Returns
    -------
    (B, H, W) bool.
    """
    visible = torch.zeros_like(within)
    for channel in range(before.shape[1]):  # several times as fast as a maximum over channels
        visible |= (after[:, channel] - before[:, channel]).abs_() >= min_change
    visible &= within
    closed = ~dilate(~dilate(visible, gap_px), gap_px) & within
    return without_specks(closed, min_pixels)


def dilate(mask: Tensor, radius_px: int) -> Tensor:
    """Grow (B, H, W) bool by a square of side ``2 radius_px + 1``, less at the borders."""
    for dim in (1, 2):
        for _ in range(radius_px):
            length = mask.shape[dim]
            grown = mask.clone()
            grown.narrow(dim, 0, length - 1).logical_or_(mask.narrow(dim, 1, length - 1))
            grown.narrow(dim, 1, length - 1).logical_or_(mask.narrow(dim, 0, length - 1))
            mask = grown
    return mask


def without_specks(mask: Tensor, min_pixels: int) -> Tensor:
    """(B, H, W) bool less its 8-connected parts of fewer than ``min_pixels`` pixels, exactly.

    On the CPU scipy's run-based labelling is fastest (about 3 ms for 16 slices of 256²). On a
    GPU labels spread by pooling and pointer jumping, so that no picture is copied to the host.
    """
    if min_pixels <= 1:
        return mask
    if mask.device.type == "cpu":
        return torch.from_numpy(large_by_scan(mask.numpy(), min_pixels))
    return large_by_spreading(mask, min_pixels)


def large_by_scan(mask: np.ndarray, min_pixels: int) -> np.ndarray:
    connected = np.zeros((3, 3, 3), bool)
    connected[1] = True  # within a slice, never from one to the next
    parts = ndimage.label(mask, connected)[0]
    at = np.flatnonzero(mask)
    names = parts.ravel()[at]
    small = np.bincount(names) < min_pixels
    kept = mask.copy()
    kept.ravel()[at[small[names]]] = False
    return kept


def large_by_spreading(mask: Tensor, min_pixels: int) -> Tensor:
    """Every pixel takes the largest id in its component, then ids are counted."""
    batch, height, width = mask.shape
    count = height * width
    own = torch.arange(1, count + 1, device=mask.device).reshape(1, height, width)
    # float64 holds every index exactly, which float32 does up to 4096² only
    names = torch.where(mask, own, 0).double()
    for number in itertools.count(1):
        spread = torch.where(mask, F.max_pool2d(names, 3, stride=1, padding=1), 0)
        # An id is a position: take the id that is there now.
        flat = spread.flatten(1)
        there = flat.gather(1, (flat.long() - 1).clamp(min=0))
        spread = torch.where(mask, torch.maximum(flat, there).reshape(mask.shape), 0)
        # Checking makes a GPU wait; a few surplus rounds do no harm.
        if number % _ROUNDS == 0 and torch.equal(spread, names):
            break
        names = spread
    flat = names.flatten(1).long()
    sizes = torch.zeros(batch, count + 1, dtype=torch.long, device=mask.device)
    sizes.scatter_add_(1, flat, torch.ones_like(flat))
    return mask & (sizes.gather(1, flat).reshape(mask.shape) >= min_pixels)


def scaled_pixels(length_px: float, size: int) -> int:
    """A length that is meant for 256², in whole pixels at another size."""
    return round(length_px * size / 256)


def scaled_area(pixels: float, height: int, width: int) -> int:
    """An area that is meant for 256², in pixels at another size; 1 at least."""
    return max(1, math.ceil(pixels * height * width / 256**2))
