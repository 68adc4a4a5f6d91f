"""Broken and hostile pictures: each is refused by name, and none is misread."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medrd.errors import (
    FileFormatError,
    InputError,
    MissingInputError,
    TooLargeError,
    TruncatedFileError,
)
from medrd.images.picture import read_picture, read_picture_mask
from picture_bytes import LOW_BYTES, NOISE, SHAPE, WHOLE, deep_png, pillow, retagged, tiff


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (b"<!doctype html>", "a web page"),
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
    save: Callable[..., Path],
) -> None:
    content = bytearray(WHOLE["deep lzw colour tiff"])
    content[-200:-180] = b"\xff" * 20
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
def test_a_webp_bomb_is_refused_by_its_header(save: Callable[..., Path]) -> None:
    with pytest.raises(TooLargeError, match="960000000 pixels") as caught:
        read_picture(save(webp_that_says(*BOMB)))
    assert "PNG" in caught.value.remedy


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", sorted(WHOLE.keys() - {"webp"}))
def test_the_budget_is_ours_and_not_pillows(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = save(WHOLE[name])
    pixels = SHAPE[0] * SHAPE[1]
    # As a picture of 100 million pixels is beyond Pillow's limit.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    read_picture(path, max_pixels=pixels)
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
        (tiff(NOISE, photometric="separated"), "SEPARATED"),
        (retagged(WHOLE["deep tiff"], Compression=32908), "PIXARFILM"),
    ],
)
def test_whole_files_of_a_kind_that_is_not_read(
    save: Callable[..., Path], content: bytes, words: str
) -> None:
    with pytest.raises(FileFormatError, match=words):
        read_picture(save(content))
