"""DICOM series become volumes on dcm2niix's grid, or an error that tells what is wrong."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
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
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from scipy.spatial.transform import Rotation

from dicoms import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    decimals,
    write_enhanced,
    write_mosaic,
    write_series,
)
from medrd.errors import (
    FileFormatError,
    InputError,
    MissingExtraError,
    MissingInputError,
    SeriesError,
    ShapeError,
    TooLargeError,
)
from medrd.images.dcm2niix import find_dcm2niix
from medrd.images.dicom import read_dicom
from medrd.images.read import read_volume

SHAPE = (5, 8, 10)
OBLIQUE = tuple(
    map(decimals, Rotation.from_euler("xyz", (10, -20, 30), degrees=True).as_matrix()[:2])
)
PLANES = [AXIAL, SAGITTAL, CORONAL, OBLIQUE]
SPACING, ORIGIN = (2.0, 1.5), np.array([-20.0, -30.0, 10.0])


@pytest.fixture(scope="module")
def voxels() -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.uint16)


# --- Geometry ---


def place_of(
    index: tuple[int, int, int], plane: tuple[list[float], ...], distance_mm: float
) -> NDArray[np.float64]:
    """Where the header of its slice puts a voxel (slice, row, column): RAS+ mm."""
    number, down, right = index
    lps = ORIGIN + number * distance_mm * np.cross(*plane)
    lps = lps + right * SPACING[1] * np.array(plane[0]) + down * SPACING[0] * np.array(plane[1])
    return lps * [-1, -1, 1]


def scaled(data: Dataset, number: int) -> None:
    data.RescaleSlope, data.RescaleIntercept = 2.5, -10


def three_dimensional(data: Dataset, number: int) -> None:
    """dcm2niix turns the grid of such a series."""
    scaled(data, number)
    data.MRAcquisitionType = "3D"


@pytest.mark.parametrize("distance_mm", [3.0, -3.0])
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("kind", ["2D", "3D", "enhanced", "mosaic"])
def test_a_voxel_is_where_the_header_of_its_slice_puts_it(
    tmp_path: Path, kind: str, plane: tuple[list[float], ...], distance_mm: float
) -> None:
    marked = {(3, 2, 7): 500, (0, 7, 1): 900}
    voxels = np.zeros(SHAPE, np.uint16)
    for index, value in marked.items():
        voxels[index] = value
    options = {"plane": plane, "spacing_mm": (*SPACING, distance_mm), "origin_mm": ORIGIN}
    if kind == "enhanced":
        write_enhanced(tmp_path / "IM", voxels, **options)  # type: ignore[arg-type]
    elif kind == "mosaic":
        write_mosaic(tmp_path, voxels, **options)  # type: ignore[arg-type]
    else:
        change = three_dimensional if kind == "3D" else scaled
        write_series(tmp_path, voxels, change=change, **options)  # type: ignore[arg-type]
    volume = read_dicom(tmp_path)
    assert volume.warnings == ()
    for index, value in marked.items():
        at = np.linalg.inv(volume.affine) @ [*place_of(index, plane, distance_mm), 1]
        np.testing.assert_allclose(at, np.round(at), atol=1e-4)
        expected = value if kind in ("enhanced", "mosaic") else 2.5 * value - 10
        assert volume.array[tuple(np.round(at[:3]).astype(int))] == expected


@pytest.mark.parametrize("distance_mm", [3.0, -3.0])
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("change", [scaled, three_dimensional])
def test_grid_and_voxels_are_those_that_dcm2niix_gives_to_users(
    tmp_path: Path,
    voxels: NDArray[np.uint16],
    plane: tuple[list[float], ...],
    distance_mm: float,
    change: Callable[[Dataset, int], None],
) -> None:
    spacing = (*SPACING, distance_mm)
    write_series(tmp_path / "in", voxels, plane=plane, spacing_mm=spacing, change=change)  # type: ignore[arg-type]
    (tmp_path / "out").mkdir()
    command = [find_dcm2niix(), "-o", tmp_path / "out", tmp_path / "in"]
    subprocess.run(command, check=True, capture_output=True)
    (converted,) = (tmp_path / "out").glob("*.nii")
    theirs, ours = nib.load(converted), read_dicom(tmp_path / "in")
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
    np.testing.assert_allclose(ours.array, theirs.get_fdata(), rtol=1e-6)
    assert ours.grid.sform_code == theirs.header["sform_code"]
    assert ours.grid.qform_code == theirs.header["qform_code"]


def test_rounded_positions_do_not_add_up(tmp_path: Path) -> None:
    """dcm2niix takes the distance of the first two slices for that of all."""

    def rounded(data: Dataset, number: int) -> None:
        data.ImagePositionPatient = [-20, -30, round(10 + 1.0333 * number, 2)]

    write_series(tmp_path, np.ones((180, 4, 4)), spacing_mm=(1, 1, 1.0333), change=rounded)
    volume = read_dicom(tmp_path)
    np.testing.assert_allclose(volume.affine @ [0, 0, 179, 1], [20, 27, 194.96, 1], atol=0.01)
    assert any("placed by their headers" in warning for warning in volume.warnings)


def test_a_tilted_gantry_is_straightened(tmp_path: Path) -> None:
    """A rod that stands upright in space, in CT slices that shift against each other."""
    shift_px, voxels = 1, np.zeros((6, 20, 12), np.uint16)
    for number in range(6):
        voxels[number, 12 - shift_px * number, 5] = 1000

    def tilted(data: Dataset, number: int) -> None:
        data.Modality = "CT"
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.GantryDetectorTilt = round(float(np.degrees(np.arctan(2 / 5))), 4)
        shift_mm = np.array([0, 2 * shift_px, 5]) * number
        data.ImagePositionPatient = decimals(ORIGIN + shift_mm)

    write_series(tmp_path, voxels, spacing_mm=(2, 1.5, 5), change=tilted)
    volume = read_dicom(tmp_path)
    (warning,) = volume.warnings
    assert "tilted" in warning
    rod = np.array([np.unravel_index(part.argmax(), part.shape) for part in volume.array.T])
    places = (
        volume.affine[:3, :3] @ np.array([rod[:, 1], rod[:, 0], np.arange(6)])
        + volume.affine[:3, 3:]
    )
    lps = ORIGIN + np.array([5 * 1.5, 12 * 2, 0])
    np.testing.assert_allclose(places[0], -lps[0], atol=1e-3)
    np.testing.assert_allclose(places[1], -lps[1], atol=2)  # a row at most
    np.testing.assert_allclose(places[2], lps[2] + 5 * np.arange(6), atol=1e-3)


def test_a_slice_keeps_its_own_scaling(tmp_path: Path, voxels: NDArray[np.uint16]) -> None:
    def scale(data: Dataset, number: int) -> None:
        data.RescaleSlope, data.RescaleIntercept = 1 + number / 4, 0

    write_series(tmp_path, voxels, change=scale)
    factors = 1 + np.arange(SHAPE[0]) / 4
    expected = (voxels * factors[:, None, None]).transpose(2, 1, 0)[:, ::-1]
    np.testing.assert_allclose(read_dicom(tmp_path).array, expected, rtol=1e-6)


# --- What is read all the same ---


def test_philips_values_are_the_precise_ones(tmp_path: Path, voxels: NDArray[np.uint16]) -> None:
    """Those of the display differ by a factor from scan to scan."""

    def philips(data: Dataset, number: int) -> None:
        data.Manufacturer, data.RescaleSlope, data.RescaleIntercept = "Philips", 2, 0
        block = data.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        block.add_new(0x0E, "FL", 0.25)  # scale slope
        block.add_new(0x0D, "FL", 0.0)  # scale intercept

    write_series(tmp_path, voxels, change=philips)
    expected = voxels.transpose(2, 1, 0)[:, ::-1] / 0.25
    np.testing.assert_allclose(read_dicom(tmp_path).array, expected, rtol=1e-6)


@pytest.mark.parametrize("codec", ["JPEG", "JPEG2000", "JPEG-LS", "RLE", "deflated"])
def test_compressed_slices_are_the_same_voxels(
    tmp_path: Path, voxels: NDArray[np.uint16], codec: str
) -> None:
    write_series(tmp_path / "plain", voxels)
    plain = read_dicom(tmp_path / "plain")
    (tmp_path / "packed").mkdir()
    for path in sorted((tmp_path / "plain").iterdir()):
        packed = tmp_path / "packed" / f"{path.name}.dcm"
        data = pydicom.dcmread(path)
        if codec in ("RLE", "JPEG-LS"):
            data.compress(RLELossless if codec == "RLE" else JPEGLSLossless)
            data.save_as(packed)
        elif codec == "deflated":
            data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
            data.save_as(packed, enforce_file_format=True)
        else:
            writer = SimpleITK.ImageFileWriter()
            writer.SetImageIO("GDCMImageIO")
            writer.KeepOriginalImageUIDOn()
            writer.UseCompressionOn()
            writer.SetCompressor(codec)
            writer.SetFileName(str(packed))
            writer.Execute(SimpleITK.ReadImage(str(path)))
    syntax = pydicom.dcmread(tmp_path / "packed" / "000.dcm").file_meta.TransferSyntaxUID
    assert syntax.is_compressed or syntax.is_deflated
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


def test_reports_and_damaged_files_of_other_series_are_ignored(
    tmp_path: Path, voxels: NDArray[np.uint16]
) -> None:
    uid = write_series(tmp_path, voxels)
    expected = read_dicom(tmp_path).array
    report_file(tmp_path / "002")
    plain = read_dicom(tmp_path)
    np.testing.assert_array_equal(plain.array, expected)
    assert any("without an image" in warning for warning in plain.warnings)
    other = write_series(tmp_path / "others", voxels, prefix="b")
    damaged = bytearray((tmp_path / "others" / "b002").read_bytes())
    at = damaged.index(b"\x08\x00\x60\x00CS")  # Modality, in front of the series' UID
    damaged[at + 4 : at + 6] = b"??"
    (tmp_path / "b002").write_bytes(damaged)
    chosen = read_dicom(tmp_path, series=uid)
    np.testing.assert_array_equal(chosen.array, expected)
    assert any("b002" in warning for warning in chosen.warnings)
    for series in (None, other):
        with pytest.raises(FileFormatError, match="b002: expected a DICOM file"):
            read_dicom(tmp_path, series=series)
    (tmp_path / "b002").unlink()
    cut(tmp_path)
    with pytest.raises(FileFormatError, match="not large enough to store image data: 002"):
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
    with pytest.raises(SeriesError) as raised:
        read_dicom(tmp_path)
    heading, *rows = raised.value.found.strip().splitlines()[1:]
    assert heading.split()[-4:] == ["description", "images", "looks", "like"]
    assert [row.split() for row in rows] == [
        [uid, "simulated", "5", "of", "10", "x", "8", "–"] for uid in (first, second)
    ]
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


def multi_frame(folder: Path) -> None:
    """Several frames, and nothing about where each lies."""
    pixels = bytes(2 * 4 * SHAPE[1] * SHAPE[2])
    tagged(folder, NumberOfFrames=4, PixelData=pixels)


def other_size(folder: Path) -> None:
    tagged(folder, Rows=4, PixelData=bytes(2 * 4 * SHAPE[2]))


def other_pixels(folder: Path) -> None:
    tagged(folder, PixelSpacing=[1, 1])


def untagged_mosaic(folder: Path) -> None:
    shutil.rmtree(folder)
    write_mosaic(folder, np.ones(SHAPE), tagged=False)


def negative(folder: Path) -> None:
    tagged(folder, PhotometricInterpretation="MONOCHROME1")


def cut(folder: Path) -> None:
    whole = (folder / "002").read_bytes()
    (folder / "002").write_bytes(whole[:-40])


def as_video(path: Path) -> None:
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4
    data.PixelData = pydicom.encaps.encapsulate([b"no video"])
    data["PixelData"].is_undefined_length = True
    data.save_as(path)


def rare_codec(folder: Path) -> None:
    for path in folder.iterdir():
        as_video(path)


def rare_codec_in_one(folder: Path) -> None:
    as_video(folder / "002")


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
        (shifted, SeriesError, "002 12.00 mm off the line"),
        (scout, SeriesError, "different planes"),
        (other_echo, SeriesError, r"several images \(e10, e80\): Slices not stacked: echo varies"),
        (placeless, FileFormatError, "3 numbers in ImagePositionPatient"),
        (multi_frame, FileFormatError, "a position for each of its 4 frames"),
        (other_size, SeriesError, "dimensions vary across slices"),
        (other_pixels, SeriesError, r"pixels of \(2.0, 1.5\) and of \(1.0, 1.0\) mm"),
        (untagged_mosaic, FileFormatError, "MOSAIC but number of slices not specified: 000"),
        (negative, FileFormatError, "MONOCHROME1"),
        (cut, FileFormatError, "not large enough to store image data: 002"),
        (rare_codec, FileFormatError, r"syntax '1\.2\.840\.10008\.1\.2\.4\.102'"),
        (rare_codec_in_one, SeriesError, r"syntax '1\.2\.840\.10008\.1\.2\.4\.102'"),
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
    assert capfd.readouterr().err == ""  # neither pydicom nor dcm2niix speaks to the terminal


def test_a_series_above_the_budget_is_not_decoded(
    tmp_path: Path, voxels: NDArray[np.uint16]
) -> None:
    write_series(tmp_path, voxels)
    with pytest.raises(TooLargeError, match="400 voxels in 5 files"):
        read_dicom(tmp_path, max_voxels=399)


def test_the_frame_of_an_enhanced_image_is_chosen(
    tmp_path: Path, voxels: NDArray[np.uint16]
) -> None:
    both = np.stack([voxels, voxels + 1], axis=1).reshape(-1, *SHAPE[1:])
    write_enhanced(tmp_path / "IM", both, volumes=2)
    with pytest.raises(ShapeError, match="2"):
        read_dicom(tmp_path)
    second = read_dicom(tmp_path / "IM", frame=1)
    np.testing.assert_array_equal(second.array, (voxels + 1).transpose(2, 1, 0)[:, ::-1])


def test_a_mosaic_over_time_is_a_volume_for_each_file(
    tmp_path: Path, voxels: NDArray[np.uint16]
) -> None:
    uid = generate_uid()
    for number in range(3):
        write_mosaic(tmp_path / "one", voxels + number)
        tagged(tmp_path / "one", "000", SeriesInstanceUID=uid, InstanceNumber=10 - number)
        (tmp_path / "one" / "000").rename(tmp_path / f"{number}")
    (tmp_path / "one").rmdir()
    with pytest.raises(ShapeError, match="3 volumes"):
        read_dicom(tmp_path)
    first = read_dicom(tmp_path, frame=0)  # by instance number, the last that was written
    np.testing.assert_array_equal(first.array, (voxels + 2).transpose(2, 1, 0)[:, ::-1])


def test_the_program_comes_from_its_package_or_from_the_path(
    tmp_path: Path, voxels: NDArray[np.uint16], monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = find_dcm2niix()
    monkeypatch.setattr("medrd.images.dcm2niix.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"pip install 'medrd\[dicom\]'"):
        find_dcm2niix()
    (tmp_path / "dcm2niix").symlink_to(packaged)
    assert find_dcm2niix() == str(tmp_path / "dcm2niix")
    write_series(tmp_path / "in", voxels)
    assert read_dicom(tmp_path / "in").shape == (10, 8, 5)


def test_nothing_of_the_conversion_stays(
    tmp_path: Path, voxels: NDArray[np.uint16], monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    write_series(tmp_path / "in", voxels)
    before = sorted((tmp_path / "in").iterdir())
    read_dicom(tmp_path / "in")
    cut(tmp_path / "in")
    with pytest.raises(FileFormatError):
        read_dicom(tmp_path / "in")
    assert list(scratch.iterdir()) == []
    assert sorted((tmp_path / "in").iterdir()) == before
