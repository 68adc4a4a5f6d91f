"""Select the slices that are far enough from any lesion to count as healthy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medrd.errors import ConfigError


def away_from(
    numbers: NDArray[np.int64], positions: NDArray[np.int64], *, margin: int
) -> NDArray[np.bool_]:
    """(S,) bool: slices that are more than ``margin`` slices away from all ``positions``.

    Margin 0 excludes only the slices that hold a lesion.
    """
    if positions.size == 0:
        return np.ones(numbers.size, bool)
    return np.asarray(np.abs(numbers[:, None] - positions[None]).min(axis=1) > margin)


def none_healthy(side: str, subjects: int, *, wanted: str) -> ConfigError:
    """The error for a side of the split whose subjects have no healthy slice.

    Parameters
    ----------
    side
        ``train`` or ``calibration``.
    wanted
        The expectation for the error message.
    """
    return ConfigError(
        f"data.split.{side}",
        expected=wanted,
        found=f"none in {subjects} subjects",
        remedy="Give it more subjects, lower data.healthy_margin, or, if some values of the labels "
        "are not lesions, name those that are in data.lesion_labels.",
    )
