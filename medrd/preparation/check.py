"""What a raw scan must be before anything is made of it, and which part of its field it shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medrd.errors import EmptyBrainError, ShapeError, WrongKindError
from medrd.images.geometry import format_shape
from medrd.images.volume import Volume

_LEAST_VOXELS, _LEAST_MM = 4, 40.0
"""Along each axis: what filters and splines need, and less than any part of a head in use."""
_MOST_NEGATIVE = 0.05
"""Of the 99th percentile. Resampling with splines rings by less; CT and z-scores go far below."""


def checked(volume: Volume) -> Volume:
    """A scan that can be worked on: as it is, or with a little ringing below 0 taken off.

    Raises
    ------
    ShapeError
        A slice or two: nothing to register.
    WrongKindError
        Values well below 0: no MRI magnitude.
    EmptyBrainError
        Nothing that varies.
    """
    where = volume.path or "volume"
    extent_mm = np.array(volume.shape) * volume.spacing_mm
    if min(volume.shape) < _LEAST_VOXELS or extent_mm.min() < _LEAST_MM:
        edges = " × ".join(f"{mm:.0f}" for mm in extent_mm)
        raise ShapeError(
            where,
            expected=f"a head: at least {_LEAST_VOXELS} voxels and {_LEAST_MM:.0f} mm along every "
            "axis",
            found=f"{format_shape(volume.shape)} voxels, {edges} mm",
            remedy="Give the whole scan.",
        )
    low, high = np.percentile(volume.array, (1, 99))
    if low < -_MOST_NEGATIVE * max(high, 0.0):
        raise WrongKindError(
            where,
            expected="an MRI scan, whose values are not below 0",
            found=f"values from {low:.4g} to {high:.4g} (1st and 99th percentile), as in CT or "
            "after another program's scaling",
            remedy="Give the scan as the scanner made it.",
        )
    below = np.count_nonzero(volume.array < 0)
    if below:
        note = f"{below:,} voxels were a little below 0, as resampling leaves them, and became 0."
        volume = replace(
            volume, array=np.maximum(volume.array, 0), warnings=(*volume.warnings, note)
        )
    if volume.array.min() == volume.array.max():
        raise EmptyBrainError(
            where,
            expected="a head",
            found=f"the value {volume.array.flat[0]:.4g} in every voxel",
            remedy="Give another scan of the subject, or leave this one out.",
        )
    return volume


def shown(array: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a scan shows anything: all but what is exactly 0 out to its field's edge.

    Air that a scanner measured is hardly ever exactly 0; slices that were filled up, and what lies
    around a head whose skull was removed, are. A voxel beside what is shown counts as shown:
    outlines of two modalities differ by as much.
    """
    zero = array == 0
    # Beyond the field it is as at its edge.
    regions, _ = ndimage.label(np.pad(zero, 1, constant_values=True))
    outside = ndimage.binary_erosion(regions == regions[0, 0, 0], border_value=1)
    result: NDArray[np.bool_] = ~outside[1:-1, 1:-1, 1:-1]
    return result
