"""Features of picture files besides pixels: transparency, frames, orientation."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medrd.images.picture import read_picture
from picture_bytes import LOW_BYTES, NOISE, deep_png, deep_tiff, pillow, tiff


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
