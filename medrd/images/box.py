"""The part of an array that something is in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def bounding_box(shown: NDArray[np.bool_], margin: int = 0) -> tuple[slice, ...]:
    """The box around all that is True, wider by a margin as far as there are voxels.

    All of the array where nothing is True.

    >>> bounding_box(np.array([False, True, True, False, False, False]), margin=1)
    (slice(0, 4, None),)
    """
    (found,) = ndimage.find_objects(shown.astype(np.uint8)) or [None]
    box = found or tuple(slice(0, n) for n in shown.shape)
    return tuple(
        slice(max(0, part.start - margin), min(n, part.stop + margin))
        for part, n in zip(box, shown.shape, strict=True)
    )
