"""A scan inside medrd: voxels, their affine, and the file's grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medrd.errors import GridMismatchError
from medrd.images import geometry
from medrd.images.affine import check_affine
from medrd.images.geometry import Affine, Shape3, format_shape
from medrd.images.grid import Grid, grid_from_affine

__all__ = ["Grid", "Volume", "check_same_grid", "volume_from_array"]

# Copies of one affine through float32 differ by about 1e-5 mm over a head.
_SAME_GRID_TOLERANCE_MM = 1e-3


@dataclass(frozen=True, eq=False)
class Volume:
    """One three-dimensional image.

    Attributes
    ----------
    array
        (X, Y, Z) float32 in the file's own orientation, slope and intercept applied.
    affine
        (4, 4) float64, voxel index to RAS+ mm: the sform if it is coded, else the qform,
        else nibabel's guess from the voxel sizes.
    grid
        The file's raw geometry, to write outputs with.
    path
        The file that it was read from; None for a volume made in memory.
    warnings
        Oddities of the file that did not prevent reading it, one sentence each.
    description
        Series Description of a DICOM series, which may tell its modality; None for others.

    Raises
    ------
    ValueError
        If array, affine and grid do not fit each other.
    """

    array: NDArray[np.float32]
    affine: Affine
    grid: Grid
    path: Path | None = None
    warnings: tuple[str, ...] = ()
    description: str | None = None

    def __post_init__(self) -> None:
        if self.array.dtype != np.float32 or self.array.ndim != 3:
            msg = f"expected an (X, Y, Z) float32 array, got {self.array.dtype} {self.array.shape}"
            raise ValueError(msg)
        if self.affine.shape != (4, 4):
            msg = f"expected a (4, 4) affine, got {self.affine.shape}"
            raise ValueError(msg)
        if self.grid.shape[:3] != self.array.shape or max(self.grid.shape[3:], default=1) > 1:
            msg = f"array {self.array.shape} does not fit a grid of {self.grid.shape}"
            raise ValueError(msg)

    @property
    def shape(self) -> Shape3:
        """(X, Y, Z)."""
        x, y, z = self.array.shape
        return x, y, z

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel along X, Y and Z."""
        return geometry.spacing_mm(self.affine)

    @property
    def orientation(self) -> str:
        """The directions of X, Y and Z, for example ``"LPS"``."""
        return geometry.orientation(self.affine)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of a voxel, also of a sheared grid."""
        return abs(float(np.linalg.det(self.affine[:3, :3])))


def volume_from_array(array: ArrayLike, affine: ArrayLike, *, code: int = 1) -> Volume:
    """Wrap voxels that do not come from a NIfTI file (DICOM, phantoms).

    Parameters
    ----------
    array
        (X, Y, Z), cast to float32.
    affine
        (4, 4), voxel index to RAS+ mm. The volume's own affine is this one as NIfTI-1 can
        hold it, in float32, so that writing and reading do not move it.
    code
        NIfTI transform code; 1 is the scanner's own space.

    Raises
    ------
    AffineError
        If the affine is not finite or not invertible.
    """
    voxels = np.asarray(array, dtype=np.float32)
    given = np.asarray(affine, dtype=np.float64)
    check_affine("volume in memory", given, "given affine")
    grid = grid_from_affine(voxels.shape, given, code=code)
    held = np.vstack([grid.sform.astype(np.float64), [0.0, 0.0, 0.0, 1.0]])
    return Volume(array=voxels, affine=held, grid=grid)


def check_same_grid(volumes: Mapping[str, Volume]) -> None:
    """Check that all volumes are on the same grid.

    Parameters
    ----------
    volumes
        Volumes by kind, such as a modality or ``"label"``; the first is the reference.

    Raises
    ------
    GridMismatchError
        If a shape differs, or an affine by more than 1e-3 mm at a corner of the grid.
    """
    named = iter(volumes.items())
    reference_name, reference = next(named, ("", None))
    if reference is None:
        return
    expected = f"the grid of {_described(reference_name, reference)}"
    for name, volume in named:
        if volume.shape != reference.shape:
            raise GridMismatchError(
                volume.path or name,
                expected=f"{expected}, {format_shape(reference.shape)} voxels",
                found=f"{format_shape(volume.shape)} voxels in {_described(name, volume)}",
                remedy="Resample one onto the other's grid first.",
            )
        apart_mm = geometry.max_displacement_mm(volume.affine, reference.affine, volume.shape)
        if not apart_mm <= _SAME_GRID_TOLERANCE_MM:
            raise GridMismatchError(
                volume.path or name,
                expected=expected,
                found=f"{_described(name, volume)} up to {apart_mm:.4g} mm away from it",
                remedy="Register and resample one onto the other's grid first, or, if their "
                "voxels do match, copy the header's geometry from one to the other.",
            )


def _described(name: str, volume: Volume) -> str:
    return f"{name} ({volume.path or 'in memory'})"
