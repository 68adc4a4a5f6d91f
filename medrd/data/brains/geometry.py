"""The exact mapping between a scan's own grid and the stack of square slices for the network.

It uses MONAI's invertible transforms for orientation, padding, cropping and resizing. They also
transform the affine, so that each pixel of a slice has a position in scanner coordinates. MONAI is
imported inside the functions: that takes seconds, and a training from the cache needs none of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from monai.transforms import Compose, Orientation

Axis = Literal["axial", "coronal", "sagittal"]

# Stack axis first, then rows downwards and columns rightwards, so that every slice stands
# upright: axial and coronal in radiological convention (the patient's left on the right),
# sagittal with the nose to the left.
_AXCODES: dict[Axis, str] = {"axial": "SPL", "coronal": "AIL", "sagittal": "RIP"}
_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


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
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    axis: Axis
    crop: tuple[tuple[int, int], tuple[int, int]]
    size: int

    @classmethod
    def around(
        cls,
        brain: NDArray[np.bool_],
        affine: NDArray[np.float64],
        *,
        axis: Axis,
        field_mm: float,
        size: int,
    ) -> SliceGeometry:
        """Slices that show a square of ``field_mm`` around the centre of the brain's bounding
        box."""
        shape = (brain.shape[0], brain.shape[1], brain.shape[2])
        oriented = _move(_orientation(axis), brain.astype(np.uint8), affine)
        stack = oriented[0].numpy().astype(bool)
        spacing = np.linalg.norm(np.asarray(oriented.affine)[:3, :3], axis=0)
        crop = []
        for dim in (1, 2):
            other = tuple(d for d in range(3) if d != dim)
            inside = np.flatnonzero(stack.any(axis=other))
            first, last = (inside[0], inside[-1]) if inside.size else (0, stack.shape[dim] - 1)
            middle = (int(first) + int(last) + 1) / 2
            count = max(1, round(field_mm / float(spacing[dim])))
            start = math.floor(middle - count / 2 + 0.5)
            crop.append((start, start + count))
        return cls(shape, affine, axis, (crop[0], crop[1]), size)

    def to_slices(self, array: NDArray[Any], *, nearest: bool = False) -> NDArray[np.float32]:
        """Resample a volume (X, Y, Z) to a stack (S, size, size), linear or nearest in the
        plane."""
        transforms = (self._nearest if nearest else self._linear)[0]
        result: NDArray[np.float32] = _move(transforms, array, self.affine)[0].numpy()
        return result

    def to_volume(self, stack: NDArray[Any], *, nearest: bool = False) -> NDArray[np.float32]:
        """Put a stack (S, size, size) back on the volume's grid (X, Y, Z); 0 beyond the slices."""
        from monai.data import MetaTensor

        transforms, forward = self._nearest if nearest else self._linear
        moved = MetaTensor(
            torch.from_numpy(np.array(stack, np.float32))[None], affine=forward.affine
        )
        # a copy: MONAI removes them as it inverts
        moved.applied_operations = list(forward.applied_operations)
        result: NDArray[np.float32] = transforms.inverse(moved)[0].numpy()
        return np.ascontiguousarray(result)

    def oriented(self, array: NDArray[Any]) -> NDArray[Any]:
        """Reorient a volume: the stack's axis first, slices upright, voxel values unchanged."""
        moved = _move(_orientation(self.axis), array, self.affine)
        result: NDArray[Any] = moved[0].numpy()
        return result

    @property
    def depth(self) -> int:
        """Number of slices in the stack."""
        return self._oriented_extent()[0]

    @property
    def slices_affine(self) -> NDArray[np.float64]:
        """Affine from (slice, row, column) of the stack to world coordinates in RAS+ mm."""
        return np.asarray(self._nearest[1].affine, np.float64)

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

    # MONAI inverts with the transform objects used in the forward direction, so they are kept
    # together with an (empty) image that has passed through them.
    @cached_property
    def _linear(self) -> tuple[Compose, MetaTensor]:
        return self._with_example(self._transforms(nearest=False))

    @cached_property
    def _nearest(self) -> tuple[Compose, MetaTensor]:
        return self._with_example(self._transforms(nearest=True))

    def _with_example(self, transforms: Compose) -> tuple[Compose, MetaTensor]:
        return transforms, _move(transforms, np.zeros(self.shape, np.uint8), self.affine)

    def _transforms(self, nearest: bool) -> Compose:
        from monai.transforms import Compose, Pad, Resize, SpatialCrop

        orientation = _orientation(self.axis)
        extent = self._oriented_extent()
        pad, start, stop = [(0, 0), (0, 0)], [0], [extent[0]]
        for (low, high), length in zip(self.crop, extent[1:], strict=True):
            before, after = max(0, -low), max(0, high - length)
            pad.append((before, after))
            start.append(low + before)
            stop.append(high + before)
        # MONAI annotates one pair but accepts one for each dimension.
        padding = Pad(pad)  # type: ignore[arg-type]
        steps: list[Callable[..., Any]] = [
            orientation,
            padding,
            SpatialCrop(roi_start=start, roi_end=stop),
        ]
        if any(high - low != self.size for low, high in self.crop):
            mode = "nearest-exact" if nearest else "trilinear"
            # No anti-aliasing on the way back up; going down it needs a low-pass filter.
            steps.append(
                Resize(
                    (extent[0], self.size, self.size),
                    mode=mode,
                    align_corners=None if nearest else False,
                    anti_aliasing=not nearest,
                )
            )
        return Compose(steps)

    def _oriented_extent(self) -> Sequence[int]:
        ornt = _permutation(self.axis, self.affine)
        return [self.shape[d] for d in ornt]


def _permutation(axis: Axis, affine: NDArray[np.float64]) -> list[int]:
    """The volume's axis behind each axis of the oriented stack."""
    import nibabel as nib

    wanted = [next(i for i, pair in enumerate(_LABELS) if code in pair) for code in _AXCODES[axis]]
    has = [int(row[0]) for row in nib.orientations.io_orientation(affine)]
    return [has.index(world) for world in wanted]


def _orientation(axis: Axis) -> Orientation:
    from monai.transforms import Orientation

    return Orientation(axcodes=_AXCODES[axis], labels=_LABELS)


def _move(
    transform: Callable[..., Any], array: NDArray[Any], affine: NDArray[np.float64]
) -> MetaTensor:
    """Apply a MONAI transform to an (X, Y, Z) array with its affine; the channel stays first."""
    from monai.data import MetaTensor

    # A copy: if nothing has to change, MONAI would return the caller's own memory.
    tensor = torch.from_numpy(np.array(array, order="C"))[None]
    moved: MetaTensor = transform(MetaTensor(tensor, affine=torch.from_numpy(affine)))
    return moved
