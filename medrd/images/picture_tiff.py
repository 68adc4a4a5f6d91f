"""TIFF pages with samples that Pillow does not know or would cut to 8 bits, by tifffile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medrd.errors import FileFormatError, TruncatedFileError
from medrd.images.picture_itk import read_by_itk
from medrd.images.picture_samples import UPRIGHT, Samples, check_budget, samples_without_alpha

if TYPE_CHECKING:
    from tifffile import TiffPage

WHITE_IS_ZERO = 0
_BLACK_IS_ZERO, _RGB = 1, 2
_LZW = 5
_MAX_CHANNELS = 4
_SAVE_AGAIN = "Save it as PNG, or as a grey or RGB TIFF without compression."


def read_tiff_page(path: Path, file: BinaryIO, *, max_pixels: int) -> Samples:
    """Decode the first page.

    One channel is grey and three are colour; a second or a fourth one is alpha.

    Raises
    ------
    FileFormatError
        If the page is no grey or RGB picture, or nobody here can decompress it.
    TruncatedFileError
        If the file ends before the data that its header promises.
    TooLargeError
        If it has more than ``max_pixels``.
    Exception
        Whatever tifffile stumbles over in a damaged file.
    """
    import tifffile  # needed by few pictures

    with tifffile.TiffFile(file) as tif:
        page = tif.pages.first
        assert isinstance(page, tifffile.TiffPage)  # later ones may be lighter frames
        check_budget(path, height=page.imagelength, width=page.imagewidth, max_pixels=max_pixels)
        _check_all_there(path, page, file_bytes=tif.filehandle.size)
        _check_kind(path, page)
        if page.compression in tifffile.TIFF.DECOMPRESSORS:
            values = _channels_last(page)
        else:
            values = _decompressed_by_itk(path, page)
        full_scale = 2**page.bitspersample - 1 if values.dtype in (np.uint8, np.uint16) else None
        if page.photometric == WHITE_IS_ZERO and full_scale is not None:
            values = full_scale - values
        return samples_without_alpha(
            values,
            full_scale,
            frames=len(tif.pages),
            orientation=_orientation(page),
        )


def _kind(page: TiffPage) -> str:
    return f"{page.bitspersample}-bit {getattr(page.photometric, 'name', page.photometric)}"


def _check_kind(path: Path, page: TiffPage) -> None:
    if (
        page.photometric not in (WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
        or not 1 <= page.samplesperpixel <= _MAX_CHANNELS
        or page.imagedepth != 1
        or page.dtype is None
        or page.dtype.kind not in "uif"
    ):
        raise FileFormatError(
            path,
            expected="a grey or RGB picture of whole or floating-point numbers",
            found=f"{page.samplesperpixel} {_kind(page)} channels of type {page.dtype}",
            remedy=_SAVE_AGAIN,
        )


def _decompressed_by_itk(path: Path, page: TiffPage) -> NDArray[Any]:
    """LZW, the default of many programs, for which tifffile needs another package.

    ITK keeps the 16 bits of RGB pixels in strips, and turns what it does not know into 8.
    """
    colour = page.dtype == np.uint16 and page.photometric == _RGB
    if page.compression == _LZW and colour and _orientation(page) == UPRIGHT:
        values = read_by_itk(path, "TIFFImageIO")
        if values.dtype == page.dtype and values.shape == page.shape:
            return values
    raise FileFormatError(
        path,
        expected=f"{_kind(page)} samples, uncompressed or deflated",
        found=f"the compression {getattr(page.compression, 'name', page.compression)}",
        remedy="Install imagecodecs, with which LZW, JPEG 2000 and others are read, or "
        "save the picture uncompressed or as PNG.",
    )


def _orientation(page: TiffPage) -> int:
    return int(page.tags.valueof("Orientation", default=UPRIGHT))


def _check_all_there(path: Path, page: TiffPage, file_bytes: int) -> None:
    """tifffile fills strips that are missing with zeros, and tags with their defaults."""
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    end = max((offset + count for offset, count in segments), default=0)
    missing = sum(count == 0 for _, count in segments)
    untold = page.samplesperpixel > 1 and "BitsPerSample" not in page.tags
    if not segments or missing or untold or end > file_bytes:
        raise TruncatedFileError(
            path,
            expected=f"all tags, and {len(segments)} strips or tiles up to byte {end:,}",
            found=f"{missing} strips or tiles without data, and {file_bytes:,} bytes in all",
            remedy="Copy, download or export the file again.",
        )


def _channels_last(page: TiffPage) -> NDArray[Any]:
    """(H, W, 1 to 4)."""
    values: NDArray[Any] = page.asarray()
    channels = page.axes.find("S")
    return values[..., None] if channels < 0 else np.moveaxis(values, channels, -1)
