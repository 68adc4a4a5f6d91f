"""The transforms of :mod:`medrd.data.brains.monai_moves` with torch, the same up to rounding.

Importing MONAI takes longer than predicting a scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from nibabel.affines import from_matvec
from numpy.typing import NDArray
from torch import Tensor


class TorchMoves:
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
        has, wanted = _directions(affine, axcodes)
        self._turn = nib.orientations.ornt_transform(has, wanted)
        self._turn_back = nib.orientations.ornt_transform(wanted, has)
        self._nearest = nearest
        self._extent = reoriented_shape(shape, affine, axcodes)
        self._crop = ((0, self._extent[0]), *crop)
        self._cropped = tuple(high - low for low, high in self._crop)
        self._size = (self._extent[0], size, size)
        turned = affine @ nib.orientations.inv_ornt_aff(self._turn, shape)
        # The steps are MONAI's, with padding and cropping separate, as each of them rounds.
        padding = [max(0, -low) for low, _ in self._crop]
        padded = turned @ from_matvec(np.eye(3), [-before for before in padding])
        starts = [low + before for (low, _), before in zip(self._crop, padding, strict=True)]
        cut = padded @ from_matvec(np.eye(3), starts)
        # From pixels after a resize to those before, both counted from their first one's centre.
        factors = np.divide(self._cropped, self._size)
        self.affine = cut @ from_matvec(np.diag(factors), (factors - 1) / 2)

    def forward(self, array: NDArray[Any]) -> NDArray[Any]:
        """(X, Y, Z) -> (S, size, size)."""
        turned = nib.orientations.apply_orientation(array, self._turn)
        inside, place = self._overlap()
        cut = np.zeros(self._cropped, array.dtype)
        cut[place] = turned[inside]
        if self._cropped == self._size:
            return cut
        image = torch.from_numpy(cut).float()[None, None]
        if not self._nearest:
            image = _smoothed(image, self._size)
        return self._resized(image, self._size)

    def back(self, stack: NDArray[np.float32]) -> NDArray[np.float32]:
        """(S, size, size) -> (X, Y, Z)."""
        if self._cropped != self._size:
            stack = self._resized(torch.from_numpy(stack)[None, None], self._cropped)
        inside, place = self._overlap()
        whole = np.zeros(self._extent, np.float32)
        whole[inside] = stack[place]
        result: NDArray[np.float32] = nib.orientations.apply_orientation(whole, self._turn_back)
        return result

    def _overlap(self) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The part of the reoriented volume that the slices show, and its place in them."""
        spans = [
            (max(0, low), max(0, low, min(high, length)), low)
            for (low, high), length in zip(self._crop, self._extent, strict=True)
        ]
        return (
            tuple(slice(start, stop) for start, stop, _ in spans),
            tuple(slice(start - low, stop - low) for start, stop, low in spans),
        )

    def _resized(self, image: Tensor, size: tuple[int, ...]) -> NDArray[np.float32]:
        if self._nearest:
            resized = F.interpolate(image, size, mode="nearest-exact")
        else:
            resized = F.interpolate(image, size, mode="trilinear", align_corners=False)
        result: NDArray[np.float32] = resized[0, 0].numpy()
        return result


def reoriented(
    array: NDArray[Any], affine: NDArray[np.float64], axcodes: str
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """A volume with its axes along ``axcodes``, and its new affine."""
    turn = nib.orientations.ornt_transform(*_directions(affine, axcodes))
    moved = nib.orientations.apply_orientation(array, turn)
    return np.array(moved, order="C"), affine @ nib.orientations.inv_ornt_aff(turn, array.shape)


def reoriented_shape(
    shape: Sequence[int], affine: NDArray[np.float64], axcodes: str
) -> tuple[int, ...]:
    """The shape of :func:`reoriented`'s volume."""
    turn = nib.orientations.ornt_transform(*_directions(affine, axcodes))
    return tuple(int(shape[axis]) for axis in np.argsort(turn[:, 0]))


def _directions(
    affine: NDArray[np.float64], axcodes: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The world axis and direction of each axis, of the volume and as wanted."""
    return nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(axcodes)


def _smoothed(image: Tensor, size: Sequence[int]) -> Tensor:
    """Low-pass filter before a reduction to ``size``: a Gaussian of (factor - 1) / 2 pixels."""
    factors = torch.tensor(image.shape[2:], dtype=torch.float) / torch.tensor(size)
    for axis, sigma in enumerate(torch.clamp((factors - 1) / 2, min=0)):
        if sigma == 0:
            continue
        tail = int(max(float(sigma) * 4, 0.5) + 0.5)
        places = torch.arange(-tail, tail + 1, dtype=torch.float)
        scale = 0.70710678 / sigma
        kernel = 0.5 * ((scale * (places + 0.5)).erf() - (scale * (places - 0.5)).erf())
        # Adding shifted images takes a tenth of the time of conv3d with one channel.
        dim, length = axis + 2, image.shape[axis + 2]
        padding = [0] * 6
        padding[4 - 2 * axis : 6 - 2 * axis] = tail, tail  # the last axis comes first
        padded = F.pad(image, padding)
        first, *others = kernel.clamp(min=0).tolist()
        image = padded.narrow(dim, 0, length) * first
        for start, weight in enumerate(others, 1):
            image.add_(padded.narrow(dim, start, length), alpha=weight)
    return image
