"""Plain facts about voxel-to-world affines: pure functions on (4, 4) matrices in mm.

World coordinates are RAS+ (x to the right, y to the front, z to the head), as in NIfTI.
"""

from __future__ import annotations

import math
from itertools import product

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]
"""(4, 4) float64, voxel index to RAS+ mm."""

Shape3 = tuple[int, int, int]

RAS_TO_LPS: Affine = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns world coordinates of NIfTI (RAS+) into those of DICOM and ITK (LPS+); its own inverse."""

# Cosine of the angle between two voxel axes from which on a grid counts as sheared. Affines
# that went through text with three decimals stay below it; 0.001 moves a voxel at the far
# side of a 240 mm field by a quarter of a millimetre.
SHEAR_TOLERANCE = 1e-3

# Volume of a voxel over the product of its edges: 1 for a box, 0 for three axes in one
# plane. No scanner and no registration gets anywhere near this.
_MIN_RELATIVE_DETERMINANT = 1e-6


def spacing_mm(affine: Affine) -> tuple[float, float, float]:
    """Edge lengths of a voxel: the norms of the affine's first three columns.

    >>> spacing_mm(np.diag([-1.0, 2.0, 3.0, 1.0]))
    (1.0, 2.0, 3.0)
    """
    x, y, z = (math.hypot(*column) for column in affine[:3, :3].T.tolist())
    return x, y, z


def orientation(affine: Affine) -> str:
    """Direction in which each voxel axis runs, as ``"LPS"``-like axis codes.

    >>> orientation(np.diag([-1.0, -1.0, 1.0, 1.0]))
    'LPS'
    """
    return "".join(str(code) for code in nib.aff2axcodes(affine))


def max_displacement_mm(first: Affine, second: Affine, shape: Shape3) -> float:
    """The largest distance between a grid's points under two affines.

    The difference of two affine maps is affine, so its largest norm over the box is at a
    corner. The corners are half a voxel outside the outer voxel centres, so that the direction
    of an axis matters even if it has only one voxel.
    """
    corners = np.array(
        [(*corner, 1.0) for corner in product(*((-0.5, size - 0.5) for size in shape))]
    )
    return float(np.linalg.norm(corners @ (first - second)[:3].T, axis=1).max())


def is_invertible(affine: Affine) -> bool:
    """True if the affine is finite and maps the grid onto a body with a volume."""
    if not np.isfinite(affine).all():
        return False
    edges_mm = np.asarray(spacing_mm(affine))
    if not (edges_mm > 0).all():
        return False
    # Of unit axes, so that neither tiny nor huge voxels run out of float64's range.
    axes = affine[:3, :3] / edges_mm
    return abs(float(np.linalg.det(axes))) > _MIN_RELATIVE_DETERMINANT


def is_sheared(affine: Affine) -> bool:
    """True if two voxel axes are not at right angles, which ITK cannot represent."""
    axes = affine[:3, :3] / np.asarray(spacing_mm(affine))
    cosines = axes.T @ axes
    return bool(np.abs(cosines[~np.eye(3, dtype=bool)]).max() > SHEAR_TOLERANCE)


def format_shape(shape: tuple[int, ...]) -> str:
    """A shape for people.

    >>> format_shape((240, 240, 155))
    '240 × 240 × 155'
    """
    return " × ".join(str(size) for size in shape)
