"""DICOM series become volumes on dcm2niix's grid, or an error that explains the problem."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless, generate_uid
from scipy.spatial.transform import Rotation

from dicoms import AXIAL, CORONAL, SAGITTAL, decimals, write_series
from medrd.errors import (
    FileFormatError,
    InputError,
    MissingInputError,
    SeriesError,
    ShapeError,
    TooLargeError,
)
from medrd.images.dicom import read_dicom
from medrd.images.read import read_volume

SHAPE = (5, 8, 10)
OBLIQUE = tuple(
    map(decimals, Rotation.from_euler("xyz", (10, -20, 30), degrees=True).as_matrix()[:2])
)


@pytest.fixture(scope="module")
def voxels() -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.uint16)


# --- Geometry ---


def test_a_voxel_is_where_the_header_of_its_slice_says(tmp_path: Path) -> None:
    voxels = np.zeros(SHAPE, np.uint16)
    voxels[3, 2, 7] = 500
    write_series(tmp_path, voxels, spacing_mm=(2.0, 1.5, 3.0), origin_mm=(-20, -30, 10))
    volume = read_dicom(tmp_path)
    ((x, y, z),) = np.argwhere(volume.array)
    lps = np.array([-20 + 7 * 1.5, -30 + 2 * 2.0, 10 + 3 * 3.0])
    np.testing.assert_allclose(volume.affine @ [x, y, z, 1], [*(lps * [-1, -1, 1]), 1], atol=1e-5)
    assert volume.array[x, y, z] == 500


@pytest.mark.skipif(not shutil.which("dcm2niix"), reason="needs dcm2niix (Debian: apt install it)")
@pytest.mark.parametrize("distance_mm", [3.0, -3.0])
@pytest.mark.parametrize("plane", [AXIAL, SAGITTAL, CORONAL, OBLIQUE])
def test_grid_and_voxels_are_those_of_dcm2niix(
    tmp_path: Path, voxels: NDArray[np.uint16], plane: tuple[list[float], ...], distance_mm: float
) -> None:
    def scale(data: Dataset, number: int) -> None:
        data.RescaleSlope, data.RescaleIntercept = 2.5, -10

    spacing = (2.0, 1.5, distance_mm)
    write_series(tmp_path / "in", voxels, plane=plane, spacing_mm=spacing, change=scale)  # type: ignore[arg-type]
    (tmp_path / "out").mkdir()
    command = ["dcm2niix", "-b", "n", "-z", "n", "-o", tmp_path / "out", tmp_path / "in"]
    subprocess.run(command, check=True, capture_output=True)
    (converted,) = (tmp_path / "out").glob("*.nii")
    theirs, ours = nib.load(converted), read_dicom(tmp_path / "in")
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
    np.testing.assert_allclose(ours.array, theirs.get_fdata(), rtol=1e-6)
    assert ours.grid.sform_code == theirs.header["sform_code"]
    assert ours.grid.qform_code == theirs.header["qform_code"]


def test_a_slice_keeps_its_own_scaling(tmp_path: Path, voxels: NDArray[np.uint16]) -> None:
    """ITK's series reader gives all slices the type of the first, and cuts the fractions."""

    def scale(data: Dataset, number: int) -> None:
        data.RescaleSlope, data.RescaleIntercept = 1 + number / 4, 0

    write_series(tmp_path, voxels, change=scale)
    factors = 1 + np.arange(SHAPE[0]) / 4
    expected = (voxels * factors[:, None, None]).transpose(2, 1, 0)[:, ::-1]
    np.testing.assert_allclose(read_dicom(tmp_path).array, expected, rtol=1e-6)


# --- What is read all the same ---


@pytest.mark.parametrize("codec", ["JPEG", "JPEG2000", "RLE"])
def test_compressed_slices_are_the_same_voxels(
    tmp_path: Path, voxels: NDArray[np.uint16], codec: str
) -> None:
    write_series(tmp_path / "plain", voxels)
    plain = read_dicom(tmp_path / "plain")
    (tmp_path / "packed").mkdir()
    for path in sorted((tmp_path / "plain").iterdir()):
        packed = tmp_path / "packed" / f"{path.name}.dcm"
        if codec == "RLE":
            data = pydicom.dcmread(path)
            data.compress(RLELossless)
            data.save_as(packed)
        else:
            writer = SimpleITK.ImageFileWriter()
            writer.SetImageIO("GDCMImageIO")
            writer.KeepOriginalImageUIDOn()
            writer.UseCompressionOn()
            writer.SetCompressor(codec)
            writer.SetFileName(str(packed))
            writer.Execute(SimpleITK.ReadImage(str(path)))
    syntax = pydicom.dcmread(tmp_path / "packed" / "000.dcm").file_meta.TransferSyntaxUID
    assert syntax.is_compressed
    volume = read_dicom(tmp_path / "packed")
    np.testing.assert_array_equal(volume.array, plain.array)
    np.testing.assert_allclose(volume.affine, plain.affine, atol=1e-5)


def test_order_is_by_place_and_copies_count_once(
    tmp_path: Path, voxels: NDArray[np.uint16]
) -> None:
    def backwards(data: Dataset, number: int) -> None:
        data.InstanceNumber = 100 - number

    write_series(tmp_path / "in", voxels, change=backwards)
    expected = read_dicom(tmp_path / "in")
    np.testing.assert_array_equal(expected.array[:, ::-1, 2].T, voxels[2])
    shutil.copy(tmp_path / "in" / "002", tmp_path / "in" / "a copy")
    (tmp_path / "in" / "notes.txt").write_text("no DICOM")
    (tmp_path / "in" / "._000").write_bytes((tmp_path / "in" / "000").read_bytes())
    again = read_volume(tmp_path / "in")
    np.testing.assert_array_equal(again.array, expected.array)
    assert any("1 copies" in warning for warning in again.warnings)


def test_numbers_that_a_volume_can_do_without_may_be_none(
    tmp_path: Path, voxels: NDArray[np.uint16]
) -> None:
    write_series(tmp_path, voxels)
    expected = read_dicom(tmp_path)
    for name, number, thickness in (("001", "1/5", "thin"), ("002", "2.0", "nan")):
        data = pydicom.dcmread(tmp_path / name)
        for tag, value in ((0x00200013, number), (0x00180050, thickness)):
            data[tag] = DataElement(tag, "LO", value)  # pydicom checks numbers, not text
        data.save_as(tmp_path / name)
    again = read_dicom(tmp_path)
    np.testing.assert_array_equal(again.array, expected.array)
    assert again.warnings == ()


def test_slices_of_one_uid_are_copies_only_if_place_and_pixels_are_the_same(
    tmp_path: Path, voxels: NDArray[np.uint16]
) -> None:
    uid = generate_uid()

    def same(data: Dataset, number: int) -> None:
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid

    write_series(tmp_path, voxels, change=same)
    volume = read_dicom(tmp_path)
    np.testing.assert_array_equal(volume.array, voxels.transpose(2, 1, 0)[:, ::-1])
    assert any("one SOP Instance UID" in warning for warning in volume.warnings)
    assert not any("copies" in warning for warning in volume.warnings)
    other = pydicom.dcmread(tmp_path / "002")
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(tmp_path / "other")
    with pytest.raises(SeriesError, match=r"2 at 16\.00 mm"):
        read_dicom(tmp_path)


def test_a_distance_other_than_the_headers_is_warned_of(
    tmp_path: Path, voxels: NDArray[np.uint16]
) -> None:
    def say(data: Dataset, number: int) -> None:
        data.SpacingBetweenSlices = 3

    write_series(tmp_path, voxels, change=say)
    assert read_dicom(tmp_path).warnings == ()
    for number in (1, 3):
        (tmp_path / f"{number:03d}").unlink()
    (warning,) = read_dicom(tmp_path).warnings
    assert "6.00 mm apart, their headers say 3.00 mm" in warning


def report_file(path: Path) -> None:
    """A structured report: a DICOM file without an image, in a series of its own."""
    data = pydicom.dcmread(path)
    for name in ("Rows", "Columns", "PixelData", "BitsAllocated", "PixelSpacing"):
        delattr(data, name)
    basic_text = "1.2.840.10008.5.1.4.1.1.88.11"
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = basic_text
    data.SeriesInstanceUID = generate_uid()
    data.save_as(path.with_name("report"))


def test_reports_and_damaged_files_of_other_series_are_passed_over(
    tmp_path: Path, voxels: NDArray[np.uint16]
) -> None:
    uid = write_series(tmp_path, voxels)
    expected = read_dicom(tmp_path).array
    report_file(tmp_path / "002")
    plain = read_dicom(tmp_path)
    np.testing.assert_array_equal(plain.array, expected)
    assert any("without an image" in warning for warning in plain.warnings)
    write_series(tmp_path, voxels, prefix="b")
    (tmp_path / "b002").write_bytes((tmp_path / "b002").read_bytes()[:-40])
    chosen = read_dicom(tmp_path, series=uid)
    np.testing.assert_array_equal(chosen.array, expected)
    assert any("b002" in warning for warning in chosen.warnings)
    with pytest.raises(FileFormatError, match="b002: expected a whole"):
        read_dicom(tmp_path)
    cut(tmp_path)
    with pytest.raises(FileFormatError, match="/002: expected a whole"):
        read_dicom(tmp_path, series=uid)


@pytest.mark.parametrize("numbered", ["by volume", "by slice"])
def test_of_a_series_over_time_one_frame_is_chosen(
    tmp_path: Path, voxels: NDArray[np.uint16], numbered: str
) -> None:
    uid, frames = generate_uid(), 3
    for frame in range(frames):

        def change(data: Dataset, number: int, frame: int = frame) -> None:
            data.SeriesInstanceUID = uid
            by_volume = numbered == "by volume"
            data.InstanceNumber = (
                frame * SHAPE[0] + number if by_volume else number * frames + frame
            )

        write_series(tmp_path, voxels + frame, change=change, prefix=f"{frame}-")
    with pytest.raises(ShapeError, match="3 volumes of 5 slices"):
        read_dicom(tmp_path)
    with pytest.raises(ShapeError, match="frame 3"):
        read_dicom(tmp_path, frame=3)
    third = read_dicom(tmp_path, frame=2)
    np.testing.assert_array_equal(third.array, (voxels + 2).transpose(2, 1, 0)[:, ::-1])
    number = pydicom.dcmread(tmp_path / "0-002").InstanceNumber
    tagged(tmp_path, "1-002", InstanceNumber=number)
    with pytest.raises(SeriesError, match="3 volumes that their instance numbers tell apart"):
        read_dicom(tmp_path, frame=2)


def test_one_of_several_series_is_chosen_by_uid_or_by_a_file(
    tmp_path: Path, voxels: NDArray[np.uint16]
) -> None:
    first = write_series(tmp_path, voxels, prefix="a")
    second = write_series(tmp_path, voxels + 1, prefix="b")
    with pytest.raises(SeriesError, match=r"found 2: .*simulated, 5 files") as raised:
        read_dicom(tmp_path)
    assert first in str(raised.value)
    assert second in str(raised.value)
    with pytest.raises(MissingInputError):
        read_dicom(tmp_path, series="1.2.3")
    by_uid, by_file = read_dicom(tmp_path, series=second), read_dicom(tmp_path / "b003")
    np.testing.assert_array_equal(by_uid.array, (voxels + 1).transpose(2, 1, 0)[:, ::-1])
    np.testing.assert_array_equal(by_file.array, by_uid.array)


# --- What is no volume ---


def missing(folder: Path) -> None:
    (folder / "002").unlink()


def doubled(folder: Path) -> None:
    data = pydicom.dcmread(folder / "002")
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.save_as(folder / "other")


def moved(folder: Path, *, by_mm: Callable[[int], tuple[float, float, float]]) -> None:
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        place = np.array(data.ImagePositionPatient, float) + by_mm(int(path.name))
        data.ImagePositionPatient = decimals(place)
        data.save_as(path)


def uneven(folder: Path) -> None:
    moved(folder, by_mm=lambda number: (0, 0, 0.3 if number == 2 else 0))


def tilted(folder: Path) -> None:
    moved(folder, by_mm=lambda number: (0, 0.5 * number, 0))


def shifted(folder: Path) -> None:
    moved(folder, by_mm=lambda number: (15 if number == 2 else 0, 0, 0))


def tagged(folder: Path, file: str = "002", **tags: object) -> None:
    data = pydicom.dcmread(folder / file)
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(folder / file)


def scout(folder: Path) -> None:
    tagged(folder, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])


def other_echo(folder: Path) -> None:
    tagged(folder, EchoTime=80)


def placeless(folder: Path) -> None:
    data = pydicom.dcmread(folder / "002")
    del data.ImagePositionPatient
    data.save_as(folder / "002")


def enhanced(folder: Path) -> None:
    pixels = bytes(2 * 4 * SHAPE[1] * SHAPE[2])
    tagged(folder, NumberOfFrames=4, PixelData=pixels)


def negative(folder: Path) -> None:
    tagged(folder, PhotometricInterpretation="MONOCHROME1")


def cut(folder: Path) -> None:
    whole = (folder / "002").read_bytes()
    (folder / "002").write_bytes(whole[:-40])


def rare_codec(folder: Path) -> None:
    data = pydicom.dcmread(folder / "002")
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4
    data.PixelData = pydicom.encaps.encapsulate([b"no video"])
    data["PixelData"].is_undefined_length = True
    data.save_as(folder / "002")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("harm", "kind", "says"),
    [
        (missing, SeriesError, "1 missing among slices 3.00 mm apart"),
        (doubled, SeriesError, "2 at 16.00 mm"),
        (uneven, SeriesError, "distances from 2.70 to 3.30 mm"),
        (tilted, SeriesError, "tilted gantry"),
        (shifted, SeriesError, "002 12.00 mm beside the row"),
        (scout, SeriesError, "different planes"),
        (other_echo, SeriesError, "same image type and echo time"),
        (placeless, FileFormatError, r"3 numbers in tag \(0020,0032\)"),
        (enhanced, FileFormatError, "multi-frame image of 4 frames"),
        (negative, FileFormatError, "MONOCHROME1"),
        (cut, FileFormatError, "002: expected a whole DICOM image"),
        (rare_codec, FileFormatError, r"1\.2\.840\.10008\.1\.2\.4\.102"),
        (empty, MissingInputError, "expected DICOM files"),
    ],
)
def test_what_is_no_volume_is_refused_by_name(
    tmp_path: Path,
    voxels: NDArray[np.uint16],
    capfd: pytest.CaptureFixture[str],
    harm: Callable[[Path], None],
    kind: type[InputError],
    says: str,
) -> None:
    folder = tmp_path / "series"
    write_series(folder, voxels)
    harm(folder)
    with pytest.raises(kind, match=says):
        read_dicom(folder)
    assert capfd.readouterr().err == ""  # ITK's own warnings say nothing to a user


def test_a_series_above_the_budget_is_not_decoded(
    tmp_path: Path, voxels: NDArray[np.uint16]
) -> None:
    write_series(tmp_path, voxels)
    with pytest.raises(TooLargeError, match="400 voxels in 5 files"):
        read_dicom(tmp_path, max_voxels=399)
