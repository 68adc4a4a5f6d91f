"""Linear maps between the worlds of two images, and the files that other programs read.

A map is a (4, 4) float64 matrix from RAS+ mm of the image that is resampled *onto* to RAS+ mm of
the image that is resampled: the direction in which ITK, ANTs and 3D Slicer keep theirs.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medrd.files import write_text

if TYPE_CHECKING:
    import SimpleITK

Matrix = NDArray[np.float64]

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
"""NIfTI's world is RAS+, ITK's LPS+; it is its own inverse."""


def rotation(pitch: float = 0.0, roll: float = 0.0, yaw: float = 0.0) -> Matrix:
    """Turn by degrees about x (nodding), y (tilting) and z (shaking the head), in that order.

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
    """Move by (3,) mm."""
    result = np.eye(4)
    result[:3, 3] = shift_mm
    return result


def about(centre_mm: ArrayLike, linear: Matrix) -> Matrix:
    """A map that leaves ``centre_mm`` where it is."""
    centre = np.asarray(centre_mm, np.float64)
    return translation(centre) @ linear @ translation(-centre)


def apply(matrix: Matrix, points_mm: NDArray) -> NDArray[np.float64]:
    """Map points (N, 3), or one."""
    return np.asarray(points_mm @ matrix[:3, :3].T + matrix[:3, 3], np.float64)


def inverse(matrix: Matrix) -> Matrix:
    """The way back."""
    return np.asarray(np.linalg.inv(matrix), np.float64)


def closest_rigid(matrix: Matrix, centre_mm: ArrayLike) -> Matrix:
    """The rotation of a map without its scales and shears; ``centre_mm`` goes where it went.

    The orthogonal factor of the polar decomposition, which is the closest rotation (Higham,
    "Matrix Procrustes Problems", 1993).
    """
    left, _, right = np.linalg.svd(matrix[:3, :3])
    turn = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    centre = np.asarray(centre_mm, np.float64)
    result = np.eye(4)
    result[:3, :3] = turn
    result[:3, 3] = apply(matrix, centre[None])[0] - turn @ centre
    return result


def scales(matrix: Matrix) -> NDArray[np.float64]:
    """(3,) factors by which lengths change, largest first; 1 for a rigid map."""
    return np.asarray(np.linalg.svd(matrix[:3, :3], compute_uv=False), np.float64)


def angle_degrees(matrix: Matrix) -> float:
    """By how much a map turns."""
    turn = closest_rigid(matrix, np.zeros(3))[:3, :3]
    return math.degrees(math.acos(min(1.0, max(-1.0, (np.trace(turn) - 1) / 2))))


def farthest_mm(first: Matrix, second: Matrix, points_mm: NDArray) -> float:
    """How far apart two maps put any of the points (N, 3)."""
    return float(np.linalg.norm(apply(first - second, points_mm), axis=1).max())


def to_itk(matrix: Matrix) -> SimpleITK.AffineTransform:
    """As ITK has it, in LPS+ mm."""
    import SimpleITK

    lps = _FLIP @ matrix @ _FLIP
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
    result: Matrix = _FLIP @ lps @ _FLIP
    return result


def write_transform(path: Path, matrix: Matrix) -> None:
    """As an ITK transform file (``.tfm``, text), whole or not at all. Raises OutputError.

    Written here: SimpleITK says nothing of a disk that is full, and a file that was cut short
    reads as the identity.
    """
    lps = _FLIP @ matrix @ _FLIP
    numbers = " ".join(repr(float(value)) for value in (*lps[:3, :3].ravel(), *lps[:3, 3]))
    write_text(
        path,
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: 0 0 0\n",
    )
