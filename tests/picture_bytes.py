"""Pictures of every kind as bytes: of noise, and of 16 bits of which only the low ones differ."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

SHAPE = (13, 17)
NOISE = np.random.default_rng(0).integers(0, 256, (*SHAPE, 4), dtype=np.uint8)
# Neighbours that 8 bits cannot tell apart: only the low byte differs.
LOW_BYTES = (0x8000 + np.arange(13 * 17 * 4).reshape(*SHAPE, 4) % 256).astype(np.uint16)


def pillow(array: NDArray[Any], kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def tiff(array: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        options = {"photometric": "rgb", **options}
    tifffile.imwrite(file, array, metadata=None, **options)
    return file.getvalue()


def deep_tiff(array: NDArray[np.uint16]) -> bytes:
    """Grey or RGB with alpha."""
    kind = "rgb" if array.shape[-1] == 4 else "minisblack"
    return tiff(array, photometric=kind, planarconfig="contig", extrasamples=["unassalpha"])


def retagged(content: bytes, **tags: Any) -> bytes:
    """A TIFF whose header says something else about the same data."""
    file = io.BytesIO(content)
    with tifffile.TiffFile(file, mode="r+", name="patched.tif") as tif:
        for name, value in tags.items():
            tif.pages.first.tags[name].overwrite(value)
    return file.getvalue()


def deep_png(array: NDArray[np.uint16], *, says: tuple[int, int] | None = None) -> bytes:
    """16-bit PNG, which Pillow writes of grey only; ``says`` is another (H, W) to promise."""
    height, width, channels = array.shape
    rows = b"".join(b"\0" + row.tobytes() for row in array.astype(">u2"))
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    size = (width, height) if says is None else says[::-1]
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", *size, 16, colour_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


PLANES = np.ascontiguousarray(np.moveaxis(LOW_BYTES[..., :3], -1, 0))
DEEP = {
    "png grey": (deep_png(LOW_BYTES[..., :1]), 1),
    "png grey by Pillow": (pillow(LOW_BYTES[..., 0], "PNG"), 1),
    "png grey alpha": (deep_png(LOW_BYTES[..., :2]), 1),
    "png rgb": (deep_png(LOW_BYTES[..., :3]), 3),
    "png rgba": (deep_png(LOW_BYTES), 3),
    "tiff grey": (tiff(LOW_BYTES[..., 0]), 1),
    "tiff grey, big-endian": (tiff(LOW_BYTES[..., 0], byteorder=">"), 1),
    "tiff grey, lzw": (pillow(LOW_BYTES[..., 0], "TIFF", compression="tiff_lzw"), 1),
    "tiff rgb": (tiff(LOW_BYTES[..., :3]), 3),
    "tiff rgb, big-endian": (tiff(LOW_BYTES[..., :3], byteorder=">"), 3),
    "tiff rgb, lzw": (tiff(LOW_BYTES[..., :3], compression="lzw"), 3),
    "tiff rgb, deflate": (tiff(LOW_BYTES[..., :3], compression="zlib"), 3),
    "tiff rgb, tiles": (tiff(LOW_BYTES[..., :3], tile=(16, 16)), 3),
    "tiff rgb, planes": (tiff(PLANES, photometric="rgb", planarconfig="separate"), 3),
    "tiff rgb, BigTIFF": (tiff(LOW_BYTES[..., :3], bigtiff=True), 3),
    "tiff rgba": (tiff(LOW_BYTES, extrasamples=["unassalpha"]), 3),
}


WHOLE = {
    "png": pillow(NOISE, "PNG"),
    "deep png": DEEP["png rgb"][0],
    "jpeg": pillow(NOISE[..., :3], "JPEG"),
    "progressive jpeg": pillow(NOISE[..., :3], "JPEG", progressive=True),
    "tiff": pillow(NOISE, "TIFF"),
    "lzw tiff": pillow(NOISE, "TIFF", compression="tiff_lzw"),
    "tiff by tifffile": tiff(NOISE[..., :3]),
    "deep grey tiff": DEEP["tiff grey"][0],
    "deep lzw tiff": DEEP["tiff grey, lzw"][0],
    "deep tiff": DEEP["tiff rgb"][0],
    "deep lzw colour tiff": DEEP["tiff rgb, lzw"][0],
    "deep deflated tiff": DEEP["tiff rgb, deflate"][0],
    "deep tiff of tiles": DEEP["tiff rgb, tiles"][0],
    "float64 tiff": tiff(NOISE / 255),
    "bmp": pillow(NOISE[..., :3], "BMP"),
    "webp": pillow(NOISE, "WEBP"),
}
