"""The exact mapping between a scan's own grid and the stack of square slices for the network.

MONAI's invertible transforms turn, pad, crop and resize, and undo it; so does torch alone, with the
same result up to rounding. MONAI is imported inside a function: that takes seconds, and neither a
training from the cache nor a prediction needs it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from medrd.data.brains.torch_moves import TorchMoves, reoriented, reoriented_shape

Axis = Literal["axial", "coronal", "sagittal"]

# Stack axis first, then rows downwards and columns rightwards, so that every slice stands
# upright: axial and coronal in radiological convention (the patient's left on the right),
# sagittal with the nose to the left.
_AXCODES: dict[Axis, str] = {"axial": "SPL", "coronal": "AIL", "sagittal": "RIP"}


class Moves(Protocol):
    """The transforms from a volume to its slices and back, linear or nearest in the plane.

    Attributes
    ----------
    affine
        From (slice, row, column) to world coordinates in mm.
    """

    affine: NDArray[np.float64]

    def forward(self, array: NDArray[Any]) -> NDArray[Any]:
        """(X, Y, Z) -> (S, size, size), in its own memory."""
        ...

    def back(self, stack: NDArray[np.float32]) -> NDArray[np.float32]:
        """(S, size, size) -> (X, Y, Z); 0 beyond the slices."""
        ...


@dataclass(frozen=True, eq=False)
class SliceGeometry:
    """The relation between a volume's grid and its stack of slices.

    Parameters
    ----------
    shape, affine
        Shape (three dimensions) and affine (4x4) of the volume.
    axis
        The anatomical axis of the stack.
    crop
        Rows and columns (start, stop) of the oriented volume that the slices show; they may
        extend beyond it.
    size
        Side of a slice in pixels.
    quick
        Transform with torch instead of MONAI, with the same result up to rounding.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    axis: Axis
    crop: tuple[tuple[int, int], tuple[int, int]]
    size: int
    quick: bool = False

    @classmethod
    def around(
        cls,
        brain: NDArray[np.bool_],
        affine: NDArray[np.float64],
        *,
        axis: Axis,
        field_mm: float,
        size: int,
        quick: bool = False,
    ) -> SliceGeometry:
        """Slices that show a square of ``field_mm`` around the centre of the brain's bounding
        box."""
        shape = (brain.shape[0], brain.shape[1], brain.shape[2])
        stack, stack_affine = reoriented(brain.astype(np.uint8), affine, _AXCODES[axis])
        spacing = np.linalg.norm(stack_affine[:3, :3], axis=0)
        crop = []
        for dim in (1, 2):
            other = tuple(d for d in range(3) if d != dim)
            inside = np.flatnonzero(stack.any(axis=other))
            first, last = (inside[0], inside[-1]) if inside.size else (0, stack.shape[dim] - 1)
            middle = (int(first) + int(last) + 1) / 2
            count = max(1, round(field_mm / float(spacing[dim])))
            start = math.floor(middle - count / 2 + 0.5)
            crop.append((start, start + count))
        return cls(shape, affine, axis, (crop[0], crop[1]), size, quick)

    def to_slices(self, array: NDArray[Any], *, nearest: bool = False) -> NDArray[np.float32]:
        """Resample a volume (X, Y, Z) to a stack (S, size, size), linear or nearest in the
        plane."""
        result: NDArray[np.float32] = self._moves(nearest).forward(array)
        return result

    def to_volume(self, stack: NDArray[Any], *, nearest: bool = False) -> NDArray[np.float32]:
        """Put a stack (S, size, size) back on the volume's grid (X, Y, Z); 0 beyond the slices.

        The first axis varies fastest in memory, as in NIfTI files.
        """
        return np.asfortranarray(self._moves(nearest).back(np.array(stack, np.float32)))

    def oriented(self, array: NDArray[Any]) -> NDArray[Any]:
        """Reorient a volume: the stack's axis first, slices upright, voxel values unchanged."""
        return reoriented(array, self.affine, _AXCODES[self.axis])[0]

    @property
    def depth(self) -> int:
        """Number of slices in the stack."""
        return reoriented_shape(self.shape, self.affine, _AXCODES[self.axis])[0]

    @property
    def slices_affine(self) -> NDArray[np.float64]:
        """Affine from (slice, row, column) of the stack to world coordinates in RAS+ mm."""
        return self._nearest.affine

    @property
    def pixel_area_mm2(self) -> float:
        """Area of one pixel of a slice."""
        rows, columns = self.slices_affine[:3, 1], self.slices_affine[:3, 2]
        return float(np.linalg.norm(np.cross(rows, columns)))

    @property
    def slice_distance_mm(self) -> float:
        """Distance between the centres of two neighbouring slices."""
        return float(np.linalg.norm(self.slices_affine[:3, 0]))

    def share_inside(self, brain: NDArray[np.bool_]) -> float:
        """Share of the brain's voxels that the slices show."""
        oriented = self.oriented(brain.astype(np.uint8))
        (top, bottom), (left, right) = self.crop
        shown = oriented[:, max(0, top) : bottom, max(0, left) : right]
        whole = int(np.count_nonzero(oriented))
        return int(np.count_nonzero(shown)) / max(1, whole)

    def _moves(self, nearest: bool) -> Moves:
        return self._nearest if nearest else self._linear

    @cached_property
    def _linear(self) -> Moves:
        return self._make(nearest=False)

    @cached_property
    def _nearest(self) -> Moves:
        return self._make(nearest=True)

    def _make(self, *, nearest: bool) -> Moves:
        place = (self.shape, self.affine, _AXCODES[self.axis], self.crop, self.size)
        if self.quick:
            return TorchMoves(*place, nearest=nearest)
        from medrd.data.brains.monai_moves import MonaiMoves

        return MonaiMoves(*place, nearest=nearest)
