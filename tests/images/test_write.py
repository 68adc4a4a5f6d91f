"""Maps come back on the very grid of their scan."""

from __future__ import annotations

import gzip
import itertools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medrd.errors import OutputError
from medrd.images.nifti import read_nifti, write_nifti
from medrd.images.volume import Volume, volume_from_array

GEOMETRY = [
    *("dim", "sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "pixdim"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    "xyzt_units",
]
ORIENTATIONS = list(
    itertools.product(itertools.permutations(range(3)), itertools.product((-1, 1), repeat=3))
)


def save(path: Path, header: nib.Nifti1Header, array: np.ndarray) -> Path:
    """A header as it is, broken fields included, and its voxels."""
    header.set_data_dtype(array.dtype)
    header["vox_offset"] = header.single_vox_offset
    content = header.binaryblock + bytes(4) + array.astype(header.get_data_dtype()).tobytes("F")
    path.write_bytes(content)
    return path


def header_of(affine: np.ndarray, shape: tuple[int, ...], **fields: Any) -> nib.Nifti1Header:
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    for name, value in fields.items():
        header[name] = value
    return header


def assert_same_grid(result: Path, source: Path) -> None:
    got, expected = nib.load(result), nib.load(source)
    np.testing.assert_array_equal(got.affine, expected.affine)
    assert got.shape == expected.shape
    # Raw bytes, because nibabel repairs headers on loading.
    raw = gzip.decompress(result.read_bytes()), source.read_bytes()
    kind = type(expected.header)
    got_raw, expected_raw = (kind(part[: kind.sizeof_hdr], check=False) for part in raw)
    for name in GEOMETRY:
        np.testing.assert_array_equal(got_raw[name], expected_raw[name], err_msg=name)


@pytest.fixture
def scan(tmp_path: Path) -> Volume:
    array = np.arange(60, dtype="i2").reshape(3, 4, 5)
    return read_nifti(save(tmp_path / "scan.nii", header_of(np.eye(4), (3, 4, 5)), array))


@pytest.mark.parametrize(
    ("number", "axes", "signs"), [(i, axes, signs) for i, (axes, signs) in enumerate(ORIENTATIONS)]
)
def test_all_48_orientations_come_back_bit_equal(
    tmp_path: Path, number: int, axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    oblique = nib.eulerangles.euler2mat(0.02, -0.03, 0.05)
    affine = np.eye(4)
    affine[:3, :3] = oblique @ (np.eye(3)[list(axes)] * signs) @ np.diag([0.9, 1.1, 3.0])
    affine[:3, 3] = (-91.3, 126.7, -72.1)
    header = header_of(affine, (3, 4, 5), sform_code=number % 5, qform_code=number // 5 % 5)
    array = np.arange(60, dtype="f4").reshape(3, 4, 5) / 7
    source = save(tmp_path / "scan.nii", header, array)

    volume = read_nifti(source)
    write_nifti(tmp_path / "map.nii.gz", volume.array, volume, dtype="float32")

    assert_same_grid(tmp_path / "map.nii.gz", source)
    np.testing.assert_array_equal(nib.load(tmp_path / "map.nii.gz").get_fdata(), array)


EYE = np.eye(4)
LEFT_HANDED = np.diag([1.0, 1.0, -1.0, 1.0])
SHEARED = np.array([[1.0, 0.3, 0, 5], [0, 1, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("shape", "affine", "fields"),
    [
        ((3, 4, 5, 1), EYE, {}),
        ((3, 4, 5, 1, 1), EYE, {}),
        ((3, 4, 1), EYE, {}),
        ((3, 4, 5), SHEARED, {}),
        ((3, 4, 5), LEFT_HANDED, {"sform_code": 0}),
        ((3, 4, 5), LEFT_HANDED, {"sform_code": 0, "qform_code": 0}),
        ((3, 4, 5), EYE, {"qoffset_x": 10.0, "qform_code": 2}),
        ((3, 4, 5), EYE, {"pixdim": [0, 1, 1, 1, 2.5, 0, 0, 0], "sform_code": 0}),
        ((3, 4, 5), EYE, {"pixdim": [1, -1, 0, 1, 0, 0, 0, 0]}),
        ((3, 4, 5), EYE, {"sform_code": 77, "xyzt_units": 10}),
        ((3, 4, 5), EYE, {"quatern_b": 3.0}),
        ((3, 4, 5), EYE, {"quatern_b": np.nan, "qform_code": 0}),
    ],
)
def test_odd_grids_come_back_bit_equal(
    tmp_path: Path, shape: tuple[int, ...], affine: np.ndarray, fields: dict[str, Any]
) -> None:
    array = np.ones(shape, "i2")
    source = save(tmp_path / "scan.nii", header_of(affine, shape, **fields), array)
    volume = read_nifti(source)
    write_nifti(tmp_path / "map.nii.gz", volume.array, volume, dtype="float32")
    if fields.get("quatern_b") == 3.0:  # nibabel loads such a file but not its qform
        fields = {}
    assert_same_grid(tmp_path / "map.nii.gz", source)


def test_a_nifti_2_scan_gets_a_nifti_2_map(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 3] = 1 / 3  # not representable in NIfTI-1's float32
    source = tmp_path / "scan.nii"
    nib.save(nib.Nifti2Image(np.ones((3, 4, 5), "i2"), affine), source)
    volume = read_nifti(source)
    write_nifti(tmp_path / "map.nii.gz", volume.array, volume, dtype="float32")
    assert_same_grid(tmp_path / "map.nii.gz", source)


def test_a_big_endian_scan_gets_a_map_on_its_grid(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(np.ones((3, 4, 5), "i2"), np.diag([-2.0, 3, 4, 1]), header)
    nib.save(image, tmp_path / "scan.nii")
    volume = read_nifti(tmp_path / "scan.nii")
    grid = volume.grid
    raw = (grid.sform, grid.quaternion, grid.offset, grid.pixdim)
    assert [part.dtype.str for part in raw] == [np.dtype("=f4").str] * 4
    write_nifti(tmp_path / "map.nii", volume.array, volume, dtype="float32")
    for name in GEOMETRY:
        got = nib.load(tmp_path / "map.nii").header[name]
        np.testing.assert_array_equal(got, image.header[name], err_msg=name)


@pytest.mark.parametrize("dtype", ["u1", "<i2", "<f8"])
def test_a_map_is_unscaled_float32_whatever_the_scan(tmp_path: Path, dtype: str) -> None:
    header = header_of(np.eye(4), (3, 4, 5), scl_slope=0.01, scl_inter=-3)
    volume = read_nifti(save(tmp_path / "scan.nii", header, np.ones((3, 4, 5), dtype)))
    score = np.random.default_rng(0).random((3, 4, 5), dtype=np.float32)
    write_nifti(tmp_path / "map.nii.gz", score, volume, dtype="float32")

    image = nib.load(tmp_path / "map.nii.gz")
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), score)
    raw = gzip.decompress((tmp_path / "map.nii.gz").read_bytes())
    assert struct.unpack_from("<ff", raw, 112) == (1.0, 0.0)  # scl_slope, scl_inter on disk


def test_labels_of_a_map(tmp_path: Path, scan: Volume) -> None:
    write_nifti(
        tmp_path / "map.nii",
        scan.array,
        scan,
        dtype="float32",
        description="medrd é" + "x" * 100,
        intent_name="anomaly score and more",
        cal_max=2.5,
    )
    header = nib.load(tmp_path / "map.nii").header
    assert header.get_intent() == ("estimate", (), "anomaly score a")
    assert header["descrip"].item() == b"medrd ?" + b"x" * 72
    assert (header["cal_min"], header["cal_max"]) == (0, 2.5)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32, np.int64])
def test_a_mask_is_uint8_without_an_intent(tmp_path: Path, scan: Volume, kind: type) -> None:
    mask = scan.array > 30
    write_nifti(tmp_path / "mask.nii.gz", mask.astype(kind), scan, dtype="uint8")
    image = nib.load(tmp_path / "mask.nii.gz")
    assert image.get_data_dtype() == np.uint8
    assert image.header.get_intent()[0] == "none"
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), mask)


def test_equal_content_is_equal_bytes(
    tmp_path: Path, scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first.nii.gz", tmp_path / "second.nii.gz"
    write_nifti(first, scan.array, scan, dtype="float32")
    monkeypatch.setattr("time.time", lambda: 4e9)
    write_nifti(second, np.ascontiguousarray(scan.array), scan, dtype="float32")
    assert first.read_bytes() == second.read_bytes()


def test_a_scan_is_never_overwritten(tmp_path: Path, scan: Volume) -> None:
    assert scan.path is not None
    before = scan.path.read_bytes()
    (tmp_path / "link.nii").symlink_to(scan.path)
    for path in (scan.path, tmp_path / "link.nii", tmp_path / "." / "x" / ".." / "scan.nii"):
        with pytest.raises(OutputError, match="never overwrites"):
            write_nifti(path, scan.array, scan, dtype="float32")
    assert scan.path.read_bytes() == before


def test_other_suffixes_are_refused(tmp_path: Path, scan: Volume) -> None:
    with pytest.raises(OutputError, match=r"\.nii\.gz"):
        write_nifti(tmp_path / "map.mha", scan.array, scan, dtype="float32")


@pytest.mark.parametrize(
    ("spoil", "dtype", "words"),
    [
        (lambda array: array[:2], "float32", "expected an array of"),
        (lambda array: np.where(array == 7, np.nan, array), "float32", "finite"),
        (lambda array: array * 1e300, "float32", "finite"),
        (lambda array: array / 2, "uint8", "whole numbers"),
        (lambda array: array - 1, "uint8", "whole numbers"),
        (lambda array: array * 10, "uint8", "whole numbers"),
        (lambda array: np.where(array == 7, np.nan, array), "uint8", "whole numbers"),
    ],
)
def test_an_array_that_does_not_fit_is_a_bug_and_leaves_nothing(
    tmp_path: Path, scan: Volume, spoil: Callable[[Any], Any], dtype: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        write_nifti(tmp_path / "map.nii", spoil(scan.array.astype("f8")), scan, dtype=dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii"]


def test_a_volume_from_memory_can_be_written_and_keeps_its_place(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag([-0.7, -0.7, 2.1])
    affine[:3, 3] = (10.1, -20.2, 30.3)
    volume = volume_from_array(np.ones((3, 4, 5)), affine)
    write_nifti(tmp_path / "scan.nii.gz", volume.array, volume, dtype="float32")
    again = read_nifti(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(again.affine, volume.affine)
    np.testing.assert_allclose(again.affine, affine, atol=1e-5)
    image = nib.load(tmp_path / "scan.nii.gz")
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    np.testing.assert_allclose(image.get_qform(), affine, atol=1e-5)


def test_a_real_scan_gives_a_map_on_its_grid(tmp_path: Path, brats_root: Path) -> None:
    folder = sorted(brats_root.iterdir())[0]
    volume = read_nifti(folder / f"{folder.name}_flair.nii.gz")
    write_nifti(tmp_path / "map.nii.gz", volume.array, volume, dtype="float32")
    source = tmp_path / "scan.nii"
    source.write_bytes(gzip.decompress((folder / f"{folder.name}_flair.nii.gz").read_bytes()))
    assert_same_grid(tmp_path / "map.nii.gz", source)
