"""The values that a picture file stores, whichever library has decoded it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medrd.errors import TooLargeError

Palette = Literal["colours", "indices"]
"""The samples taken from a palette file: colours (C = 3) or indices (C = 1)."""

UPRIGHT = 1
"""The orientation, in the numbers of EXIF and TIFF, of a picture shown as stored."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Values as the file has them.

    Attributes
    ----------
    values
        (H, W, C) in the file's type; C is 1 (grey or palette indices) or 3 (colour).
    full_scale
        The value of white; None if the type does not define it: floats, signed and 32-bit integers.
    warnings
        A sentence for each property of the file that is missing in the values.
    """

    values: NDArray[Any]
    full_scale: int | None
    warnings: tuple[str, ...] = ()


def samples_without_alpha(
    values: NDArray[Any],
    full_scale: int | None,
    *,
    frames: int = 1,
    orientation: int = UPRIGHT,
) -> Samples:
    """Drop the alpha of decoded values, with a warning for each property that is not applied.

    Parameters
    ----------
    values
        (H, W) or (H, W, 1 to 4); the second or fourth channel is alpha.
    """
    if values.ndim == 2:
        values = values[..., None]
    warnings = []
    if frames > 1:
        warnings.append(f"The file holds {frames:,} frames or pages; the first was read.")
    if orientation != UPRIGHT:
        warnings.append(
            f"The EXIF orientation, {orientation}, was not applied: the picture is shown as "
            "stored, like its masks."
        )
    if values.shape[-1] % 2 == 0:
        values, alpha = values[..., :-1], values[..., -1]
        if (alpha < _opaque(values.dtype, full_scale)).any():
            warnings.append("The picture is not fully opaque: alpha was dropped.")
    return Samples(values, full_scale, tuple(warnings))


def _opaque(dtype: np.dtype[Any], full_scale: int | None) -> int:
    if full_scale is not None:
        return full_scale
    return int(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1


def check_budget(path: Path, *, height: int, width: int, max_pixels: int) -> None:
    """Raise TooLargeError if the header promises more pixels than the budget."""
    pixels = height * width
    if pixels > max_pixels:
        raise TooLargeError(
            path,
            expected=f"at most {max_pixels:,} pixels",
            found=f"{height:,} × {width:,} = {pixels:,} (height × width)",
            remedy="If the picture is meant to be that large and there is enough memory "
            f"({pixels * 12 / 2**30:.1f} GiB in colour), raise max_pixels.",
        )
