"""The transforms between a volume and its stack of slices, with MONAI.

They also transform the affine, so that each pixel of a slice has a position in scanner coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation, Pad, Resize, SpatialCrop
from numpy.typing import NDArray

from medrd.data.brains.torch_moves import reoriented_shape

_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


class MonaiMoves:
    """See :class:`medrd.data.brains.geometry.Moves`."""

    def __init__(
        self,
        shape: Sequence[int],
        affine: NDArray[np.float64],
        axcodes: str,
        crop: Sequence[tuple[int, int]],
        size: int,
        *,
        nearest: bool,
    ) -> None:
        self._own_affine = affine
        extent = reoriented_shape(shape, affine, axcodes)
        self._transforms = _transforms(axcodes, crop, extent, size, nearest=nearest)
        # MONAI inverts with the transform objects used in the forward direction, so they are kept
        # together with an (empty) image that has passed through them.
        self._example = _move(self._transforms, np.zeros(shape, np.uint8), affine)
        self.affine = np.asarray(self._example.affine, np.float64)

    def forward(self, array: NDArray[Any]) -> NDArray[Any]:
        """(X, Y, Z) -> (S, size, size)."""
        result: NDArray[Any] = _move(self._transforms, array, self._own_affine)[0].numpy()
        return result

    def back(self, stack: NDArray[np.float32]) -> NDArray[np.float32]:
        """(S, size, size) -> (X, Y, Z)."""
        moved = MetaTensor(torch.from_numpy(stack)[None], affine=self._example.affine)
        # a copy: MONAI removes them while inverting
        moved.applied_operations = list(self._example.applied_operations)
        result: NDArray[np.float32] = self._transforms.inverse(moved)[0].numpy()
        return result


def _transforms(
    axcodes: str,
    crop: Sequence[tuple[int, int]],
    extent: Sequence[int],
    size: int,
    *,
    nearest: bool,
) -> Compose:
    pad, start, stop = [(0, 0), (0, 0)], [0], [extent[0]]
    for (low, high), length in zip(crop, extent[1:], strict=True):
        before, after = max(0, -low), max(0, high - length)
        pad.append((before, after))
        start.append(low + before)
        stop.append(high + before)
    # MONAI annotates one pair but accepts one for each dimension.
    padding = Pad(pad)  # type: ignore[arg-type]
    steps: list[Callable[..., Any]] = [
        Orientation(axcodes=axcodes, labels=_LABELS),
        padding,
        SpatialCrop(roi_start=start, roi_end=stop),
    ]
    if any(high - low != size for low, high in crop):
        # Downsampling needs a low-pass filter; the way back up does not.
        steps.append(
            Resize(
                (extent[0], size, size),
                mode="nearest-exact" if nearest else "trilinear",
                align_corners=None if nearest else False,
                anti_aliasing=not nearest,
            )
        )
    return Compose(steps)


def _move(
    transform: Callable[..., Any], array: NDArray[Any], affine: NDArray[np.float64]
) -> MetaTensor:
    """Apply a MONAI transform to an (X, Y, Z) array with its affine; the channel stays first."""
    # A copy: if nothing has to change, MONAI would return the caller's own memory.
    tensor = torch.from_numpy(np.array(array, order="C"))[None]
    moved: MetaTensor = transform(MetaTensor(tensor, affine=torch.from_numpy(affine)))
    return moved
