"""Every broken or hostile file gives a typed error that names it and its remedy."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medrd.errors import (
    AffineError,
    FileFormatError,
    InputError,
    MissingInputError,
    NonFiniteError,
    ShapeError,
    TooLargeError,
    TruncatedFileError,
)
from medrd.images.header import inspect_nifti
from medrd.images.nifti import read_nifti

# Byte offsets of NIfTI-1 header fields.
DIM, DATATYPE, VOX_OFFSET, SLOPE, INTER, SROW_X, MAGIC = 40, 70, 108, 112, 116, 280, 344
PIXDIM, QFORM_CODE = 76, 252


def sound(shape: tuple[int, ...] = (8, 8, 8), dtype: str = "<i2") -> bytearray:
    """A whole little-endian NIfTI-1 file of noise, uncompressed."""
    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=1)
    header["vox_offset"] = 352
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    noise = np.random.default_rng(0).integers(0, 256, size, dtype="u1")
    return bytearray(header.binaryblock + bytes(4) + noise.tobytes())


def patched(offset: int, fmt: str, *values: object, content: bytearray | None = None) -> bytes:
    content = content or sound()
    struct.pack_into(f"<{fmt}", content, offset, *values)
    return bytes(content)


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


def by_qform(*edges: float, code: int = 1) -> bytes:
    """A scan without sform, with these voxel sizes; ``code`` is the qform's."""
    content = sound()
    struct.pack_into("<3f", content, PIXDIM + 4, *edges)
    struct.pack_into("<hh", content, QFORM_CODE, code, 0)
    return bytes(content)


WHOLE = bytes(sound())
ZIPPED = gzip.compress(WHOLE, mtime=0)
BIG = (64, 64, 64)  # noise does not compress: the gzip file has many blocks
ZIPPED_BIG = gzip.compress(bytes(sound(BIG)), mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("a.nii.gz", b"", FileFormatError, "empty"),
        ("a.nii", b"", FileFormatError, "empty"),
        ("a.nii", b"<!DOCTYPE html><html>", FileFormatError, "a web page"),
        ("a.nii", b"PK\x03\x04 and more", FileFormatError, "a zip archive"),
        ("a.nii.gz", gzip.compress(b"", mtime=0), FileFormatError, "nothing"),
        ("a.nii.gz", WHOLE, FileFormatError, "an uncompressed NIfTI header"),
        ("a.nii.gz", b"version https://git-lfs.github.com/spec/v1\n", FileFormatError, "LFS"),
        ("a.nii", b"a few words about a brain" * 100, FileFormatError, "348"),
        ("a.nii", b"hi", FileFormatError, "348"),
        ("a.nii.gz", gzip.compress(b"<html>", mtime=0), FileFormatError, "348"),
        ("a.nii.gz", WHOLE, FileFormatError, "Take .gz off"),
        ("a.nii.gz", b"/annex/objects/MD5E-s1--a", FileFormatError, "file). Copy, download"),
        ("a.nii", ZIPPED, FileFormatError, "Add .gz"),
        ("a.mha", WHOLE, FileFormatError, "'.mha'"),
        ("a.nii", patched(MAGIC, "4s", b"\0\0\0\0"), FileFormatError, "Analyze"),
        ("a.nii", patched(DATATYPE, "h", 128), FileFormatError, "colour"),
        ("a.nii", patched(DATATYPE, "h", 2304), FileFormatError, "colour"),
        ("a.nii", patched(DATATYPE, "h", 32), FileFormatError, "complex"),
        ("a.nii", patched(DATATYPE, "h", 1), FileFormatError, "code 1."),  # single bits
        ("a.nii", patched(DATATYPE, "h", 999), FileFormatError, "code 999."),
        ("a.nii", patched(VOX_OFFSET, "f", 100.0), FileFormatError, "vox_offset 100"),
        ("a.nii", patched(VOX_OFFSET, "f", 1e15), FileFormatError, "vox_offset 1e+15"),
        ("a.nii", patched(VOX_OFFSET, "f", np.nan), FileFormatError, "vox_offset nan"),
        ("a.nii", patched(VOX_OFFSET, "f", 352.5), FileFormatError, "vox_offset 352.5"),
        ("a.nii", patched(SLOPE, "ff", 2.0, np.inf), FileFormatError, "intercept"),
        ("a.nii", patched(SLOPE, "ff", np.inf, 0.0), FileFormatError, "scl_slope inf"),
        ("a.nii", patched(MAGIC, "4s", b"ni1"), FileFormatError, "a single file of NIfTI-1"),
        ("a.nii", patched(MAGIC, "4s", b"n+2"), FileFormatError, "a single file of NIfTI-1"),
        ("a.nii", by_qform(1, 0, 1), AffineError, "1 x 0 x 1 mm"),
        ("a.nii", by_qform(np.nan, 1, 1), AffineError, "nan x 1 x 1 mm"),
        ("a.nii", by_qform(0, 0, 0, code=0), AffineError, "0 x 0 x 0 mm"),
        ("a.nii", patched(DIM, "4h", 3, 0, 8, 8), ShapeError, "0 × 8 × 8"),
        ("a.nii", patched(DIM, "4h", 3, 8, -8, 8), ShapeError, "8 × -8 × 8"),
        ("a.nii", patched(DIM, "4h", 3, -1, 1, 1), ShapeError, "-1 × 1 × 1"),
        ("a.nii", patched(DIM, "3h", 2, 8, 64), ShapeError, "2 dimensions"),
        ("a.nii", patched(DIM, "h", 0), ShapeError, "0 dimensions"),
        ("a.nii", patched(DIM, "h", -3), ShapeError, "-3 dimensions"),
        ("a.nii", patched(DIM, "h", 30), ShapeError, "30 dimensions"),
        ("a.nii", patched(DIM, "4h", 3, *[32767] * 3), TooLargeError, "--max-voxels"),
        ("a.nii", patched(DIM, "8h", 7, *[32767] * 7), TooLargeError, "--max-voxels"),
        ("a.nii", patched(SROW_X, "4f", 0, 0, 0, 0), AffineError, "[0.0, 0.0, 0.0, 0.0]"),
        ("a.nii", patched(SROW_X, "4f", 0, 1, 0, 0), AffineError, "invertible"),
        ("a.nii", patched(SROW_X, "f", np.nan), AffineError, "nan"),
        ("a.nii", patched(SROW_X + 12, "f", np.inf), AffineError, "inf"),
    ],
)
def test_a_broken_header_is_refused_before_any_voxel(
    tmp_path: Path, name: str, content: bytes, error: type[InputError], words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(error) as caught:
        inspect_nifti(path, frame=0)
    assert type(caught.value) is error
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_nifti_2_file_copied_as_text(tmp_path: Path) -> None:
    image = nib.Nifti2Image(np.ones((3, 4, 5), "i2"), np.eye(4))
    path = tmp_path / "a.nii"
    path.write_bytes(image.to_bytes().replace(b"\r\n\x1a\n", b"\n\x1a\n\0"))
    with pytest.raises(FileFormatError, match="as text"):
        inspect_nifti(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_no_damage_to_a_header_escapes_the_family_of_errors(tmp_path: Path, kind: type) -> None:
    image = kind(np.ones((4, 4, 4), "i2"), np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.set_qform(image.affine, code=1)
    whole = np.frombuffer(image.to_bytes(), "u1")
    rng = np.random.default_rng(0)
    path = tmp_path / "a.nii"
    outcomes = []
    for start in range(0, image.header.sizeof_hdr, 2):
        content = whole.copy()
        content[start : start + 4] = rng.choice([[0] * 4, [255] * 4, rng.integers(0, 256, 4)])
        path.write_bytes(content.tobytes())
        try:
            outcomes.append(type(read_nifti(path, max_voxels=10**6)))
        except InputError as error:
            outcomes.append(type(error))
    assert len(set(outcomes)) > 4


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.nii", WHOLE[:200]),
        ("a.nii", WHOLE[:-1]),
        ("a.nii.gz", gzip.compress(WHOLE[:-1], mtime=0)),
        ("a.nii.gz", ZIPPED[:100]),
        ("a.nii.gz", ZIPPED_BIG[: len(ZIPPED_BIG) // 2]),
        ("a.nii.gz", ZIPPED[:-8]),  # all voxels, but no checksum
        ("a.nii.gz", ZIPPED[:-3]),
        ("a.nii.gz", flipped(ZIPPED, len(ZIPPED) - 6)),  # wrong checksum
        ("a.nii.gz", flipped(ZIPPED_BIG, len(ZIPPED_BIG) // 2)),
        ("a.nii.gz", flipped(ZIPPED, 10)),  # no such deflate block
        ("a.nii.gz", ZIPPED + b"rubbish"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_truncated_and_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TruncatedFileError, match="again") as caught:
        read_nifti(path)
    assert str(path) in str(caught.value)


def test_a_cut_file_whose_first_slices_read_well_is_refused_though_the_header_is_sound(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(ZIPPED_BIG[:-1000])
    assert np.asanyarray(nib.load(path).dataobj[..., 0]).shape == BIG[:2]
    assert inspect_nifti(path).shape == BIG
    with pytest.raises(TruncatedFileError):
        read_nifti(path)


@pytest.mark.parametrize("damage", [len, lambda content: len(content) // 2])
def test_frames_behind_the_wanted_one_are_checked_too(
    tmp_path: Path, damage: Callable[[bytes], int]
) -> None:
    content = gzip.compress(bytes(sound((16, 16, 16, 4))), mtime=0)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(flipped(content, damage(content) - 5))
    with pytest.raises(TruncatedFileError):
        read_nifti(path, frame=0)


def test_a_frame_must_be_chosen_and_be_there(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(sound((8, 8, 8, 4)))
    with pytest.raises(ShapeError, match=r"4 frames .* K from 0 to 3: .*--frame K"):
        read_nifti(path)
    for frame in (4, -1):
        with pytest.raises(ShapeError, match=f"expected frame {frame}; found 4 frames"):
            read_nifti(path, frame=frame)
    path.write_bytes(WHOLE)
    with pytest.raises(ShapeError, match="1 frame "):
        read_nifti(path, frame=1)


def test_the_budget_counts_every_frame_and_can_be_raised(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(sound((8, 8, 8, 2)))
    with pytest.raises(TooLargeError, match=r"at most 1,023 voxels; found 1,024 voxels"):
        read_nifti(path, frame=0, max_voxels=1023)
    assert read_nifti(path, frame=0, max_voxels=1024).shape == (8, 8, 8)


def test_what_no_memory_could_hold_is_too_large_whatever_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(patched(DIM, "4h", 3, *[32767] * 3))
    with pytest.raises((TooLargeError, TruncatedFileError)):  # by how the system allocates
        read_nifti(path, max_voxels=2**60)


def bomb(header: bytes, mebibytes: int) -> bytes:
    """Gzip members of zeros behind a header: 1 GiB in 1 MiB."""
    return gzip.compress(header) + gzip.compress(bytes(16 << 20)) * (mebibytes // 16)


def test_a_gzip_bomb_that_admits_its_size_is_refused_by_budget(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(bomb(patched(DIM, "4h", 3, 1024, 1024, 512), 1024))
    with pytest.raises(TooLargeError):
        read_nifti(path)


def test_a_gzip_bomb_that_lies_is_refused_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(bomb(WHOLE, 1024))
    tracemalloc.start()
    with pytest.raises(FileFormatError, match="more than 1,048,576 further bytes"):
        read_nifti(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nonfinite_voxels_are_judged_against_the_brain(tmp_path: Path, bad: float) -> None:
    array = np.zeros((20, 20, 20), "f4")
    array[:10, :10, :10] = 5
    array[0, :10, 0] = array[1, 0, 0] = bad  # 11 of 1,000 in the brain, of 8,000 in all
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    with pytest.raises(NonFiniteError, match=r"11 of 1,000 non-zero voxels \(1\.1%\)"):
        read_nifti(path)


def test_a_qform_that_is_no_rotation(tmp_path: Path) -> None:
    content = sound()
    struct.pack_into("<hh3f", content, 252, 1, 0, 0.9, 0.9, 0.9)  # codes, then b, c, d
    path = tmp_path / "a.nii"
    path.write_bytes(content)
    with pytest.raises(AffineError, match="quaternion"):
        read_nifti(path)


def test_paths_that_hold_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(WHOLE)
    (tmp_path / "folder.nii").mkdir()
    os.mkfifo(tmp_path / "pipe.nii")  # opening one would wait for ever
    for name, found in {
        "missing.nii": "no such file",
        "file/below.nii": "no such file",
        "folder.nii": "a folder",
        "pipe.nii": "a pipe",
        f"{'long' * 100}.nii": "too long",
    }.items():
        with pytest.raises(MissingInputError, match=found) as caught:
            read_nifti(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_a_folder_is_called_one_whatever_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="found a folder"):
        inspect_nifti(tmp_path)


def test_a_pair_without_its_voxels_names_the_missing_file(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(np.ones((3, 4, 5), "f4"), np.eye(4)), tmp_path / "scan.img")
    (tmp_path / "scan.img").unlink()
    with pytest.raises(MissingInputError, match=r"scan\.img"):
        read_nifti(tmp_path / "scan.hdr")


def test_a_file_without_read_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(WHOLE)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("permission bits do not hold for this user (root?)")
    with pytest.raises(MissingInputError, match="chmod"):
        read_nifti(path)


@pytest.mark.parametrize(
    ("error", "words"), [(PermissionError(13, "denied"), "chmod"), (OSError(5, "I/O"), "disk")]
)
def test_what_the_system_says_on_opening_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise error

    path = tmp_path / "a.nii"
    path.write_bytes(WHOLE)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MissingInputError, match=words):
        read_nifti(path)
