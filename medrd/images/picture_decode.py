"""Decode picture files at their full depth, and detect damage.

Pillow opens PNG, JPEG, BMP and WebP and detects damage, but it silently reduces 16-bit colour to 8
bits, so imagecodecs decodes 16-bit PNG, and tifffile reads TIFF files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from medrd.errors import FileFormatError, MedrdError, TooLargeError, TruncatedFileError
from medrd.files import describe_start, open_regular, unreadable
from medrd.images.picture_samples import (
    UPRIGHT,
    Palette,
    Samples,
    check_budget,
    samples_without_alpha,
)
from medrd.images.picture_tiff import read_tiff

# Opened by class and not by Image.open, which would also try formats that no data set has
# (some start other programs) and judge their size by a limit of its own.
_PLUGINS: dict[str, type[ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "BMP": BmpImageFile,
    "WebP": WebPImageFile,
}
_MAGICS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    (b"RIFF", "WebP"),
)
_HEAD_BYTES = 32
_PNG_DEPTH_AT = 24  # in IHDR, which has to be the first chunk
_ORIENTATION = 0x0112
_FETCH_AGAIN = "Copy, download or export the file again."


def read_samples(path: str | Path, *, max_pixels: int, palette: Palette = "colours") -> Samples:
    """Decode the first picture of a file, whose format is recognised by its first bytes.

    Parameters
    ----------
    max_pixels
        Limit on height times width, checked in the header.
    palette
        Whether to return the colours or the indices of a palette file.

    Raises
    ------
    MissingInputError, FileFormatError, TruncatedFileError, TooLargeError
    """
    path = Path(path)
    with open_regular(path, kind="picture") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(0)
        kind = _format_of(path, head)
        with _damage_is_typed(path, kind):
            if kind == "TIFF":
                return read_tiff(path, file, max_pixels=max_pixels, palette=palette)
            image = _PLUGINS[kind](file)
            check_budget(path, height=image.height, width=image.width, max_pixels=max_pixels)
            if kind == "PNG":
                # Check the checksums of all chunks to the end, which loading does not do.
                image.verify()
                file.seek(0)
                image = PngImageFile(file)
            image.load()
            deep = kind == "PNG" and head[_PNG_DEPTH_AT] == 16
            values, full_scale = _deep_png(file) if deep else _values(image, palette)
            return samples_without_alpha(
                values,
                full_scale,
                frames=int(getattr(image, "n_frames", 1)),
                orientation=_orientation(image),
            )


def _deep_png(file: BinaryIO) -> tuple[NDArray[np.uint16], int]:
    """(H, W) or (H, W, 2 to 4) with alpha last, and the value of white."""
    import imagecodecs  # needed by few pictures

    file.seek(0)
    return imagecodecs.png_decode(file.read()), 65535


def _values(image: Image.Image, palette: Palette) -> tuple[NDArray[Any], int]:
    """(H, W) or (H, W, 2 to 4) with alpha last, and the value of white."""
    if image.mode == "1":
        return np.asarray(image), 1
    grey = image.mode in {"L", "LA", "La"}
    if palette == "indices" and image.mode in {"P", "PA"}:
        image = image.getchannel(0)
    elif image.has_transparency_data:
        image = image.convert("LA" if grey else "RGBA")
    elif not grey:
        image = image.convert("RGB")
    return np.asarray(image), 255


def _orientation(image: ImageFile) -> int:
    """The orientation in EXIF's numbers, 1 to 8."""
    try:
        orientation = int(image.getexif().get(_ORIENTATION, UPRIGHT))
    except Exception:  # unreadable metadata must not make the picture unreadable
        return UPRIGHT
    return orientation if 1 <= orientation <= 8 else UPRIGHT


def _format_of(path: Path, head: bytes) -> str:
    if not head:
        raise FileFormatError(path, expected="data", found="an empty file", remedy=_FETCH_AGAIN)
    for magic, kind in _MAGICS:
        if head.startswith(magic) and (kind != "WebP" or head[8:12] == b"WEBP"):
            return kind
    raise FileFormatError(
        path,
        expected="a picture: PNG, JPEG, TIFF, BMP, WebP",
        found=describe_start(head),
        remedy="Convert it to PNG; if it is text, download the picture itself.",
    )


@contextmanager
def _damage_is_typed(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except (MedrdError, MemoryError):
        raise
    except (
        Image.DecompressionBombError
    ) as error:  # Pillow's limit, checked before it allocates memory for a WebP
        raise TooLargeError(
            path,
            expected=f"a {kind} file that Pillow takes",
            found=str(error),
            remedy="Save it as PNG or TIFF.",
        ) from None
    except Exception as error:
        # The decoders raise whatever they stumble over: SyntaxError, OSError, struct.error,
        # KeyError, RuntimeError … Only what the operating system says has a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, error) from error
        raise TruncatedFileError(
            path,
            expected=f"a whole {kind} file",
            found=f"one that ends early or is damaged ({error})",
            remedy=_FETCH_AGAIN,
        ) from error
