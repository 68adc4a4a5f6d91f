"""``medrd predict --dicom`` and ``medrd to-dicom``: a scan's results as DICOM."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest

from dicoms import write_series
from medrd.errors import ConfigError, FileFormatError, MissingInputError, OutputError
from medrd.files import file_hash
from medrd.images.dicom import read_dicom
from medrd.images.nifti import write_nifti
from medrd.prediction.predict import predict
from medrd.prediction.to_dicom import to_dicom
from medrd.preparation.record import Origin
from medrd.run.model_folder import Model

OBJECTS = {
    "segmentation": "s_findings.dcm",
    "parametric_map": "s_scores.dcm",
    "dicom_report": "s_report.dcm",
}


@pytest.fixture
def series(scan: Path, tmp_path: Path) -> Path:
    """The scan's FLAIR as a DICOM series, in a folder ``s``."""
    image = nib.load(scan)
    array = np.asarray(image.dataobj).transpose(2, 1, 0)
    place = image.affine[:3, 3] * [-1, -1, 1]
    write_series(tmp_path / "s", array, spacing_mm=(4, 4, 4), origin_mm=place)
    return tmp_path / "s"


def written(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "s.json").read_text(encoding="utf-8"))
    return content


def test_predict_writes_the_objects_of_a_series(quick: Model, series: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = predict(quick, [series], out, dicom=True, report=True)
    assert (report.errors, report.page.errors if report.page else None) == ([], [])
    record = written(out)
    assert {name: record["outputs"][name]["file"] for name in OBJECTS} == OBJECTS
    assert all(
        record["outputs"][name]["sha256"] == file_hash(out / file) for name, file in OBJECTS.items()
    )
    assert record["dicom"] == {"source": str(series), "names_kept": False}
    segmentation = hd.seg.segread(out / "s_findings.dcm")
    assert segmentation.number_of_segments == len(record["findings"]) > 0
    assert segmentation.ManufacturerModelName == "intensity"
    groups = hd.sr.srread(out / "s_report.dcm").content.get_volumetric_roi_measurement_groups()
    volumes = [group.get_measurements()[0].value for group in groups]
    assert volumes == pytest.approx([row["volume_mm3"] for row in record["findings"]])
    scores = nib.load(out / "s_anomaly.nii.gz").get_fdata()
    stored = pydicom.dcmread(out / "s_scores.dcm").FloatPixelData
    np.testing.assert_array_equal(
        np.sort(np.frombuffer(stored, np.float32)), np.sort(scores.ravel().astype(np.float32))
    )


def test_objects_are_made_again_only_if_they_are_missing_or_others_are_wanted(
    quick: Model, series: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {"picture": False}
    assert predict(quick, [series], out, **options).done
    assert not (out / "s_scores.dcm").exists()
    assert predict(quick, [series], out, dicom=True, **options).done
    assert predict(quick, [series], out, dicom=True, **options).skipped
    assert predict(quick, [series], out, **options).skipped  # what is there does no harm
    assert predict(quick, [series], out, dicom=True, keep_names=True, **options).done
    assert pydicom.dcmread(out / "s_scores.dcm").PatientName == "Nobody"
    assert predict(quick, [series], out, dicom=True, **options).done
    assert pydicom.dcmread(out / "s_scores.dcm").PatientName == ""
    (out / "s_report.dcm").unlink()
    assert predict(quick, [series], out, dicom=True, **options).done
    assert predict(quick, [series], out, overwrite=True, **options).done
    assert not list(out.glob("*.dcm"))  # of an earlier result
    foreign = out / "s_report.dcm"
    foreign.write_bytes((series / "000").read_bytes())
    (error,) = predict(quick, [series], out, dicom=True, **options).errors
    assert isinstance(error, OutputError)
    assert foreign.read_bytes() == (series / "000").read_bytes()


def test_a_file_has_no_series_to_write_to(quick: Model, scan: Path, tmp_path: Path) -> None:
    (error,) = predict(quick, [scan], tmp_path / "out", dicom=True).errors
    assert isinstance(error, MissingInputError)
    assert "medrd to-dicom" in error.remedy
    assert not (tmp_path / "out" / "scan_anomaly.nii.gz").exists()
    with pytest.raises(ConfigError, match="--dicom"):
        predict(quick, [scan], tmp_path / "out", keep_names=True)


def test_a_prepared_scan_goes_back_to_its_series(
    quick: Model, scan: Path, series: Path, tmp_path: Path
) -> None:
    raw = read_dicom(series)
    origin = Origin.of(raw, np.eye(4), str(series))
    record = {
        "subject": "s",
        "inputs": {"flair": str(series)},
        "series": {"flair": None},
        "template": "none",
        "quality": {
            "reference": "flair",
            "to_template": {
                "similarity": 1.2,
                "contrast": 0.5,
                "covered": 1.0,
                "degrees": 0.0,
                "scales": [1.0, 1.0, 1.0],
            },
            "to_reference": {},
            "brain": "stripped",
            "brain_ml": 1200.0,
            "brain_dice": None,
            "covered": {"flair": 1.0},
        },
        "warnings": [],
        "outputs": {"flair": {"file": "s_flair.nii.gz", "sha256": file_hash(scan)}},
        "origins": {"flair": origin.to_dict()},
        "versions": {},
        "notice": "",
        "identity": {},
    }
    folder = tmp_path / "prepared" / "s"
    folder.mkdir(parents=True)
    scan.rename(folder / "s_flair.nii.gz")
    (folder / "s_prepare.json").write_text(json.dumps(record))
    out = tmp_path / "out"
    report = predict(quick, [folder], out, dicom=True, native=True)
    assert report.errors == []
    found = written(out)
    assert found["dicom"]["source"] == str(series)
    segmentation = hd.seg.segread(out / "s_findings.dcm")
    assert segmentation.number_of_segments == len(found["native"]["findings"]) > 0
    again = to_dicom(
        out / "s_native_anomaly.nii.gz",
        out / "s_native_mask.nii.gz",
        series=series,
        out=tmp_path / "again",
    )
    assert len(again) == 3
    same = hd.seg.segread(tmp_path / "again" / "s_findings.dcm")
    np.testing.assert_array_equal(same.pixel_array, segmentation.pixel_array)


def test_to_dicom_writes_what_predict_writes(
    quick: Model, series: Path, tmp_path: Path, medrd: Callable[..., Any]
) -> None:
    out, later = tmp_path / "out", tmp_path / "later"
    predict(quick, [series], out, dicom=True, picture=False)
    done = medrd(
        "to-dicom",
        out / "s_anomaly.nii.gz",
        out / "s_mask.nii.gz",
        "--series",
        series / "003",
        "--out",
        later,
        "--keep-names",
    )
    assert done.code == 0, done.stderr
    assert set(done.stdout.split()) == {str(later / file) for file in OBJECTS.values()}
    for file in OBJECTS.values():
        ours, theirs = pydicom.dcmread(later / file), pydicom.dcmread(out / file)
        assert (ours.PatientName, theirs.PatientName) == ("Nobody", "")
        assert ours.SOPInstanceUID != theirs.SOPInstanceUID
    ours, theirs = (hd.seg.segread(path / "s_findings.dcm") for path in (later, out))
    np.testing.assert_array_equal(ours.pixel_array, theirs.pixel_array)
    for number in ours.segment_numbers:
        first, second = (s.get_segment_description(number) for s in (ours, theirs))
        assert first.tracking_uid == second.tracking_uid
    ours, theirs = (hd.sr.srread(path / "s_report.dcm") for path in (later, out))
    values = [
        [
            m.value
            for g in report.content.get_volumetric_roi_measurement_groups()
            for m in g.get_measurements()
        ]
        for report in (ours, theirs)
    ]
    assert values[0] == values[1]


def test_a_corrected_mask_has_its_own_findings(quick: Model, series: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(quick, [series], out, picture=False)
    volume = read_dicom(series)
    mask = np.zeros(volume.shape, bool)
    mask[:3, :4, :5] = True
    write_nifti(tmp_path / "corrected.nii.gz", mask, volume, dtype="uint8")
    to_dicom(
        out / "s_anomaly.nii.gz", tmp_path / "corrected.nii.gz", series=series, out=tmp_path / "o"
    )
    segmentation = hd.seg.segread(tmp_path / "o" / "s_findings.dcm")
    assert segmentation.number_of_segments == 1
    assert segmentation.pixel_array.sum() == mask.sum()


def test_a_map_without_its_record_names_its_model_in_its_header(
    quick: Model, series: Path, tmp_path: Path
) -> None:
    predict(quick, [series], tmp_path / "out", picture=False)
    (tmp_path / "out" / "s.json").unlink()
    (path,) = to_dicom(tmp_path / "out" / "s_anomaly.nii.gz", None, series=series, out=tmp_path)
    data = pydicom.dcmread(path)
    assert data.DeviceSerialNumber == quick.hash[:12]
    window = data.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0]
    assert window.WindowCenter == pytest.approx(quick.threshold)


def test_what_is_no_map_or_no_series_is_refused(series: Path, tmp_path: Path, scan: Path) -> None:
    volume = read_dicom(series)
    write_nifti(tmp_path / "other.nii.gz", volume.array, volume, dtype="float32")
    with pytest.raises(FileFormatError, match="a map that medrd wrote"):
        to_dicom(tmp_path / "other.nii.gz", None, series=series, out=tmp_path / "o")
    for wrong in (scan, tmp_path / "nowhere"):
        with pytest.raises(MissingInputError, match="the folder of a DICOM series"):
            to_dicom(tmp_path / "other.nii.gz", None, series=wrong, out=tmp_path / "o")
    assert not (tmp_path / "o").exists()
