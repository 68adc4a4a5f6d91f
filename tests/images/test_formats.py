"""MGH, MetaImage and NRRD: the same physical points as other readers give, and damage found."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from medrd.errors import (
    AffineError,
    FileFormatError,
    InputError,
    MissingInputError,
    ShapeError,
    TooLargeError,
    TruncatedFileError,
)
from medrd.images.formats import is_scan_name, parts_of, scan_stem
from medrd.images.read import read_volume

SHAPE = (7, 6, 5)
VOXELS = np.random.default_rng(0).integers(-300, 500, SHAPE).astype(np.int16)
CORNERS = np.array([(0, 0, 0, 1), (6, 0, 0, 1), (0, 5, 0, 1), (0, 0, 4, 1), (6, 5, 4, 1)])

_COS, _SIN = np.cos(0.4), np.sin(0.4)
PLACES: dict[str, NDArray[np.float64]] = {
    "axial": np.array([[1.0, 0, 0, -20], [0, 2, 0, 30], [0, 0, 3, 5], [0, 0, 0, 1]]),
    "flipped": np.array([[-1.0, 0, 0, 20], [0, 2, 0, 30], [0, 0, -3, 5], [0, 0, 0, 1]]),
    "coronal": np.array([[0.0, 0, 3, -20], [1, 0, 0, 30], [0, -2, 0, 5], [0, 0, 0, 1]]),
    "oblique": np.array(
        [[_COS, -2 * _SIN, 0, -20], [_SIN, 2 * _COS, 0, 30], [0, 0, 3, 5], [0, 0, 0, 1]]
    ),
}
SITK_NAMES = ["x.mha", "x.mhd", "x.nrrd", "x.nhdr", "packed.mha", "packed.mhd", "packed.nrrd"]
NIBABEL_NAMES = ["x.mgz", "x.mgh", "x.hdr", "x.img", "x.nii"]


def write(path: Path, affine: NDArray[np.float64], voxels: NDArray[Any] = VOXELS) -> Path:
    """By the library that others write the format with."""
    if path.name in NIBABEL_NAMES:
        if path.suffix == ".nii":
            nib.save(nib.Nifti1Image(voxels, affine), path)
        elif path.suffix in (".hdr", ".img"):
            nib.save(nib.Nifti1Pair(voxels, affine), path)
        else:
            nib.save(nib.MGHImage(voxels, affine), path)
        return path
    sitk = pytest.importorskip("SimpleITK")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    lps = np.diag([-1.0, -1, 1]) @ affine[:3]
    image = sitk.GetImageFromArray(voxels.T)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:, 3].tolist())
    image.SetDirection((lps[:, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), path.name.startswith("packed"))
    return path


@pytest.mark.parametrize("name", [*SITK_NAMES, *NIBABEL_NAMES])
@pytest.mark.parametrize("place", PLACES)
def test_voxels_lie_at_the_points_where_others_see_them(
    tmp_path: Path, name: str, place: str
) -> None:
    path = write(tmp_path / name, PLACES[place])
    volume = read_volume(path)
    assert np.array_equal(volume.array, VOXELS)
    points = CORNERS @ PLACES[place].T
    np.testing.assert_allclose(CORNERS @ volume.affine.T, points, atol=1e-4)
    assert volume.warnings == ()
    assert is_scan_name(path) != (path.suffix == ".img")
    assert scan_stem(path) == path.stem
    assert set(parts_of(path)) >= {path.with_suffix(".hdr") if path.suffix == ".img" else path}


@pytest.mark.parametrize("space", ["RAS", "left-anterior-superior", "LPS", "scanner-xyz", ""])
def test_the_spaces_of_nrrd_are_those_that_itk_sees(tmp_path: Path, space: str) -> None:
    sitk = pytest.importorskip("SimpleITK")
    head = "NRRD0005\ntype: short\ndimension: 3\nsizes: 7 6 5\nendian: little\nencoding: raw\n"
    if space:
        head += f"space: {space}\nspace directions: (1,0.1,0) (-0.2,2,0) (0,0,3)\n"
        head += "space origin: (5,6,7)\n"
    else:
        head += "spacings: 1 2 3\n"
    path = tmp_path / "x.nrrd"
    path.write_bytes(head.encode() + b"\n" + VOXELS.tobytes(order="F"))
    volume = read_volume(path)
    image = sitk.ReadImage(str(path))
    for corner in CORNERS:
        x, y, z = image.TransformIndexToPhysicalPoint([int(i) for i in corner[:3]])
        np.testing.assert_allclose((volume.affine @ corner)[:3], (-x, -y, z), atol=0.5)
    known = space not in ("", "scanner-xyz")
    assert any("left and right" in text for text in volume.warnings) != known
    assert np.array_equal(volume.array, VOXELS)


def test_an_mgh_file_without_geometry_is_coronal_as_in_freesurfer(tmp_path: Path) -> None:
    path = write(tmp_path / "x.mgh", PLACES["axial"])
    content = bytearray(path.read_bytes())
    content[28:30] = b"\0\0"  # goodRASFlag
    path.write_bytes(content)
    volume = read_volume(path)
    assert (volume.orientation, volume.spacing_mm) == ("LIA", (1, 1, 1))
    assert "FreeSurfer's guess" in volume.warnings[0]


def cut(content: bytes) -> bytes:
    return content[:-120]


def turned(content: bytes) -> bytes:
    return content[:-60] + bytes([content[-60] ^ 0xFF]) + content[-59:]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, cut) for name in ("x.mha", "x.nrrd", "x.mgh", "x.mgz", "packed.mha")),
        *((name, turned) for name in ("packed.mha", "packed.nrrd", "x.mgz")),
    ],
)
def test_a_file_that_is_cut_or_damaged_is_not_read(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    """Also where the library of the format reads on without a word."""
    path = write(tmp_path / name, PLACES["axial"])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TruncatedFileError):
        read_volume(path)


@pytest.mark.parametrize(
    ("name", "old", "new", "error"),
    [
        ("x.mhd", b"x.raw", b"y.raw", MissingInputError),
        ("x.mhd", b"x.raw", b"x%d.raw", FileFormatError),
        ("x.mhd", b"x.raw", b"x\0.raw", MissingInputError),
        ("x.mha", b"MET_SHORT", b"MET_STRING", FileFormatError),
        ("x.mha", b"DimSize = 7", b"DimSize = -7", ShapeError),
        ("x.mha", b"DimSize = 7", b"DimSize = 70000000", TooLargeError),
        ("x.mha", b"TransformMatrix = 1", b"TransformMatrix = nan", AffineError),
        ("x.mha", b"TransformMatrix = 1", b"TransformMatrix = x", FileFormatError),
        ("x.mha", b"ObjectType", b"<html>", FileFormatError),
        ("x.nrrd", b"NRRD", b"nrrd", FileFormatError),
        ("x.nrrd", b"type: short", b"type: block", FileFormatError),
        ("x.nrrd", b"encoding: raw", b"encoding: hex", FileFormatError),
        ("x.nrrd", b"sizes: 7 6 5", b"sizes: 7 6", InputError),
        ("x.nrrd", b"(5,", b"(1e300,", AffineError),
        ("x.nrrd", b"kinds: domain", b"kinds: ", None),
        ("x.mgh", b"\0\0\0\x01", b"\0\0\0\x02", FileFormatError),
    ],
)
def test_a_header_that_promises_the_impossible_is_a_typed_error(
    tmp_path: Path, name: str, old: bytes, new: bytes, error: type[Exception] | None
) -> None:
    affine = np.diag([-1.0, -1, 1, 1])
    affine[:3, 3] = (-5, -6, 7)
    path = write(tmp_path / name, affine)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    if error is None:
        assert read_volume(path).shape == SHAPE
        return
    with pytest.raises(error):
        read_volume(path)


def test_frames_and_vectors_are_told_apart(tmp_path: Path) -> None:
    """A list of frames comes after the axes of space, the values of a vector before them."""
    frames = np.stack([VOXELS, VOXELS + 1], axis=3)
    nib.save(nib.MGHImage(frames, np.eye(4)), tmp_path / "x.mgz")
    with pytest.raises(ShapeError, match="2 frames"):
        read_volume(tmp_path / "x.mgz")
    assert np.array_equal(read_volume(tmp_path / "x.mgz", frame=1).array, VOXELS + 1)

    def nrrd(sizes: str, directions: str) -> Path:
        head = f"NRRD0005\ntype: short\ndimension: 4\nsizes: {sizes}\nendian: little\n"
        head += f"space: LPS\nspace directions: {directions}\nencoding: gzip\n\n"
        path = tmp_path / "x.nrrd"
        path.write_bytes(head.encode() + gzip.compress(frames.tobytes(order="F")))
        return path

    path = nrrd("7 6 5 2", "(1,0,0) (0,1,0) (0,0,1) none")
    assert np.array_equal(read_volume(path, frame=1).array, VOXELS + 1)
    with pytest.raises(FileFormatError, match="vector"):
        read_volume(nrrd("2 7 6 5", "none (1,0,0) (0,1,0) (0,0,1)"))
