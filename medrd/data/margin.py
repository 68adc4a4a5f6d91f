"""Which slices are far enough from any lesion to count as healthy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medrd.errors import ConfigError


def away_from(
    numbers: NDArray[np.int64], positions: NDArray[np.int64], *, margin: int
) -> NDArray[np.bool_]:
    """Which slices lie more than ``margin`` slices from every one of ``positions``: (S,) bool.

    Margin 0 asks for slices that hold no lesion themselves.
    """
    if positions.size == 0:
        return np.ones(numbers.size, bool)
    return np.asarray(np.abs(numbers[:, None] - positions[None]).min(axis=1) > margin)


def none_healthy(side: str, subjects: int, *, wanted: str) -> ConfigError:
    """The error of a side of the split whose subjects have no healthy slice.

    Parameters
    ----------
    side
        ``train`` or ``calibration``.
    wanted
        What was expected of it, in words.
    """
    return ConfigError(
        f"data.split.{side}",
        expected=wanted,
        found=f"{subjects} subjects without one",
        remedy="Give it more subjects, or lower data.healthy_margin.",
    )
