"""Linear maps between the world coordinates of two images, and ITK transform files.

A map is a (4, 4) float64 matrix from RAS+ mm of the fixed image (resampled *onto*) to RAS+ mm of
the moving image (resampled), the same direction as in ITK, ANTs and 3D Slicer.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine, from_matvec
from numpy.typing import ArrayLike, NDArray

from medrd.files import write_text
from medrd.images.geometry import RAS_TO_LPS

if TYPE_CHECKING:
    import SimpleITK

Matrix = NDArray[np.float64]


def rotation(pitch: float = 0.0, roll: float = 0.0, yaw: float = 0.0) -> Matrix:
    """Rotation in degrees about x (nodding), y (tilting) and z (shaking the head), in that order.

    >>> rotation(yaw=90)[:3, :3].round().astype(int).tolist()
    [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    """
    result = np.eye(4)
    for axis, degrees in enumerate((pitch, roll, yaw)):
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(4)
        turn[i, i] = turn[j, j] = cosine
        turn[i, j], turn[j, i] = -sine, sine
        result = turn @ result
    return result


def translation(shift_mm: ArrayLike) -> Matrix:
    """Translation by (3,) mm."""
    return np.asarray(from_matvec(np.eye(3), shift_mm), np.float64)


def about(centre_mm: ArrayLike, linear: Matrix) -> Matrix:
    """The map that applies ``linear`` about the fixed point ``centre_mm``."""
    centre = np.asarray(centre_mm, np.float64)
    return translation(centre) @ linear @ translation(-centre)


def inverse(matrix: Matrix) -> Matrix:
    """The inverse map."""
    return np.asarray(np.linalg.inv(matrix), np.float64)


def closest_rigid(matrix: Matrix, centre_mm: ArrayLike) -> Matrix:
    """The rigid part of a map, without scales and shears; ``centre_mm`` is mapped as before.

    Its rotation is the orthogonal factor of the polar decomposition, the closest one (Higham,
    "Matrix Procrustes Problems", 1993).
    """
    left, _, right = np.linalg.svd(matrix[:3, :3])
    turn = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    centre = np.asarray(centre_mm, np.float64)
    return np.asarray(from_matvec(turn, apply_affine(matrix, centre) - turn @ centre), np.float64)


def scales(matrix: Matrix) -> NDArray[np.float64]:
    """(3,) scale factors of lengths, largest first; 1 for a rigid map."""
    return np.asarray(np.linalg.svd(matrix[:3, :3], compute_uv=False), np.float64)


def angle_degrees(matrix: Matrix) -> float:
    """Rotation angle of a map, in degrees."""
    turn = closest_rigid(matrix, np.zeros(3))[:3, :3]
    return math.degrees(math.acos(min(1.0, max(-1.0, (np.trace(turn) - 1) / 2))))


def to_itk(matrix: Matrix) -> SimpleITK.AffineTransform:
    """Convert to an ITK transform, in LPS+ mm."""
    import SimpleITK

    lps = RAS_TO_LPS @ matrix @ RAS_TO_LPS
    result = SimpleITK.AffineTransform(3)
    result.SetMatrix(lps[:3, :3].ravel().tolist())
    result.SetTranslation(lps[:3, 3].tolist())
    return result


def from_itk(transform: SimpleITK.Transform) -> Matrix:
    """The inverse of :func:`to_itk`, for any linear transform."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    lps = np.eye(4)
    lps[:3, 3] = origin
    for axis in range(3):
        unit = [0.0, 0.0, 0.0]
        unit[axis] = 1.0
        lps[:3, axis] = np.array(transform.TransformPoint(unit)) - origin
    result: Matrix = RAS_TO_LPS @ lps @ RAS_TO_LPS
    return result


def write_transform(path: Path, matrix: Matrix) -> None:
    """Write an ITK transform file (``.tfm``, text) atomically. Raises OutputError.

    SimpleITK is not used, because it does not report a full disk, and reads a truncated file as the
    identity.
    """
    lps = RAS_TO_LPS @ matrix @ RAS_TO_LPS
    numbers = " ".join(repr(float(value)) for value in (*lps[:3, :3].ravel(), *lps[:3, 3]))
    write_text(
        path,
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: 0 0 0\n",
    )
