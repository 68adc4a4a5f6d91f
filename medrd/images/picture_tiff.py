"""TIFF files of any depth, read by tifffile, with imagecodecs for compression."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medrd.errors import FileFormatError, TruncatedFileError
from medrd.images.picture_samples import (
    UPRIGHT,
    Palette,
    Samples,
    check_budget,
    samples_without_alpha,
)

if TYPE_CHECKING:
    from tifffile import TiffPage

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = range(4)
_MAX_CHANNELS = 4
_SAVE_AGAIN = "Save it as PNG, or as a grey or RGB TIFF without compression."


def read_tiff(path: Path, file: BinaryIO, *, max_pixels: int, palette: Palette) -> Samples:
    """Decode the first page.

    One channel is grey and three are colour; a second or a fourth one is alpha.

    Raises
    ------
    FileFormatError
        If the page is not a grey, RGB or palette picture, or is compressed in an unknown way.
    TruncatedFileError
        If the file ends before the data that its header promises.
    TooLargeError
        If it has more than ``max_pixels``.
    Exception
        Whatever tifffile raises for a damaged file.
    """
    import tifffile  # needed by few pictures

    with tifffile.TiffFile(file) as tif:
        page = tif.pages.first
        assert isinstance(page, tifffile.TiffPage)  # later ones may be lighter frames
        check_budget(path, height=page.imagelength, width=page.imagewidth, max_pixels=max_pixels)
        _check_all_there(path, page, file_bytes=tif.filehandle.size)
        _check_kind(path, page, compressions=tifffile.TIFF.DECOMPRESSORS)
        values, full_scale = _values(page, palette)
        return samples_without_alpha(
            values,
            full_scale,
            frames=len(tif.pages),
            orientation=int(page.tags.valueof("Orientation", default=UPRIGHT)),
        )


def _values(page: TiffPage, palette: Palette) -> tuple[NDArray[Any], int | None]:
    """(H, W) or (H, W, 1 to 4), and the value of white."""
    values: NDArray[Any] = page.asarray()
    channels = page.axes.find("S")
    if channels >= 0:
        values = np.moveaxis(values, channels, -1)
    full_scale = None
    if values.dtype.kind in "bu" and page.bitspersample <= 16:
        full_scale = 2**page.bitspersample - 1  # 12 bits come as they are, in 16
    if page.photometric == _WHITE_IS_ZERO and full_scale is not None:
        values = full_scale - values
    if page.photometric == _PALETTE and palette == "colours":
        colours = page.colormap  # (3, 2**bits) uint16, of which programs fill the high byte
        assert colours is not None
        return np.moveaxis(colours[:, values] >> 8, 0, -1), 255
    return values, full_scale


def _check_kind(path: Path, page: TiffPage, *, compressions: Any) -> None:
    kind = f"{page.bitspersample}-bit {getattr(page.photometric, 'name', page.photometric)}"
    if (
        page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE)
        or not 1 <= page.samplesperpixel <= _MAX_CHANNELS
        or (page.photometric == _PALETTE and page.samplesperpixel > 1)
        or page.imagedepth != 1
        or page.dtype is None
        or page.dtype.kind not in "buif"
    ):
        raise FileFormatError(
            path,
            expected="a grey, RGB or palette picture of whole or floating-point numbers",
            found=f"{page.samplesperpixel} {kind} channels of type {page.dtype}",
            remedy=_SAVE_AGAIN,
        )
    if page.compression not in compressions:
        raise FileFormatError(
            path,
            expected=f"{kind} samples in a compression that imagecodecs decodes",
            found=f"the compression {getattr(page.compression, 'name', page.compression)}",
            remedy=_SAVE_AGAIN,
        )


def _check_all_there(path: Path, page: TiffPage, file_bytes: int) -> None:
    """Check for missing data: tifffile fills missing strips with zeros, and tags with defaults."""
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    end = max((offset + count for offset, count in segments), default=0)
    missing = sum(count == 0 for _, count in segments)
    untold = page.samplesperpixel > 1 and "BitsPerSample" not in page.tags
    untold |= page.photometric == _PALETTE and page.colormap is None
    if not segments or missing or untold or end > file_bytes:
        raise TruncatedFileError(
            path,
            expected=f"all tags, and {len(segments)} strips or tiles up to byte {end:,}",
            found=f"{missing} strips or tiles without data, and {file_bytes:,} bytes in all",
            remedy="Copy, download or export the file again.",
        )
