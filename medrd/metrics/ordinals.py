"""Whole numbers in the order of float32 numbers, so that scores can be counted and cut.

The bits of a float32 of either sign, read as an integer, ascend with its magnitude. With the
sign put in front, every finite number has an integer of its own in the same order, neighbours
differ by one, and -0.0 and 0.0 are both 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = -0x7F7FFFFF, 0x7F7FFFFF
"""Of the finite numbers."""


def to_ordinals(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Finite float32 to int32, of any shape."""
    bits = np.asarray(values, dtype=np.float32).view(np.int32)
    sign = bits >> 31  # -1 for a negative number, else 0
    # -(bits without the sign) for negative numbers; np.where would take many times as long.
    ordinals: NDArray[np.int32] = (bits ^ (sign & 0x7FFFFFFF)) - sign
    return ordinals


def from_ordinals(ordinals: NDArray[np.integer]) -> NDArray[np.float32]:
    """Undo :func:`to_ordinals`; 0 becomes 0.0."""
    ordinals = np.asarray(ordinals, dtype=np.int32)
    magnitudes = np.abs(ordinals).view(np.float32)
    return np.where(ordinals < 0, -magnitudes, magnitudes)
