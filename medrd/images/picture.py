"""Pictures in [0, 1] and their masks, from files of any depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.errors import (
    ConfigError,
    GridMismatchError,
    LabelError,
    NonFiniteError,
    ValueRangeError,
)
from medrd.images.labels import FEW_VALUES, whole_labels
from medrd.images.picture_decode import read_samples
from medrd.images.picture_samples import Samples

# Several times the cameras of the public data sets, and 1.1 GiB as float32 in colour.
DEFAULT_MAX_PIXELS = 100_000_000


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as its file stores it, before any resizing.

    Attributes
    ----------
    array
        (H, W, C) float32 in [0, 1]; C is 1 (grey) or 3 (red, green, blue).
    path
        Where it was read from, or None.
    warnings
        Oddities of the file, one sentence each.
    """

    array: NDArray[np.float32]
    path: Path | None
    warnings: tuple[str, ...]


def read_picture(
    path: str | Path,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    value_range: tuple[float, float] | None = None,
) -> Picture:
    """Read a PNG, JPEG, TIFF, BMP or WebP file at its full depth.

    Pixels are returned as stored: an EXIF orientation is not applied, because masks are drawn on
    stored pixels. Alpha is dropped, and only the first of several frames or pages is read. All
    three give a warning.

    Parameters
    ----------
    path
        The format is recognised by the file's first bytes, not by its name.
    max_pixels
        Budget for height times width, checked in the header before anything is decoded.
    value_range
        (low, high) in the file's own values, mapped to 0 and 1; values beyond are clipped.
        None: unsigned integers of up to 16 bits are divided by their type's maximum, and
        floats must lie in [0, 1] already.

    Raises
    ------
    MissingInputError
        If there is no such file, or no permission to read it.
    FileFormatError
        If it is empty, not a picture, or of a kind that cannot be read without loss.
    TruncatedFileError
        If it ends early or is damaged.
    TooLargeError
        If it has more than ``max_pixels``.
    NonFiniteError
        If a value is NaN or infinite.
    ValueRangeError
        If the values need a ``value_range`` and none is given.
    ConfigError
        If ``value_range`` is not two finite numbers in rising order.
    """
    if value_range is not None:
        _check_value_range(value_range)
    samples = read_samples(path, max_pixels=max_pixels)
    _check_finite(path, samples.values)
    array = _to_unit_range(samples.values, _range_of(path, samples, value_range))
    return Picture(array, Path(path), samples.warnings)


def read_picture_mask(
    paths: Sequence[str | Path],
    *,
    shape: tuple[int, int],
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> NDArray[np.bool_]:
    """The union of mask files as (H, W) bool, on the stored pixels of the picture.

    Any value but 0 in any colour channel is anomalous, such as 1 or 255; in a palette file, any
    index but 0. Alpha is ignored. Without files, nothing is anomalous. A mask has only a few
    values: with the greys of a smoothed edge, or of JPEG, its outline would be ambiguous.

    Parameters
    ----------
    shape
        (H, W) of the picture that the masks belong to.

    Raises
    ------
    GridMismatchError
        If a mask has another height or width than ``shape``.
    NonFiniteError
        If a mask holds NaN or infinity.
    LabelError
        If a mask holds fractions, negative numbers or many grey values.
    InputError
        As :func:`read_picture`.
    """
    anomalous = np.zeros(shape, np.bool_)
    for path in paths:
        values = read_samples(path, max_pixels=max_pixels, palette="indices").values
        if values.shape[:2] != tuple(shape):
            raise GridMismatchError(
                path,
                expected=f"a mask of its picture's {_size(shape)}",
                found=f"one of {_size(values.shape)}",
                remedy="Masks are never resized: name the mask that was drawn on this picture.",
            )
        _check_finite(path, values)
        labels = whole_labels(path, values)
        if (levels := np.unique(labels).size) > FEW_VALUES:
            raise LabelError(
                path,
                expected=f"a mask: at most {FEW_VALUES} values",
                found=f"{levels} shades of grey or colour, as from a smoothed edge or JPEG",
                remedy="Threshold it, and save it as PNG without smoothing.",
            )
        anomalous |= (labels != 0).any(axis=-1)
    return anomalous


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} × {shape[1]} pixels (height × width)"


def _check_value_range(value_range: tuple[float, float]) -> None:
    low, high = value_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(
            "recipe.value_range",
            expected="two finite numbers, the lower one first",
            found=f"{value_range}",
            remedy="Give the values that stand for black and for white, such as [0, 4095].",
        )


def _check_finite(path: str | Path, values: NDArray[Any]) -> None:
    if not np.issubdtype(values.dtype, np.floating):
        return
    broken = int(values.size - np.count_nonzero(np.isfinite(values)))
    if broken:
        raise NonFiniteError(
            path,
            expected="finite values",
            found=f"{broken:,} of {values.size:,} NaN or infinite",
            remedy="Replace them first, for instance by the background's value.",
        )


def _range_of(
    path: str | Path, samples: Samples, value_range: tuple[float, float] | None
) -> tuple[float, float]:
    """The file's values that become 0 and 1."""
    if value_range is not None:
        return value_range
    if samples.full_scale is not None:
        return 0.0, float(samples.full_scale)
    values = samples.values
    low, high = values.min(), values.max()
    if np.issubdtype(values.dtype, np.floating) and low >= 0 and high <= 1:
        return 0.0, 1.0
    raise ValueRangeError(
        path,
        expected="unsigned integers of up to 16 bits, or floats in [0, 1]",
        found=f"{values.dtype} values from {low:g} to {high:g}",
        remedy="Set recipe.value_range to the values that stand for black and white, the "
        "same for all pictures.",
    )


def _to_unit_range(values: NDArray[Any], value_range: tuple[float, float]) -> NDArray[np.float32]:
    low, high = value_range
    # float64 only for 32-bit integers and float64 itself, which float32 cannot hold.
    scaled = values.astype(np.result_type(values.dtype, np.float32))
    # Divided, not multiplied by the reciprocal, so that the maximum becomes exactly 1.
    scaled -= low
    scaled /= high - low
    np.clip(scaled, 0, 1, out=scaled)
    return scaled.astype(np.float32, copy=False)
