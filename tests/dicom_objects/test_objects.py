"""DICOM objects lie voxel for voxel where the NIfTI map lies, and pass the standard's checks."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from scipy import ndimage
from scipy.spatial.transform import Rotation

from dicoms import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Change,
    decimals,
    write_enhanced,
    write_mosaic,
    write_series,
)
from medrd.data.brains.opened import write_score_map
from medrd.dicom_objects.scene import NOTICE, Maker, longest_diameter_mm
from medrd.dicom_objects.write import OBJECT_ENDINGS, is_own_object, write_objects
from medrd.errors import FileFormatError, GridMismatchError
from medrd.images.dicom import read_dicom
from medrd.images.dicom_series import find_series, holds_dicom
from medrd.images.nifti import write_nifti
from medrd.metrics import lesion_table

SHAPE = (7, 12, 16)
OBLIQUE = tuple(
    map(decimals, Rotation.from_euler("xyz", (10, -20, 30), degrees=True).as_matrix()[:2])
)
PLANES = {"axial": AXIAL, "sagittal": SAGITTAL, "coronal": CORONAL, "oblique": OBLIQUE}
MAKER = Maker("rdseg", "0123456789abcdef" * 4, 0.5)
PERSON = {
    "PatientName": "Mustermann^Erika",
    "PatientID": "KH-4711",
    "PatientBirthDate": "19330224",
    "AccessionNumber": "ACC-99",
    "ReferringPhysicianName": "Hausarzt^Hans",
    "OtherPatientIDs": "ALT-1",
    # What highdicom would copy of patient, study and device.
    "PhysiciansOfRecord": "Oberarzt^Otto",
    "AdditionalPatientHistory": "anamnesis",
    "AdmissionID": "ADM-5",
    "ClinicalTrialSubjectID": "TRIAL-6",
    "InstitutionAddress": "Klinikallee 7",
    "DeviceSerialNumber": "SER-8",
}
UNNAMED = ("PhysiciansOfRecord", "AdditionalPatientHistory", "AdmissionID")
UNNAMED += ("ClinicalTrialSubjectID", "InstitutionAddress", "DeviceSerialNumber", "OtherPatientIDs")
needs_dciodvfy = pytest.mark.skipif(
    not shutil.which("dciodvfy"), reason="needs dciodvfy (Debian: apt install dicom3tools)"
)


@dataclass
class Made:
    """A series, its NIfTI map and mask, and the objects made of them."""

    folder: Path
    map: Path
    mask: Path
    findings: list[Any]
    objects: dict[str, Path]


def identified(data: Dataset, number: int = 0) -> None:
    for keyword, value in PERSON.items():
        setattr(data, keyword, value)


def three_dimensional(data: Dataset, number: int) -> None:
    identified(data)
    data.MRAcquisitionType = "3D"


def make(
    root: Path,
    *,
    kind: str = "2D",
    plane: str = "axial",
    distance_mm: float = 3.0,
    masked: bool = True,
    empty: bool = False,
    keep_names: bool = False,
    header: Change | None = None,
) -> Made:
    """Write a series of noise, a map with two findings, and the mask at the maker's threshold."""
    generator = np.random.default_rng(0)
    voxels = generator.integers(1, 1000, SHAPE).astype(np.uint16)
    folder = root / "series"
    options: dict[str, Any] = {"plane": PLANES[plane], "spacing_mm": (2.0, 1.5, distance_mm)}
    if kind == "enhanced":
        write_enhanced(folder / "IM", voxels, change=identified, **options)
    elif kind == "mosaic":
        write_mosaic(folder, voxels, **options)
    else:
        change = header or (three_dimensional if kind == "3D" else identified)
        write_series(folder, voxels, change=change, **options)
    volume = read_dicom(folder)
    scores = generator.uniform(0.1, 0.4, volume.shape).astype(np.float32)
    scores[1:4, 1:4, 1:4] += 0.5
    scores[4:7, 5:7, 4:6] += 0.45
    scores[:1] = 0  # outside the brain
    mask = np.zeros(volume.shape, bool) if empty else scores >= MAKER.threshold
    map_path, mask_path = root / "s_anomaly.nii.gz", root / "s_mask.nii.gz"
    write_score_map(map_path, scores, volume, description="medrd", threshold=0.5)
    write_nifti(mask_path, mask, volume, dtype="uint8")
    findings = lesion_table(scores, mask, volume.affine)
    assert len(findings) == (0 if empty else 2)
    objects = write_objects(
        map_path,
        mask_path if masked else None,
        folder,
        None,
        {name: root / "out" / f"s{ending}" for name, ending in OBJECT_ENDINGS.items()},
        maker=MAKER,
        scan_score=0.75,
        keep_names=keep_names,
    )
    return Made(folder, map_path, mask_path, findings, objects)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made"))


CASES = [
    (kind, plane, distance_mm)
    for kind in ("2D", "3D")
    for plane in PLANES
    for distance_mm in (3.0, -3.0)
]
CASES += [("enhanced", "oblique", 3.0), ("enhanced", "sagittal", -3.0), ("mosaic", "axial", 3.0)]


@pytest.mark.parametrize(("kind", "plane", "distance_mm"), CASES)
def test_objects_lie_where_the_nifti_files_lie(
    tmp_path: Path, kind: str, plane: str, distance_mm: float
) -> None:
    made = make(tmp_path, kind=kind, plane=plane, distance_mm=distance_mm)
    nifti_map, nifti_mask = (SimpleITK.ReadImage(str(path)) for path in (made.map, made.mask))

    # Every voxel of the Parametric Map, from the elements of its file.
    data = pydicom.dcmread(made.objects["parametric_map"])
    shared = data.SharedFunctionalGroupsSequence[0]
    down_mm, right_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    directions = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    frames = np.frombuffer(data.FloatPixelData, np.float32)
    frames = frames.reshape(data.NumberOfFrames, data.Rows, data.Columns)
    seen = set()
    for frame, groups in zip(frames, data.PerFrameFunctionalGroupsSequence, strict=True):
        corner = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        for row, column in np.ndindex(*frame.shape):
            point = corner + column * right_mm * directions[:3] + row * down_mm * directions[3:]
            index = nifti_map.TransformPhysicalPointToIndex(point.tolist())
            back = nifti_map.TransformIndexToPhysicalPoint(index)
            np.testing.assert_allclose(back, point, atol=2e-3)
            assert frame[row, column] == nifti_map[index]
            seen.add(index)
    assert len(seen) == nifti_map.GetNumberOfPixels()

    # The Segmentation, as highdicom reads it, resampled onto the grid of the mask.
    segmentation = hd.seg.segread(made.objects["segmentation"])
    volume = segmentation.get_volume(combine_segments=True, allow_missing_positions=True)
    labels = SimpleITK.Resample(
        volume.to_simpleitk(), nifti_mask, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor
    )
    labels = SimpleITK.GetArrayFromImage(labels).T
    mask = SimpleITK.GetArrayFromImage(nifti_mask).T > 0
    affine = read_dicom(made.folder).affine
    parts, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    for number, finding in enumerate(made.findings, 1):
        peak = np.linalg.inv(affine) @ [*finding["peak_mm"], 1]
        part = parts[tuple(np.round(peak[:3]).astype(int))]
        np.testing.assert_array_equal(labels == number, parts == part)
    assert labels.max() == len(made.findings)


@pytest.mark.parametrize(("plane", "distance_mm"), [("axial", 3.0), ("oblique", -3.0)])
def test_frames_refer_to_the_images_that_lie_there(
    tmp_path: Path, plane: str, distance_mm: float
) -> None:
    made = make(tmp_path, plane=plane, distance_mm=distance_mm)
    sources = [pydicom.dcmread(path) for path in made.folder.iterdir()]
    places = {data.SOPInstanceUID: data.ImagePositionPatient for data in sources}
    for name in ("segmentation", "parametric_map"):
        data = pydicom.dcmread(made.objects[name])
        assert data.FrameOfReferenceUID == sources[0].FrameOfReferenceUID
        assert data.StudyInstanceUID == sources[0].StudyInstanceUID
        assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == sources[0].SeriesInstanceUID
        for groups in data.PerFrameFunctionalGroupsSequence:
            (source,) = groups.DerivationImageSequence[0].SourceImageSequence
            place = groups.PlanePositionSequence[0].ImagePositionPatient
            np.testing.assert_allclose(place, places[source.ReferencedSOPInstanceUID], atol=1e-3)


def damaged(data: Dataset, number: int) -> None:
    """Values that scanners write, and the standard does not have."""
    identified(data)
    with pydicom.config.disable_value_validation():
        data.StudyDate, data.StudyTime, data.PatientBirthDate = "2020.01.02", "11:22:33", "1933"
        data.PatientAge, data.PatientSex = "45Y", "w"
    weight = pydicom.tag.Tag("PatientWeight")
    data[weight] = RawDataElement(weight, "DS", 4, b"70,5", 0, False, True)
    del data.SliceThickness


def with_raw(keyword: str, value: str) -> Change:
    """Put a value into each header that pydicom would not write as it is."""

    def change(data: Dataset, number: int) -> None:
        identified(data)
        tag, content = pydicom.tag.Tag(keyword), value.encode()
        kind = pydicom.datadict.dictionary_VR(tag)
        data[tag] = RawDataElement(tag, kind, len(content), content, 0, False, True)

    return change


@needs_dciodvfy
@pytest.mark.parametrize("kind", ["2D", "enhanced", "empty", "named", "damaged"])
def test_dciodvfy_finds_no_error(tmp_path: Path, kind: str) -> None:
    made = make(
        tmp_path,
        kind="enhanced" if kind == "enhanced" else "2D",
        plane="oblique",
        empty=kind == "empty",
        keep_names=kind in ("named", "damaged"),
        header=damaged if kind == "damaged" else None,
    )
    assert len(made.objects) == (2 if kind == "empty" else 3)
    for path in made.objects.values():
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        said = (done.stdout + done.stderr).splitlines()
        assert [line for line in said if line.startswith("Error")] == []
        assert done.returncode == 0, said


def test_segments_are_the_findings_coded_as_lesions(made: Made) -> None:
    segmentation = hd.seg.segread(made.objects["segmentation"])
    assert segmentation.segmentation_type == hd.seg.SegmentationTypeValues.BINARY
    assert segmentation.number_of_segments == len(made.findings)
    assert NOTICE in (segmentation.SeriesDescription, segmentation.ContentDescription)
    for number in segmentation.segment_numbers:
        segment = segmentation.get_segment_description(number)
        assert segment.segment_label == f"Finding {number}"
        assert segment.segmented_property_type == codes.SCT.Lesion
        assert segment.segmented_property_category == codes.SCT.MorphologicallyAbnormalStructure
        assert segment.algorithm_type == hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmName == "medrd rdseg"
        assert algorithm.AlgorithmParameters == "model=0123456789abcdef,threshold=0.5"


def test_the_report_has_the_numbers_of_each_finding(made: Made) -> None:
    segmentation = hd.seg.segread(made.objects["segmentation"])
    report = hd.sr.srread(made.objects["dicom_report"])
    assert NOTICE in str(report)
    assert (report.VerificationFlag, report.Modality) == ("UNVERIFIED", "SR")
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == len(made.findings)
    for number, (group, finding) in enumerate(zip(groups, made.findings, strict=True), 1):
        segment = segmentation.get_segment_description(number)
        assert group.tracking_uid == segment.tracking_uid
        assert group.finding_type == codes.SCT.Lesion
        referenced = group.referenced_segment
        assert referenced.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert list(referenced.referenced_segment_numbers) == [number]
        values = {m.name.meaning: (m.value, m.unit.value) for m in group.get_measurements()}
        assert values.keys() == {"Volume", "Maximum 3D Diameter of a Mesh", "Anomaly score"}
        volume, diameter = values["Volume"], values["Maximum 3D Diameter of a Mesh"]
        assert volume == (pytest.approx(finding["volume_mm3"]), "mm3")
        assert values["Anomaly score"] == (pytest.approx(finding["peak_score"]), "1")
        # A body of that volume is at least as long as a ball of it.
        assert diameter[0] > (6 * finding["volume_mm3"] / np.pi) ** (1 / 3)
        assert diameter[1] == "mm"
    (whole,) = report.content.get_image_measurement_groups()
    values = {m.name.meaning: m.value for m in whole.get_measurements()}
    assert values["Anomaly score of the scan"] == 0.75
    assert values["Number of findings"] == len(made.findings)


def test_the_parametric_map_is_shown_up_to_twice_the_threshold(made: Made) -> None:
    data = pydicom.dcmread(made.objects["parametric_map"])
    assert data.ContentQualification == "RESEARCH"
    window = data.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0]
    assert (window.WindowCenter, window.WindowWidth) == (0.5, 1.0)
    (mapping,) = data.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)


def test_without_findings_there_is_a_report_of_none(tmp_path: Path) -> None:
    made = make(tmp_path, empty=True)
    assert made.objects.keys() == {"parametric_map", "dicom_report"}
    report = hd.sr.srread(made.objects["dicom_report"])
    assert report.content.get_volumetric_roi_measurement_groups() == []
    (whole,) = report.content.get_image_measurement_groups()
    values = {m.name.meaning: m.value for m in whole.get_measurements()}
    assert (values["Number of findings"], values["Volume"]) == (0, 0)


def test_without_a_mask_there_are_scores_alone(tmp_path: Path) -> None:
    assert make(tmp_path, masked=False).objects.keys() == {"parametric_map"}


@pytest.mark.parametrize("keep_names", [False, True])
def test_names_are_in_the_objects_only_if_they_are_kept(tmp_path: Path, keep_names: bool) -> None:
    made = make(tmp_path, keep_names=keep_names)
    for path in made.objects.values():
        content = path.read_bytes()
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber"):
            assert (PERSON[keyword].encode() in content) == keep_names
        assert [keyword for keyword in UNNAMED if PERSON[keyword].encode() in content] == []
        assert PERSON["ReferringPhysicianName"].encode() not in content or keep_names
        assert "PatientName" in pydicom.dcmread(path)  # there, if empty: the standard's type 2


@pytest.mark.parametrize(
    ("characters", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 144", "Люксембург^Иван"),
    ],
)
@pytest.mark.parametrize("keep_names", [False, True])
def test_names_may_be_in_any_character_set(
    tmp_path: Path, characters: str | list[str], name: str, keep_names: bool
) -> None:
    def named(data: Dataset, number: int) -> None:
        data.SpecificCharacterSet, data.PatientName = characters, name

    for path in make(tmp_path, header=named, keep_names=keep_names).objects.values():
        assert pydicom.dcmread(path).PatientName == (name if keep_names else "")


def test_damaged_values_are_mended_or_left_out(tmp_path: Path) -> None:
    data = pydicom.dcmread(make(tmp_path, header=damaged, keep_names=True).objects["segmentation"])
    kept = (data.StudyDate, data.StudyTime, data.PatientBirthDate, data.PatientSex)
    assert kept == ("20200102", "112233", "", "")
    assert data.PatientAge == "045Y"
    assert "PatientWeight" not in data
    measures = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == 3


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientID", "A" * 65),
        ("PatientID", "A\\B"),
        ("AccessionNumber", "A" * 17),
        ("PatientName", "A" * 65),
        ("PatientName", "A\x01"),
        ("PatientName", "A^B\\C^D"),
        ("PatientName", "^" * 5),
        ("StudyDate", "20200101-"),
        ("PositionReferenceIndicator", "A" * 65),
    ],
)
def test_a_value_that_its_representation_forbids_is_left_out(
    tmp_path: Path, keyword: str, value: str
) -> None:
    made = make(tmp_path, header=with_raw(keyword, value), keep_names=True)
    assert pydicom.dcmread(made.objects["parametric_map"])[keyword].is_empty


@pytest.mark.parametrize("value", ["", "0 ", "3mm ", "-1"])
def test_a_thickness_that_is_none_is_the_distance_of_the_slices(tmp_path: Path, value: str) -> None:
    made = make(tmp_path, header=with_raw("SliceThickness", value))
    data = pydicom.dcmread(made.objects["parametric_map"])
    measures = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == 3


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.999"),
        ("SOPInstanceUID", ""),
        ("SOPInstanceUID", "1.2\\1.3 "),
        ("StudyInstanceUID", ""),
        ("StudyInstanceUID", "1.2.x "),
        ("StudyInstanceUID", "1." + "2" * 64),
    ],
)
def test_an_image_that_cannot_be_referred_to_is_an_error(
    tmp_path: Path, made: Made, keyword: str, value: str
) -> None:
    write_series(tmp_path / "series", np.ones(SHAPE), change=with_raw(keyword, value))
    targets = {name: tmp_path / ending for name, ending in OBJECT_ENDINGS.items()}
    with pytest.raises(FileFormatError, match=f"000: expected a {keyword}"):
        write_objects(made.map, made.mask, tmp_path / "series", None, targets, maker=MAKER)
    assert not list(tmp_path.glob("*.dcm"))


def test_images_that_share_a_uid_or_do_not_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="001: expected a SOPInstanceUID of its own"):
        make(tmp_path / "same", header=with_raw("SOPInstanceUID", "1.2.3"))

    def other_place(data: Dataset, number: int) -> None:
        data.FrameOfReferenceUID = f"1.2.{number + 1}"

    with pytest.raises(FileFormatError, match="001: expected one FrameOfReferenceUID"):
        make(tmp_path / "other", header=other_place)


def test_objects_beside_a_series_are_no_series(tmp_path: Path) -> None:
    made = make(tmp_path)
    expected = read_dicom(made.folder)
    for path in made.objects.values():
        assert is_own_object(path)
        shutil.copy(path, made.folder)
    assert holds_dicom(made.folder)
    assert len(find_series(made.folder)) == 1
    np.testing.assert_array_equal(read_dicom(made.folder).array, expected.array)
    assert not any(is_own_object(path) for path in made.folder.glob("0*"))


@pytest.mark.parametrize(
    "options",
    [
        {"plane": SAGITTAL, "spacing_mm": (2.0, 1.5, 3.0)},
        {"spacing_mm": (2.0, 1.5, 4.0)},
        {"spacing_mm": (2.0, 1.7, 3.0)},
        {"spacing_mm": (2.0, 1.5, 3.0), "origin_mm": (0.0, 0.0, 0.0)},
    ],
)
def test_a_map_of_another_series_is_refused(
    tmp_path: Path, made: Made, options: dict[str, Any]
) -> None:
    write_series(tmp_path / "other", np.ones(SHAPE), **options)
    targets = {name: tmp_path / "out" / ending for name, ending in OBJECT_ENDINGS.items()}
    with pytest.raises(GridMismatchError, match="a map on the grid of this series"):
        write_objects(made.map, made.mask, tmp_path / "other", None, targets, maker=MAKER)
    assert not (tmp_path / "out").exists()


def test_the_longest_diameter_is_that_of_the_mesh() -> None:
    affine = np.diag([2.0, 1.5, 3.0, 1.0])
    rod = np.zeros((9, 9, 9), bool)
    rod[1:6, 4, 4] = True
    assert longest_diameter_mm(rod, affine) == pytest.approx(10)
    one = np.zeros((3, 3, 3), bool)
    one[1, 1, 1] = True
    assert longest_diameter_mm(one, affine) == pytest.approx(3)
    x, y, z = np.indices((41, 41, 41)) - 20
    ball = x**2 + y**2 + z**2 <= 15**2
    assert longest_diameter_mm(ball, np.eye(4)) == pytest.approx(31, abs=0.5)
