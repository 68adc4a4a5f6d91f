"""Reading sound NIfTI files, odd ones included."""

from __future__ import annotations

import gzip
import re
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medrd.errors import GridMismatchError
from medrd.images.header import inspect_nifti
from medrd.images.nifti import read_mask, read_nifti, write_nifti
from medrd.images.read import read_volume

LPS = np.array([[-1.0, 0, 0, 90], [0, -1.0, 0, 120], [0, 0, 1.0, -70], [0, 0, 0, 1]])


def save(path: Path, array: np.ndarray, affine: np.ndarray = LPS, **fields: Any) -> Path:
    """A NIfTI-1 file whose header fields may be anything."""
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.set_qform(affine, code=1)
    header = image.header
    for name, value in {"vox_offset": 352, "sform_code": 1, **fields}.items():
        header[name] = value
    content = header.binaryblock + bytes(4) + array.tobytes("F")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def numbered(*shape: int, dtype: str = "i2") -> np.ndarray:
    return np.arange(1, np.prod(shape) + 1, dtype=dtype).reshape(shape)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8", "i8", ">i2", ">f8"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_of_every_type_are_those_that_nibabel_reads(
    tmp_path: Path, dtype: str, suffix: str
) -> None:
    order = ">" if dtype.startswith(">") else "<"
    array = numbered(4, 5, 6, dtype=dtype)
    image = nib.Nifti1Image(array, LPS, nib.Nifti1Header(endianness=order), dtype=array.dtype)
    path = tmp_path / f"scan{suffix}"
    nib.save(image, path)

    volume = read_nifti(path)

    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_array_equal(volume.affine, nib.load(path).affine)
    assert (volume.path, volume.warnings) == (path, ())


def test_slope_and_intercept_are_applied_in_double_precision(tmp_path: Path) -> None:
    array = np.linspace(-32768, 32767, 1000).astype("<i2").reshape(10, 10, 10)
    path = save(tmp_path / "scan.nii", array, scl_slope=0.1234567, scl_inter=-1000.1)
    expected = nib.load(path).get_fdata().astype(np.float32)
    np.testing.assert_array_equal(read_nifti(path).array, expected)


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_a_slope_of_zero_or_nan_means_none(tmp_path: Path, slope: float) -> None:
    path = save(tmp_path / "scan.nii", numbered(3, 4, 5), scl_slope=slope, scl_inter=7)
    np.testing.assert_array_equal(read_nifti(path).array, numbered(3, 4, 5))


@pytest.mark.parametrize("shape", [(3, 4, 5, 4), (3, 4, 5, 1, 4), (3, 4, 5, 2, 2)])
def test_a_frame_is_picked_in_the_order_of_the_file(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = numbered(*shape)
    path = save(tmp_path / "scan.nii.gz", array)
    frames = array.reshape(3, 4, 5, 4, order="F")
    for frame in range(4):
        volume = read_nifti(path, frame=frame)
        np.testing.assert_array_equal(volume.array, frames[..., frame])
        assert volume.grid.shape == (3, 4, 5)
    assert inspect_nifti(path, frame=0).frames == 4


def test_other_frames_are_not_held_in_memory(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii.gz", np.ones((64, 64, 64, 12), "<f8"))  # 24 MiB
    tracemalloc.start()
    read_nifti(path, frame=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


@pytest.mark.parametrize("shape", [(3, 4, 5, 1), (3, 4, 5, 1, 1), (3, 4, 1), (1, 1, 1)])
def test_dimensions_of_one_are_kept_in_the_grid_and_dropped_after_the_third(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    volume = read_nifti(save(tmp_path / "scan.nii", numbered(*shape)))
    assert volume.shape == shape[:3]
    assert volume.grid.shape == shape


@pytest.mark.parametrize("named", ["scan.hdr", "scan.img", "scan.hdr.gz", "scan.img.gz"])
def test_either_file_of_a_pair_will_do(tmp_path: Path, named: str) -> None:
    nib.save(nib.Nifti1Pair(numbered(3, 4, 5), LPS), tmp_path / named)
    np.testing.assert_array_equal(read_nifti(tmp_path / named).array, numbered(3, 4, 5))


def test_nifti_2_keeps_double_precision_geometry(tmp_path: Path) -> None:
    affine = LPS.copy()
    affine[0, 3] = 1 / 3
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti2Image(numbered(3, 4, 5), affine), path)
    volume = read_nifti(path)
    np.testing.assert_array_equal(volume.array, numbered(3, 4, 5))
    assert volume.affine[0, 3] == 1 / 3


def test_header_extensions_are_passed_over(tmp_path: Path) -> None:
    image = nib.Nifti1Image(numbered(3, 4, 5), LPS)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nib.save(image, tmp_path / "scan.nii.gz")
    volume = read_nifti(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(volume.array, numbered(3, 4, 5))


def test_a_voxel_offset_of_zero_means_right_after_the_header(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", numbered(3, 4, 5), vox_offset=0)
    np.testing.assert_array_equal(read_nifti(path).array, numbered(3, 4, 5))


def test_a_folder_with_a_scans_name_that_holds_one_is_that_scan(tmp_path: Path) -> None:
    (tmp_path / "scan_flair.nii").mkdir()
    save(tmp_path / "scan_flair.nii" / "unpacked.nii", numbered(3, 4, 5))
    volume = read_volume(tmp_path / "scan_flair.nii")
    np.testing.assert_array_equal(volume.array, numbered(3, 4, 5))


def test_a_header_is_judged_without_its_voxels(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", numbered(3, 4, 5))
    path.write_bytes(path.read_bytes()[:352])
    header = inspect_nifti(path)
    assert (header.shape, header.frames, header.frame) == ((3, 4, 5), 1, 0)
    np.testing.assert_array_equal(header.affine, LPS)


def shifted(mm: float) -> dict[str, Any]:
    """Header fields of a qform apart from the sform."""
    return {"qoffset_x": LPS[0, 3] + mm}


SHEARED = {"srow_x": (-1.0, 0.2, 0.0, 90.0)}
NO_CODES = {"sform_code": 0, "qform_code": 0}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (shifted(10.0), "10 mm apart"),
        (shifted(0.4), None),  # under half a voxel
        ({**shifted(10.0), "sform_code": 0}, None),  # only one of them is coded
        ({**SHEARED, "qform_code": 0}, "sheared"),
        ({"srow_x": (-1.0, 0.0005, 0.0, 90.0)}, None),  # rounding, not shear
        (NO_CODES, "a guess"),
        ({"sform_code": 77}, "sform_code 77 is unknown"),
        ({"xyzt_units": 5}, "unknown unit 5"),
        ({"intent_code": 1002}, "a label, not a scan"),
        ({"intent_code": 5}, "a statistic, not a scan"),
        ({"intent_code": 1001}, None),
        ({"pixdim": [0, 1, 1, 1, 0, 0, 0, 0]}, "is 0 instead of 1 or -1"),
        ({"pixdim": [3, 1, 1, 1, 0, 0, 0, 0], "sform_code": 0}, "is 3 instead of 1 or -1"),
        ({"pixdim": [0, 1, 1, 1, 0, 0, 0, 0], "qform_code": 0}, None),  # it counts nowhere
        ({"pixdim": [1, 0, 1, 1, 0, 0, 0, 0], "qform_code": 0}, "0 x 1 x 1 mm .* sform"),
        ({"pixdim": [1, 2, 1, 1, 0, 0, 0, 0], "qform_code": 0}, "2 x 1 x 1 mm .* sform"),
        ({"pixdim": [1, -1, 1, 1, 0, 0, 0, 0], "sform_code": 0}, "negative"),
        ({"quatern_b": 1, "quatern_c": 1, "quatern_d": 1}, "not a rotation"),
        ({"bitpix": 8}, "bitpix is 8"),
        ({"scl_slope": 0, "scl_inter": 5}, "scl_inter, 5, is not added"),
        ({"scl_slope": np.nan, "scl_inter": 5}, "scl_slope is NaN"),
        ({"vox_offset": 0}, "vox_offset is 0"),
    ],
)
def test_odd_geometry_is_warned_of_and_read_as_nibabel_reads_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], words: str | None
) -> None:
    path = save(tmp_path / "scan.nii", numbered(3, 4, 5), **fields)
    volume = read_nifti(path)
    assert not caplog.records  # said once, in warnings, and not by nibabel too
    np.testing.assert_array_equal(volume.affine, nib.load(path).affine)
    if words is None:
        assert volume.warnings == ()
    else:
        assert [bool(re.search(words, warning)) for warning in volume.warnings] == [True]


@pytest.mark.parametrize(("units", "words", "mm"), [(1, "metres", 1e3), (3, "microns", 1e-3)])
@pytest.mark.parametrize("codes", [{}, {"sform_code": 0}, NO_CODES])
def test_lengths_are_converted_to_mm(
    tmp_path: Path, units: int, words: str, mm: float, codes: dict[str, Any]
) -> None:
    path = save(tmp_path / "scan.nii", numbered(3, 4, 5), xyzt_units=units, **codes)
    volume = read_nifti(path)
    expected = nib.load(path).affine
    expected[:3] *= mm
    np.testing.assert_allclose(volume.affine, expected, rtol=1e-6)
    assert sum(words in warning for warning in volume.warnings) == 1
    write_nifti(tmp_path / "map.nii", volume.array, volume, dtype="float32")
    np.testing.assert_array_equal(nib.load(tmp_path / "map.nii").affine, nib.load(path).affine)


def test_padding_after_the_voxels_is_warned_of(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", numbered(3, 4, 5))
    with path.open("ab") as file:
        file.write(bytes(160))
    volume = read_nifti(path)
    np.testing.assert_array_equal(volume.array, numbered(3, 4, 5))
    assert "160 bytes" in volume.warnings[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_few_nonfinite_voxels_become_zero(tmp_path: Path, bad: float) -> None:
    array = np.zeros((20, 20, 20))
    array[:10, :10, :10] = 5  # 1,000 voxels of brain in 8,000
    array[0, :10, 0] = bad  # exactly 1 % of them
    volume = read_nifti(save(tmp_path / "scan.nii", array))
    assert not volume.array[0, :10, 0].any()
    assert np.count_nonzero(volume.array) == 990
    assert "10 voxels were NaN or infinite" in volume.warnings[0]


def test_a_mask_is_everything_but_zero(tmp_path: Path) -> None:
    labels = np.zeros((3, 4, 5), "u1")
    labels[0, 0, :3] = (1, 2, 4)
    like = read_nifti(save(tmp_path / "scan.nii", numbered(3, 4, 5)))
    mask = read_mask(save(tmp_path / "label.nii.gz", labels), like)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, labels > 0)


def test_a_mask_elsewhere_is_refused(tmp_path: Path) -> None:
    like = read_nifti(save(tmp_path / "scan.nii", numbered(3, 4, 5)))
    moved = save(tmp_path / "label.nii", numbered(3, 4, 5), np.diag([1.0, 1, 1, 1]))
    with pytest.raises(GridMismatchError):
        read_mask(moved, like)


def test_real_subject(brats_root: Path) -> None:
    folder = sorted(brats_root.iterdir())[0]
    scan = folder / f"{folder.name}_flair.nii.gz"
    volume = read_nifti(scan)
    np.testing.assert_array_equal(volume.array, nib.load(scan).get_fdata(dtype=np.float32))
    assert (volume.shape, volume.orientation) == ((240, 240, 155), "LPS")
    assert (volume.spacing_mm, volume.warnings) == ((1.0, 1.0, 1.0), ())
    label = folder / f"{folder.name}_seg.nii.gz"
    assert read_mask(label, volume).sum() == np.count_nonzero(nib.load(label).dataobj)
