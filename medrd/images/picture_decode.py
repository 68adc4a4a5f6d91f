"""Picture files to the samples that they store, undamaged and at their own depth.

Pillow opens everything here and finds damage, but it turns 16-bit colour into 8 bits without
a word. Such files are told by their headers and read by SimpleITK (PNG) and tifffile (TIFF).
"""

from __future__ import annotations

import io
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from medrd.errors import FileFormatError, MedrdError, TruncatedFileError
from medrd.files import open_regular, unreadable
from medrd.images.picture_itk import read_by_itk
from medrd.images.picture_samples import UPRIGHT, Samples, check_budget, samples_without_alpha
from medrd.images.picture_tiff import WHITE_IS_ZERO, read_tiff_page

Palette = Literal["colours", "indices"]

_Format = Literal["PNG", "JPEG", "TIFF", "BMP", "WebP"]

# Opened by class and not by Image.open, which would also try formats that no data set has
# (some start other programs) and judge their size by a limit of its own.
_PLUGINS: dict[_Format, type[ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "TIFF": TiffImageFile,
    "BMP": BmpImageFile,
    "WebP": WebPImageFile,
}
_MAGICS: tuple[tuple[bytes, _Format], ...] = (
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
# In IHDR, which has to be the first chunk; its checksum, over bytes 12 to 29, follows.
_PNG_DEPTH_AT, _PNG_COLOUR_TYPE_AT, _PNG_IHDR_END = 24, 25, 29
_PNG_GREY_ALPHA, _PNG_RGBA = 4, 6

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_UNSIGNED = 1

_GREY_8_BIT = frozenset({"L", "LA", "La"})
_GREY_DEEP = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})

# Pillow turns a TIFF as its orientation says; this turns it back.
_TURN_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}

_FETCH_AGAIN = "Copy, download or export the file again."

# Below Pillow's own limit, which is global: only beyond is it lifted, by one thread at a time.
_PILLOW_MINDS_PIXELS = 1 << 26
_PILLOW_LIMIT = threading.Lock()


def read_samples(path: str | Path, *, max_pixels: int, palette: Palette = "colours") -> Samples:
    """Decode the first picture of a file. What it is, its first bytes say, not its name.

    Parameters
    ----------
    max_pixels
        Judged from the header.
    palette
        Whether a palette file gives its colours (C = 3) or its indices (C = 1).

    Raises
    ------
    MissingInputError, FileFormatError, TruncatedFileError, TooLargeError
    """
    path = Path(path)
    with open_regular(path, kind="picture") as file:
        head = file.read(_HEAD_BYTES)
        kind = _format_of(path, head)
        file.seek(0)
        with _damage_is_typed(path, kind):
            if kind == "PNG":
                return _read_png(path, file, head, max_pixels, palette)
            if kind == "TIFF":
                return _read_tiff(path, file, max_pixels, palette)
            if kind == "WebP":
                return _read_webp(path, file, head, max_pixels, palette)
            image = _PLUGINS[kind](file)
            _check_size(path, image, max_pixels)
            image.load()
            return _samples(image, palette)


def _read_png(
    path: Path, file: BinaryIO, head: bytes, max_pixels: int, palette: Palette
) -> Samples:
    image = PngImageFile(file)
    _check_size(path, image, max_pixels)
    # The checksums of all chunks to the very end, which loading does not look at.
    image.verify()
    file.seek(0)
    image = PngImageFile(file)
    image.load()
    if head[_PNG_DEPTH_AT] != 16 or image.mode in _GREY_DEEP:
        return _samples(image, palette)
    file.seek(0)
    return samples_without_alpha(
        _deep_png_values(path, file, head),
        65535,
        frames=_frames(image),
        orientation=_orientation(image),
    )


def _deep_png_values(path: Path, file: BinaryIO, head: bytes) -> NDArray[np.uint16]:
    """(H, W, 1 to 4)."""
    if head[_PNG_COLOUR_TYPE_AT] != _PNG_GREY_ALPHA:
        return read_by_itk(path, "PNGImageIO")
    # ITK knows no grey with alpha. In 16 bits its rows are those of RGBA in 8, four bytes a
    # pixel, so that a header which says so gives the bytes.
    content = bytearray(file.read())
    content[_PNG_DEPTH_AT] = 8
    content[_PNG_COLOUR_TYPE_AT] = _PNG_RGBA
    content[_PNG_IHDR_END : _PNG_IHDR_END + 4] = zlib.crc32(content[12:_PNG_IHDR_END]).to_bytes(
        4, "big"
    )
    image = PngImageFile(io.BytesIO(content))
    return np.asarray(image).view(">u2").astype(np.uint16)


def _read_tiff(path: Path, file: BinaryIO, max_pixels: int, palette: Palette) -> Samples:
    try:
        image = TiffImageFile(file)
    except SyntaxError:  # damage, or samples that Pillow does not know: tifffile will say
        file.seek(0)
        return read_tiff_page(path, file, max_pixels=max_pixels)
    _check_size(path, image, max_pixels)
    tags = image.tag_v2
    bits = max(tags.get(_BITS_PER_SAMPLE, (1,)))
    if bits > 8 and image.mode not in _GREY_DEEP:
        file.seek(0)
        return read_tiff_page(path, file, max_pixels=max_pixels)
    white_is_zero = tags.get(_PHOTOMETRIC) == WHITE_IS_ZERO
    unsigned = _UNSIGNED in tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))
    frames = _frames(image)
    orientation = _orientation(image)
    with _pillows_limit_lifted(image.width * image.height):
        image.load()
    # Pillow has turned the pixels as the orientation says: back.
    stored = image.transpose(_TURN_BACK[orientation]) if orientation != UPRIGHT else image
    values, full_scale = _values(stored, palette)
    if bits > 8 and full_scale is not None:
        full_scale = 2**bits - 1  # 12 bits come as they are, in 16
        if white_is_zero:  # which Pillow heeds for up to 8 bits only
            values = full_scale - values
    if bits == 32 and unsigned and stored.mode == "I":
        values = values.view(np.uint32)  # Pillow has signed ones only
    return samples_without_alpha(values, full_scale, frames=frames, orientation=orientation)


def _read_webp(
    path: Path, file: BinaryIO, head: bytes, max_pixels: int, palette: Palette
) -> Samples:
    # Not left to Pillow, whose constructor makes room for the whole canvas at once.
    width, height = _webp_size(head)
    check_budget(path, height=height, width=width, max_pixels=max_pixels)
    with _pillows_limit_lifted(width * height):
        image = WebPImageFile(file)
        image.load()
    return _samples(image, palette)


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height as the first chunk has them (RFC 9649); nonsense gives nonsense."""

    def little(start: int, stop: int) -> int:
        return int.from_bytes(head[start:stop], "little")

    match head[12:16]:
        case b"VP8X":
            return little(24, 27) + 1, little(27, 30) + 1
        case b"VP8L":
            return (little(21, 25) & 0x3FFF) + 1, (little(21, 25) >> 14 & 0x3FFF) + 1
        case _:
            return little(26, 28) & 0x3FFF, little(28, 30) & 0x3FFF


def _samples(image: ImageFile, palette: Palette) -> Samples:
    """Of a loaded Pillow image."""
    values, full_scale = _values(image, palette)
    return samples_without_alpha(
        values, full_scale, frames=_frames(image), orientation=_orientation(image)
    )


def _values(image: Image.Image, palette: Palette) -> tuple[NDArray[Any], int | None]:
    """(H, W, 1 to 4) with alpha last, and the value of white."""
    full_scale: int | None = 255
    if image.mode in _GREY_DEEP:
        full_scale = 65535 if image.mode.startswith("I;16") else None
    elif image.mode == "1":
        full_scale = 1
    elif palette == "indices" and image.mode in {"P", "PA"}:
        image = image.getchannel(0)
    elif image.has_transparency_data:
        image = image.convert("LA" if image.mode in _GREY_8_BIT else "RGBA")
    elif image.mode not in _GREY_8_BIT:
        image = image.convert("RGB")
    values = np.asarray(image)
    return values[..., None] if values.ndim == 2 else values, full_scale


def _frames(image: ImageFile) -> int:
    return int(getattr(image, "n_frames", 1))


def _orientation(image: ImageFile) -> int:
    """As EXIF counts, 1 to 8; for a TIFF only before loading, which takes it away."""
    try:
        orientation = image.getexif().get(_ORIENTATION, UPRIGHT)
    except Exception:  # metadata that cannot be read must not cost the picture
        return UPRIGHT
    return orientation if orientation in _TURN_BACK else UPRIGHT


def _check_size(path: Path, image: Image.Image, max_pixels: int) -> None:
    check_budget(path, height=image.height, width=image.width, max_pixels=max_pixels)


@contextmanager
def _pillows_limit_lifted(pixels: int) -> Iterator[None]:
    """Let Pillow decode what ``max_pixels`` allows, without an error or warning of its own."""
    if pixels <= _PILLOW_MINDS_PIXELS:
        yield
        return
    with _PILLOW_LIMIT:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _format_of(path: Path, head: bytes) -> _Format:
    if not head:
        raise FileFormatError(path, expected="data", found="an empty file", remedy=_FETCH_AGAIN)
    for magic, kind in _MAGICS:
        if head.startswith(magic) and (kind != "WebP" or head[8:12] == b"WEBP"):
            return kind
    raise FileFormatError(
        path,
        expected=f"a picture: {', '.join(_PLUGINS)}",
        found=f"a file that begins with {head[:8]!r}",
        remedy="Convert it to PNG; if it is text, such as a Git LFS pointer or a web page, "
        "download the picture itself.",
    )


@contextmanager
def _damage_is_typed(path: Path, kind: _Format) -> Iterator[None]:
    try:
        yield
    except (MedrdError, MemoryError):
        raise
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
