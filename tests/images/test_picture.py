"""How a picture's stored values are converted, for every depth and file format."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medrd.errors import ConfigError, NonFiniteError, ValueRangeError
from medrd.images.picture import read_picture, read_picture_mask
from picture_bytes import DEEP, LOW_BYTES, NOISE, SHAPE, deep_png, pillow, retagged, tiff


@pytest.mark.parametrize("name", DEEP)
def test_16_bits_keep_their_low_byte(save: Callable[..., Path], name: str) -> None:
    content, channels = DEEP[name]
    picture = read_picture(save(content))
    assert picture.array.dtype == np.float32
    np.testing.assert_array_equal(
        picture.array, LOW_BYTES[..., :channels].astype(np.float32) / np.float32(65535)
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
    Image.fromarray(ink, "CMYK").save(file, "JPEG", quality=95)
    np.testing.assert_allclose(
        read_picture(save(file.getvalue())).array,
        np.tile(np.float32([0, 1, 1]), (*SHAPE, 1)),
        atol=0.02,
    )


# --- Ranges of values ---


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
