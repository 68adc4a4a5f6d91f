"""The bounding box of a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def bounding_box(shown: NDArray[np.bool_], margin: int = 0) -> tuple[slice, ...]:
    """The box around everything that is True, widened by a margin within the array.

    If nothing is True, the box is the whole array.

    >>> bounding_box(np.array([False, True, True, False, False, False]), margin=1)
    (slice(0, 4, None),)
    """
    (found,) = ndimage.find_objects(shown.astype(np.uint8)) or [None]
    box = found or tuple(slice(0, n) for n in shown.shape)
    return tuple(
        slice(max(0, part.start - margin), min(n, part.stop + margin))
        for part, n in zip(box, shown.shape, strict=True)
    )
