"""Checks of a raw scan before it is prepared, and the part of its field that holds data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medrd.errors import EmptyBrainError, ShapeError, WrongKindError
from medrd.images.geometry import format_shape
from medrd.images.volume import Volume

_LEAST_VOXELS, _LEAST_MM = 4, 40.0
"""Minimum along each axis: enough for filters and splines, and less than any usable scan has."""
_MOST_NEGATIVE = 0.05
"""Lowest accepted value, as a share of the 99th percentile. Ringing of splines is smaller; CT and
z-scores go far below."""


def checked(volume: Volume) -> Volume:
    """Check a scan, and return it with small negative values from ringing set to 0.

    Raises
    ------
    ShapeError
        The scan has too few slices to be registered.
    WrongKindError
        Values are well below 0, so this is not an MR magnitude image.
    EmptyBrainError
        The scan is constant.
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
            remedy="Give the scan as it came from the scanner.",
        )
    below = np.count_nonzero(volume.array < 0)
    if below:
        note = f"{below:,} voxels were a little below 0, as after resampling, and were set to 0."
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
    """Mask of a scan's data: all voxels but exact zeros that extend to the edge of its field.

    Measured air is hardly ever exactly 0; padded slices and the surroundings of a skull-stripped
    head are. Voxels next to data count as data, since the outlines of two modalities differ by as
    much.
    """
    zero = array == 0
    # Everything beyond the field counts as empty.
    regions, _ = ndimage.label(np.pad(zero, 1, constant_values=True))
    outside = ndimage.binary_erosion(regions == regions[0, 0, 0], border_value=1)
    result: NDArray[np.bool_] = ~outside[1:-1, 1:-1, 1:-1]
    return result
