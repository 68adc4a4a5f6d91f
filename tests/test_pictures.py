"""Pictures and masks: every depth and kind of file as stored, every broken one by name."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import tifffile
from numpy.typing import NDArray
from PIL import Image

from medrd.errors import (
    ConfigError,
    FileFormatError,
    GridMismatchError,
    InputError,
    MissingInputError,
    NonFiniteError,
    TooLargeError,
    TruncatedFileError,
    ValueRangeError,
)
from medrd.pictures import decode, read_picture, read_picture_mask

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


def lzw_tiff(array: NDArray[np.uint16], folder: Path) -> bytes:
    """16-bit RGB with LZW, as OpenCV and many programs write it by default."""
    path = folder / "lzw.tif"
    image = SimpleITK.GetImageFromArray(array, isVector=True)
    SimpleITK.WriteImage(image, str(path), useCompression=True, compressor="LZW")
    return path.read_bytes()


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


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Give content a file of its own. Names say nothing: a picture is what its bytes are."""
    count = iter(range(99))

    def save(content: bytes) -> Path:
        path = tmp_path / f"picture-{next(count)}.dat"
        path.write_bytes(content)
        return path

    return save


# --- Depth ------------------------------------------------------------------------------

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
    "tiff rgb, deflate": (tiff(LOW_BYTES[..., :3], compression="zlib"), 3),
    "tiff rgb, tiles": (tiff(LOW_BYTES[..., :3], tile=(16, 16)), 3),
    "tiff rgb, planes": (tiff(PLANES, photometric="rgb", planarconfig="separate"), 3),
    "tiff rgb, BigTIFF": (tiff(LOW_BYTES[..., :3], bigtiff=True), 3),
    "tiff rgba": (tiff(LOW_BYTES, extrasamples=["unassalpha"]), 3),
}


@pytest.mark.parametrize("name", DEEP)
def test_16_bits_keep_their_low_byte(save: Callable[..., Path], name: str) -> None:
    content, channels = DEEP[name]
    picture = read_picture(save(content))
    assert picture.array.dtype == np.float32
    np.testing.assert_array_equal(
        picture.array, LOW_BYTES[..., :channels].astype(np.float32) / np.float32(65535)
    )


def test_16_bits_keep_their_low_byte_in_an_lzw_tiff(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    content = lzw_tiff(LOW_BYTES[..., :3], tmp_path)
    with tifffile.TiffFile(io.BytesIO(content)) as tif:
        assert tif.pages.first.compression == tifffile.COMPRESSION.LZW
    np.testing.assert_array_equal(
        read_picture(save(content)).array, LOW_BYTES[..., :3] / np.float32(65535)
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_8_bits_are_divided_by_255(
    save: Callable[..., Path], kind: str, options: dict[str, Any], channels: int
) -> None:
    stored = NOISE[..., 0] if channels == 1 else NOISE[..., :3]
    picture = read_picture(save(pillow(stored, kind, **options)))
    stored = stored.reshape(*SHAPE, channels)
    if kind == "WEBP" and channels == 1:  # knows no grey
        stored = np.repeat(stored, 3, axis=-1)
    np.testing.assert_array_equal(picture.array, stored / np.float32(255))
    assert picture.warnings == ()


def test_jpeg_grey_and_colour(save: Callable[..., Path]) -> None:
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
    grey = read_picture(save(pillow(ramp, "JPEG", quality=95))).array
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 200
    colour = read_picture(save(pillow(red, "JPEG", quality=95))).array
    np.testing.assert_allclose(grey[..., 0], ramp / 255, atol=0.02)
    np.testing.assert_allclose(colour, red / 255, atol=0.02)


def test_one_bit_is_0_or_1(save: Callable[..., Path]) -> None:
    bits = NOISE[..., 0] > 127
    for kind in ("PNG", "TIFF", "BMP"):
        array = read_picture(save(pillow(bits, kind))).array
        np.testing.assert_array_equal(array[..., 0], bits.astype(np.float32))


def test_12_bit_tiff_is_divided_by_its_own_maximum(save: Callable[..., Path]) -> None:
    # Two samples 0xABC, 0x123 are the bytes AB C1 23.
    packed = np.array([[0xAB, 0xC1, 0x23], [0xFF, 0xFF, 0x00]], np.uint8)
    content = retagged(tiff(packed), BitsPerSample=12, ImageWidth=2)
    array = read_picture(save(content)).array[..., 0]
    np.testing.assert_allclose(array, np.array([[0xABC, 0x123], [0xFFF, 0xF00]]) / 4095, atol=1e-7)


def test_white_is_zero_at_any_depth(save: Callable[..., Path]) -> None:
    for stored, full in ((NOISE[..., 0], 255), (LOW_BYTES[..., 0], 65535)):
        array = read_picture(save(tiff(stored, photometric="miniswhite"))).array[..., 0]
        np.testing.assert_allclose(array, 1 - stored / full, atol=1e-7)


def test_a_palette_gives_its_colours(save: Callable[..., Path]) -> None:
    image = Image.fromarray(NOISE[..., 0] % 3).convert("P")
    colours = np.array([[10, 20, 30], [200, 0, 255], [1, 2, 3]], np.uint8)
    image.putpalette(colours.tobytes())
    for kind in ("PNG", "TIFF", "BMP"):
        file = io.BytesIO()
        image.save(file, kind)
        array = read_picture(save(file.getvalue())).array
        np.testing.assert_array_equal(array, colours[NOISE[..., 0] % 3] / np.float32(255))


def test_cmyk_becomes_rgb(save: Callable[..., Path]) -> None:
    ink = np.zeros((*SHAPE, 4), np.uint8)
    ink[..., 0] = 255  # cyan: no red
    file = io.BytesIO()
    Image.fromarray(ink, "CMYK").save(file, "TIFF")
    np.testing.assert_array_equal(
        read_picture(save(file.getvalue())).array, np.tile(np.float32([0, 1, 1]), (*SHAPE, 1))
    )


# --- Ranges of values -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_floats_in_0_to_1_are_taken_as_they_are(save: Callable[..., Path], dtype: str) -> None:
    for stored in ((NOISE[..., 0] / 255).astype(dtype), (NOISE[..., :3] / 255).astype(dtype)):
        array = read_picture(save(tiff(stored))).array
        np.testing.assert_array_equal(array, stored.reshape(array.shape).astype(np.float32))


@pytest.mark.parametrize(
    "stored",
    [
        np.array([[0.0, 1.001]], "f4"),
        np.array([[-0.001, 1.0]], "f8"),
        np.array([[0, 1]], "i2"),
        np.array([[0, 1]], "i4"),
        np.array([[0, 1]], "u4"),
        np.array([[[0, 1, 1]]], "u4"),
    ],
)
def test_values_without_a_known_range_say_what_to_set(
    save: Callable[..., Path], stored: NDArray[Any]
) -> None:
    path = save(tiff(stored))
    with pytest.raises(ValueRangeError, match=r"recipe\.value_range") as caught:
        read_picture(path)
    assert str(path) in str(caught.value)
    assert read_picture(path, value_range=(-1, 3)).array.size == stored.size


@pytest.mark.parametrize("dtype", ["u2", "i2", "i4", "u4", "f4", "f8"])
def test_a_value_range_is_linear_and_clips(save: Callable[..., Path], dtype: str) -> None:
    stored = np.array([[0, 100, 150, 250, 300, 400]], dtype)
    array = read_picture(save(tiff(stored)), value_range=(100, 300)).array
    np.testing.assert_allclose(array[0, :, 0], [0, 0, 0.25, 0.75, 1, 1], atol=1e-7)


def test_large_unsigned_32_bit_integers_do_not_turn_negative(save: Callable[..., Path]) -> None:
    stored = np.array([[0, 2**31, 2**32 - 1]], "u4")
    for order in "<>":
        path = save(tiff(stored, byteorder=order))
        array = read_picture(path, value_range=(0, 2**32)).array
        np.testing.assert_allclose(array[0, :, 0], [0, 0.5, 1], atol=1e-7)


def test_a_value_range_overrides_the_types_maximum(save: Callable[..., Path]) -> None:
    eight = read_picture(save(pillow(NOISE[..., 0], "PNG")), value_range=(50, 100)).array
    np.testing.assert_allclose(eight[..., 0], np.clip((NOISE[..., 0] - 50.0) / 50, 0, 1), atol=1e-6)
    colour = read_picture(save(deep_png(LOW_BYTES)), value_range=(0x8000, 0x8100)).array
    np.testing.assert_allclose(colour, (LOW_BYTES[..., :3] - 0x8000) / 256, atol=1e-6)


@pytest.mark.parametrize("value_range", [(1, 1), (2, 1), (0, np.nan), (-np.inf, 0)])
def test_a_senseless_value_range(
    save: Callable[..., Path], value_range: tuple[float, float]
) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.value_range"):
        read_picture(save(pillow(NOISE, "PNG")), value_range=value_range)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [SHAPE, (*SHAPE, 3)])
def test_not_one_value_may_be_nan_or_infinite(
    save: Callable[..., Path], bad: float, shape: tuple[int, ...]
) -> None:
    stored = np.full(shape, 0.5, np.float32)
    stored[3, 4] = bad
    path = save(tiff(stored))
    for read in (
        lambda: read_picture(path),
        lambda: read_picture(path, value_range=(0, 1)),
        lambda: read_picture_mask([path], shape=SHAPE),
    ):
        with pytest.raises(NonFiniteError):
            read()


# --- What a file has beside its pixels --------------------------------------------------


def test_alpha_is_dropped_and_only_transparency_is_worth_a_warning(
    save: Callable[..., Path],
) -> None:
    for colour in (1, 3):
        for values, encode in (
            (NOISE, lambda a: pillow(a, "PNG")),
            (NOISE, lambda a: pillow(a, "TIFF")),
            (LOW_BYTES, deep_png),
            (LOW_BYTES, deep_tiff),
        ):
            stored = np.concatenate([values[..., :colour]] * 2, axis=-1)[..., : colour + 1].copy()
            full = np.iinfo(stored.dtype).max
            stored[..., -1] = full
            opaque = read_picture(save(encode(stored)))
            stored[5, 5, -1] = full - 1
            pierced = read_picture(save(encode(stored)))

            expected = stored[..., :colour] / np.float32(full)
            np.testing.assert_array_equal(opaque.array, expected)
            np.testing.assert_array_equal(pierced.array, expected)
            assert opaque.warnings == ()
            (warning,) = pierced.warnings
            assert "opaque" in warning


@pytest.mark.filterwarnings("error")
def test_a_transparent_palette_entry_is_warned_about(save: Callable[..., Path]) -> None:
    image = Image.fromarray(NOISE[..., 0] % 2).convert("P")
    image.putpalette(bytes([9, 9, 9, 250, 0, 0]))
    for transparency in (1, b"\xff\x80"):
        file = io.BytesIO()
        image.save(file, "PNG", transparency=transparency)
        picture = read_picture(save(file.getvalue()))
        np.testing.assert_array_equal(
            picture.array[..., 0], np.float32([9, 250])[NOISE[..., 0] % 2] / np.float32(255)
        )
        assert len(picture.warnings) == 1
        assert "opaque" in picture.warnings[0]


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP", "deep TIFF"])
def test_of_several_frames_the_first_is_read(save: Callable[..., Path], kind: str) -> None:
    frames = [NOISE[..., :3], 255 - NOISE[..., :3]]
    if kind == "deep TIFF":
        frames = [frame.astype(np.uint16) * 257 for frame in frames]
        content = tiff(np.stack(frames))
    else:
        options = {"lossless": True} if kind == "WEBP" else {}
        content = pillow(
            frames[0], kind, save_all=True, append_images=[Image.fromarray(frames[1])], **options
        )
    picture = read_picture(save(content))
    np.testing.assert_array_equal(picture.array, NOISE[..., :3] / np.float32(255))
    (warning,) = picture.warnings
    assert "2 frames or pages" in warning


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "TIFF lzw", "deep TIFF", "deep PNG"])
def test_orientation_is_told_and_not_applied(
    save: Callable[..., Path], kind: str, orientation: int
) -> None:
    stored = NOISE[..., :3]
    if kind == "deep TIFF":
        deep = stored.astype(np.uint16) * 257
        content = tiff(deep, extratags=[(274, 3, 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options: dict[str, Any] = {"WEBP": {"lossless": True}}.get(kind, {})
        if kind == "TIFF lzw":
            options = {"compression": "tiff_lzw"}
        if kind == "deep PNG":
            stored = np.repeat(stored[..., :1], 3, axis=-1)
            content = pillow(stored[..., 0].astype(np.uint16) * 257, "PNG", exif=exif)
        else:
            content = pillow(stored, kind.split()[0], exif=exif, **options)

    picture = read_picture(save(content))

    np.testing.assert_array_equal(
        np.broadcast_to(picture.array, stored.shape), stored / np.float32(255)
    )
    assert [f"orientation, {orientation}," in w for w in picture.warnings] == (
        [] if orientation == 1 else [True]
    )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_metadata_do_not_cost_the_picture(save: Callable[..., Path]) -> None:
    content = pillow(NOISE[..., :3], "WEBP", lossless=True, exif=b"Exif\0\0II*\0\xff\xff")
    picture = read_picture(save(content))
    np.testing.assert_array_equal(picture.array, NOISE[..., :3] / np.float32(255))


# --- Broken and hostile files -----------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (b"<!doctype html>", "text"),
        (pillow(NOISE, "GIF"), "GIF8"),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "RIFF"),
        (b"\x89PNG\n\x1a\n" + bytes(50), "PNG, JPEG"),  # copied as text
    ],
)
def test_what_is_no_picture(save: Callable[..., Path], content: bytes, words: str) -> None:
    path = save(content)
    with pytest.raises(FileFormatError, match=words) as caught:
        read_picture(path)
    assert str(path) in str(caught.value)


def test_what_is_not_there(tmp_path: Path, save: Callable[..., Path]) -> None:
    for path, words in (
        (tmp_path / "none.png", "no such file"),
        (save(b"x") / "below.png", "no such file"),
        (tmp_path, "a folder"),
    ):
        with pytest.raises(MissingInputError, match=words):
            read_picture(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(save: Callable[..., Path]) -> None:
    path = save(pillow(NOISE, "PNG"))
    path.chmod(0)
    with pytest.raises(MissingInputError, match="permission"):
        read_picture(path)


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
    "deep deflated tiff": DEEP["tiff rgb, deflate"][0],
    "deep tiff of tiles": DEEP["tiff rgb, tiles"][0],
    "float64 tiff": tiff(NOISE / 255),
    "bmp": pillow(NOISE[..., :3], "BMP"),
    "webp": pillow(NOISE, "WEBP"),
}


@pytest.mark.filterwarnings("ignore")  # Pillow's, of EXIF that is cut off
@pytest.mark.parametrize("name", WHOLE)
def test_a_file_that_ends_early_is_found_wherever_it_ends(
    save: Callable[..., Path], name: str
) -> None:
    whole = WHOLE[name]
    path = save(whole)
    read_picture(path)
    # The last four bytes are a PNG's last checksum, and a BMP's padding.
    for length in {*np.linspace(16, len(whole) - 5, 60).astype(int).tolist(), len(whole) - 5}:
        path.write_bytes(whole[:length])
        with pytest.raises(TruncatedFileError) as caught:
            read_picture(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["png", "deep png", "deep deflated tiff"])
def test_damage_within_checksummed_data_is_found(save: Callable[..., Path], name: str) -> None:
    whole = bytearray(WHOLE[name])
    path = save(whole)
    whole[len(whole) // 2] ^= 0x10
    path.write_bytes(whole)
    with pytest.raises(TruncatedFileError):
        read_picture(path)


def test_damage_in_an_lzw_tiff_is_found_where_the_codes_make_no_sense(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    content = bytearray(lzw_tiff(LOW_BYTES[..., :3], tmp_path))
    content[20:40] = b"\xff" * 20
    with pytest.raises(TruncatedFileError):
        read_picture(save(content))


def test_a_strip_without_data_is_not_a_black_one(save: Callable[..., Path]) -> None:
    sparse = retagged(tiff(NOISE / 255, rowsperstrip=7), StripByteCounts=(0, 6 * 17 * 4 * 8))
    with pytest.raises(TruncatedFileError, match="1 strips or tiles without data"):
        read_picture(save(sparse))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WHOLE)
def test_no_damage_escapes_the_family_of_errors(save: Callable[..., Path], name: str) -> None:
    rng = np.random.default_rng(1)
    path = save(b"")
    refused = 0
    for _ in range(60):
        content = bytearray(WHOLE[name])
        for at in rng.integers(0, min(len(content), 200), 2):
            content[at] = rng.integers(256)
        path.write_bytes(content)
        try:
            read_picture(path, max_pixels=10_000, value_range=(0, 255))
        except InputError:
            refused += 1
    assert refused


def webp_that_says(height: int, width: int) -> bytes:
    """An extended WebP file with the header alone."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + size


def patched(content: bytes, at: int, fmt: str, *values: int) -> bytes:
    changed = bytearray(content)
    struct.pack_into(fmt, changed, at, *values)
    return bytes(changed)


BOMB = (60_000, 16_000)  # (H, W); 16,383 is all that WebP's other two headers have room for
BOMBS = {
    "png": deep_png(LOW_BYTES, says=BOMB),
    "jpeg": patched(WHOLE["jpeg"], WHOLE["jpeg"].index(b"\xff\xc0") + 5, ">2H", *BOMB),
    "tiff": retagged(WHOLE["tiff by tifffile"], ImageLength=BOMB[0], ImageWidth=BOMB[1]),
    "deep tiff": retagged(WHOLE["deep tiff"], ImageLength=BOMB[0], ImageWidth=BOMB[1]),
    "float tiff": retagged(WHOLE["float64 tiff"], ImageLength=BOMB[0], ImageWidth=BOMB[1]),
    "bmp": patched(WHOLE["bmp"], 18, "<2i", *BOMB[::-1]),
    "webp": webp_that_says(*BOMB),
}


@pytest.mark.filterwarnings("error")  # Pillow's DecompressionBombWarning among them
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_its_header(save: Callable[..., Path], name: str) -> None:
    path = save(BOMBS[name])
    with pytest.raises(TooLargeError, match=r"60,000 × 16,000 = 960,000,000") as caught:
        read_picture(path)
    assert "max_pixels" in caught.value.remedy
    with pytest.raises(TooLargeError):
        read_picture_mask([path], shape=SHAPE)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", WHOLE)
def test_the_budget_is_ours_and_not_pillows(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = save(WHOLE[name])
    pixels = SHAPE[0] * SHAPE[1]
    # As a picture of 100 million pixels is beyond Pillow's limit.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(decode, "_PILLOW_MINDS_PIXELS", 10)
    read_picture(path, max_pixels=pixels)
    assert Image.MAX_IMAGE_PIXELS == 10
    with pytest.raises(TooLargeError):
        read_picture(path, max_pixels=pixels - 1)


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False}])
def test_the_size_of_a_plain_webp_is_read_from_its_header(
    save: Callable[..., Path], options: dict[str, bool]
) -> None:
    path = save(pillow(NOISE[..., :3], "WEBP", **options))
    with pytest.raises(TooLargeError, match="13 × 17 = 221"):
        read_picture(path, max_pixels=220)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tiff(np.zeros((9, 9, 5), np.uint16), planarconfig="contig"), "5 16-bit"),
        (tiff(np.zeros((9, 9), np.complex64)), "complex64"),
        (retagged(WHOLE["deep tiff"], Compression=32908), "imagecodecs"),
    ],
)
def test_whole_files_of_a_kind_that_is_not_read(
    save: Callable[..., Path], content: bytes, words: str
) -> None:
    with pytest.raises(FileFormatError, match=words):
        read_picture(save(content))


# --- Masks ------------------------------------------------------------------------------


def at(*pixels: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(np.transpose(pixels))] = True
    return mask


def test_masks_are_united_and_any_value_but_0_counts(save: Callable[..., Path]) -> None:
    ones = save(pillow(at((2, 3)).astype(np.uint8), "PNG"))
    whites = save(pillow(at((2, 4), (2, 3)) * np.uint8(255), "BMP"))
    deep = save(pillow(at((7, 7)).astype(np.uint16), "PNG"))
    deep_colour = save(tiff(np.dstack([np.zeros(SHAPE), at((8, 8)), at((8, 9))]).astype("u2")))
    bits = save(pillow(at((12, 16)), "TIFF"))
    signed = save(tiff(-at((1, 1)).astype(np.int16)))
    blue = save(pillow(np.dstack([at((0, 0)) * np.uint8(value) for value in (0, 0, 1)]), "PNG"))

    union = read_picture_mask([ones, whites, deep, deep_colour, bits, signed, blue], shape=SHAPE)

    assert union.dtype == np.bool_
    expected = at((2, 3), (2, 4), (7, 7), (8, 8), (8, 9), (12, 16), (1, 1), (0, 0))
    np.testing.assert_array_equal(union, expected)
    assert not read_picture_mask([], shape=SHAPE).any()


def test_alpha_marks_nothing(save: Callable[..., Path]) -> None:
    for channels in (2, 4):
        mask = np.zeros((*SHAPE, channels), np.uint8)
        mask[..., -1] = 255
        mask[4, 5, 0] = 1
        for content in (pillow(mask, "PNG"), deep_png(mask.astype(np.uint16))):
            np.testing.assert_array_equal(
                read_picture_mask([save(content)], shape=SHAPE), at((4, 5))
            )


def test_a_palette_mask_goes_by_index_and_not_by_colour(save: Callable[..., Path]) -> None:
    image = Image.fromarray(at((6, 2)).astype(np.uint8)).convert("P")
    image.putpalette(bytes([255, 255, 255, 0, 0, 0]))  # sound is white, the defect black
    for options in ({}, {"transparency": 0}):
        file = io.BytesIO()
        image.save(file, "PNG", **options)
        mask = read_picture_mask([save(file.getvalue())], shape=SHAPE)
        np.testing.assert_array_equal(mask, at((6, 2)))


def test_a_mask_of_another_shape_names_both(save: Callable[..., Path]) -> None:
    fits, turned = save(pillow(NOISE, "PNG")), save(pillow(NOISE.transpose(1, 0, 2), "PNG"))
    with pytest.raises(GridMismatchError) as caught:
        read_picture_mask([fits, turned], shape=SHAPE)
    assert str(turned) in str(caught.value)
    assert "13 × 17" in caught.value.expected
    assert "17 × 13" in caught.value.found


def test_a_broken_mask_is_an_error_and_not_an_empty_one(save: Callable[..., Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TruncatedFileError):
            read_picture_mask([save(WHOLE["png"][:-20])], shape=SHAPE)
