"""Add neighbouring slices and pixel positions to the channels of a slice (2.5D)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medrd.config import ChannelLayout


def neighbour_indices(
    positions_mm: NDArray[np.float64], offsets_mm: tuple[float, ...]
) -> NDArray[np.int64]:
    """The slice nearest to each slice's position plus each offset: (S,), (K,) -> (S, K).

    Beyond the ends it is the outermost slice; on a tie, the one nearer to the slice itself.
    """
    wanted = positions_mm[:, None] + np.asarray(offsets_mm)
    away = np.abs(wanted[:, :, None] - positions_mm)
    # A slice thicker than an offset is its own neighbour, on both sides.
    ties = 1e-6 * np.abs(positions_mm[:, None, None] - positions_mm)
    return np.asarray((away + ties).argmin(axis=2), np.int64)


def stacked(
    images: NDArray[np.float32], positions_mm: NDArray[np.float64], layout: ChannelLayout
) -> NDArray[np.float32]:
    """Slices (S, M, H, W) in the order of one stack -> (S, C, H, W) in the given layout."""
    parts = [images]
    if len(layout.offsets_mm) > 1:
        beside = neighbour_indices(positions_mm, layout.offsets_mm[1:])
        parts += [images[beside[:, k]] for k in range(beside.shape[1])]
    if layout.place:
        parts.append(places(positions_mm, images.shape[2], images.shape[3]))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def also_shown(
    lesion_slices: NDArray[np.int64],
    numbers: NDArray[np.int64],
    positions_mm: NDArray[np.float64],
    layout: ChannelLayout,
) -> NDArray[np.int64]:
    """``lesion_slices`` and the slices that show one of them as a neighbour, ascending."""
    shown = numbers[neighbour_indices(positions_mm, layout.offsets_mm)]
    return np.union1d(lesion_slices, numbers[np.isin(shown, lesion_slices).any(axis=1)])


def places(positions_mm: NDArray[np.float64], height: int, width: int) -> NDArray[np.float32]:
    """(S, 3, H, W) in [0, 1]: row, distance from the middle column, height in the stack."""
    depth = max(float(np.ptp(positions_mm)), 1e-6)
    rows = np.linspace(0, 1, height)[None, :, None]
    aside = np.abs(np.linspace(-1, 1, width))[None, None, :]
    up = ((positions_mm - positions_mm.min()) / depth)[:, None, None]
    shape = (len(positions_mm), height, width)
    return np.stack([np.broadcast_to(each, shape) for each in (rows, aside, up)], 1).astype(
        np.float32
    )
