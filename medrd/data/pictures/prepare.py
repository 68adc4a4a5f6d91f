"""Convert a picture to the square that a network sees, and maps back to the picture's own grid."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.config import PictureRecipeConfig
from medrd.data.pictures.frame import PictureFrame
from medrd.images.picture import Picture


@dataclass(frozen=True, eq=False)
class PreparedPicture:
    """A picture as a stack of one square image; see :class:`medrd.data.kind.Prepared`.

    Attributes
    ----------
    images
        (1, C, size, size) float32 in [0, 1], C = 1 or 3.
    region
        (1, size, size) bool: False in the padding of ``resize: fit``.
    frame
        Maps results back to the picture's own grid.
    """

    images: NDArray[np.float32]
    region: NDArray[np.bool_]
    numbers: NDArray[np.int64]
    frame: PictureFrame
    warnings: tuple[str, ...]

    @property
    def positions_mm(self) -> NDArray[np.float64]:
        """(1,) 0, as it has no neighbours."""
        return np.zeros(1)

    @property
    def traits(self) -> None:
        """A picture has none."""

    def to_grid(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """The map (1, size, size) at the picture's own resolution (H, W)."""
        return self.frame.to_picture(maps[0])

    def scored(self) -> NDArray[np.bool_]:
        """(H, W): all of it, or the middle square with ``resize: crop``."""
        return self.frame.shown()

    def upright(self, array: NDArray[Any]) -> NDArray[Any]:
        """(H, W) -> (1, H, W)."""
        return array[None]


def prepare_picture(picture: Picture, recipe: PictureRecipeConfig) -> PreparedPicture:
    """A picture as the network sees it."""
    array = picture.array
    if recipe.colour == "grey":
        array = array.mean(axis=2, keepdims=True, dtype=np.float32)
    elif array.shape[2] == 1:  # one data set may contain both
        array = np.repeat(array, 3, axis=2)
    frame = PictureFrame((array.shape[0], array.shape[1]), recipe.size, recipe.resize)
    return PreparedPicture(
        images=frame.to_square(array)[None],
        region=frame.region()[None],
        numbers=np.zeros(1, np.int64),
        frame=frame,
        warnings=picture.warnings,
    )


def picture_hash(picture: Picture) -> str:
    """SHA-256 over the pixels, which does not depend on name or compression."""
    result = hashlib.sha256(repr(picture.array.shape).encode())
    result.update(np.ascontiguousarray(picture.array).data)
    return result.hexdigest()
