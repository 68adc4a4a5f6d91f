"""Resample pictures to the square that a network takes, and maps back to the picture's grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Resize = Literal["stretch", "fit", "crop"]


class _Box(NamedTuple):
    """Whole pixels of a grid: rows ``top`` to ``top + height``, columns likewise."""

    top: int
    left: int
    height: int
    width: int

    @property
    def pixels(self) -> tuple[slice, slice]:
        return (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )


@dataclass(frozen=True)
class PictureFrame:
    """The correspondence between a picture's grid and the network's square.

    A box of the picture is shown in a box of the square, edge on edge: along each axis, pixel
    ``i`` of one has its centre at ``(i + 0.5) * scale - 0.5`` of the other.

    Parameters
    ----------
    shape
        (H, W) of the picture.
    size
        Side of the square in pixels.
    resize
        ``"stretch"`` shows the whole picture and changes its aspect. ``"fit"`` shows the whole
        picture and keeps its aspect, to half a pixel; the rest of the square is padding, and an
        odd pixel of padding is below or to the right. ``"crop"`` keeps the aspect and shows the
        largest square in the picture's middle; an odd pixel is cut off below or to the right.
    """

    shape: tuple[int, int]
    size: int
    resize: Resize

    def __post_init__(self) -> None:
        if min(*self.shape, self.size) < 1:
            raise ValueError(f"no pixels: shape {self.shape}, size {self.size}")
        if self.resize not in ("stretch", "fit", "crop"):
            raise ValueError(f"resize must be stretch, fit or crop, not {self.resize!r}")

    def to_square(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Resample a picture (H, W, C) to (C, size, size), with 0 outside :meth:`region`.

        The interpolation is bilinear, with a low-pass filter along an axis that gets fewer
        pixels. Values stay within the range of the picture's.
        """
        _check_shape(array.shape[:2], self.shape)
        shown = array[self._picture_box.pixels]
        target = self._square_box
        square = np.zeros((array.shape[2], self.size, self.size), np.float32)
        square[:, *target.pixels] = _resized(
            np.moveaxis(shown, -1, 0), (target.height, target.width)
        )
        return square

    def region(self) -> NDArray[np.bool_]:
        """(size, size): where the square shows the picture."""
        return _filled((self.size, self.size), self._square_box)

    def to_picture(self, map: NDArray[np.float32]) -> NDArray[np.float32]:
        """Resample a map (size, size) to (H, W), the inverse of :meth:`to_square`.

        Only :meth:`region` is used, and the result is 0 outside :meth:`shown`.
        """
        _check_shape(map.shape, (self.size, self.size))
        target = self._picture_box
        picture = np.zeros(self.shape, np.float32)
        picture[target.pixels] = _resized(
            map[self._square_box.pixels][None], (target.height, target.width)
        )[0]
        return picture

    def shown(self) -> NDArray[np.bool_]:
        """(H, W): which of the picture's pixels the square shows."""
        return _filled(self.shape, self._picture_box)

    @property
    def _picture_box(self) -> _Box:
        """The part of the picture that the square shows."""
        height, width = self.shape
        if self.resize != "crop":
            return _Box(0, 0, height, width)
        side = min(height, width)
        return _Box((height - side) // 2, (width - side) // 2, side, side)

    @property
    def _square_box(self) -> _Box:
        """The part of the square that shows the picture."""
        if self.resize != "fit":
            return _Box(0, 0, self.size, self.size)
        longest = max(self.shape)
        # Rounded half up, in whole numbers: the longest side becomes exactly ``size``.
        height, width = (
            max(1, (2 * self.size * length + longest) // (2 * longest)) for length in self.shape
        )
        return _Box((self.size - height) // 2, (self.size - width) // 2, height, width)


def _check_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(found) != tuple(expected):
        raise ValueError(f"expected {expected[0]} x {expected[1]} pixels, found {found}")


def _filled(shape: tuple[int, int], box: _Box) -> NDArray[np.bool_]:
    inside = np.zeros(shape, np.bool_)
    inside[box.pixels] = True
    return inside


def _resized(array: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Resample (C, H, W) to another height and width, within the range of its values."""
    # A copy, because torch warns about read-only arrays and does not take negative strides.
    values = torch.from_numpy(np.array(array, np.float32, order="C"))
    if values.shape[1:] == shape:
        return values.numpy()
    low, high = values.aminmax()
    # PyTorch (seen in 2.15) repeats the first row of a result that is one column wide; a
    # result that is one row high is right.
    upright = shape[1] != 1
    if not upright:
        values, shape = values.transpose(1, 2), shape[::-1]
    # antialias widens the filter where there are fewer pixels than before, and only there.
    resized = F.interpolate(
        values[None], size=shape, mode="bilinear", align_corners=False, antialias=True
    )[0]
    if not upright:
        resized = resized.transpose(1, 2)
    # The weights of a pixel add up to 1 only up to rounding.
    return resized.clamp(low, high).numpy()
