"""``medrd predict`` and scans unlike those that the model was trained on."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicoms import write_series
from medrd.config import make_config
from medrd.errors import ConfigError, UnlikeTrainingError
from medrd.images.volume import Volume, volume_from_array
from medrd.prediction.api import LoadedModel, read
from medrd.prediction.predict import predict
from medrd.run.model_folder import Model, load_model
from medrd.training.train import train


def test_a_scan_unlike_the_training_scans_is_warned_of_and_with_strict_refused(
    quick: Model, scan: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = nib.load(scan)
    array = np.asarray(image.dataobj)
    hounsfield = np.where(array, 20 + array // 30, -1000).astype(np.int16)
    ct = scan.with_name("ct.nii.gz")
    nib.save(nib.Nifti1Image(hounsfield, image.affine), ct)
    named = Path(shutil.copy(scan, scan.with_name("other_t1.nii.gz")))
    out = tmp_path / "out"

    assert len(predict(quick, [scan, ct, named], out, picture=False).done) == 3
    odd = {
        name: json.loads((out / f"{name}.json").read_text(encoding="utf-8"))["unlike_training"]
        for name in ("scan", "ct", "other_t1")
    }
    assert odd["scan"] == []
    assert any("below 0" in text for text in odd["ct"])
    assert odd["other_t1"] == ["flair: by its name, other_t1.nii.gz is a t1"]
    warned = [record.getMessage() for record in caplog.records]
    for path, texts in ((ct, odd["ct"]), (named, odd["other_t1"])):
        assert [m for m in warned if str(path) in m] == [
            f"{path} is unlike the training scans: {text}" for text in texts
        ]

    # What was predicted without --strict does not pass with it.
    report = predict(quick, [scan, ct, named], out, strict=True, picture=False)
    assert report.skipped == [out / "scan.json"]
    assert {type(error) for error in report.errors} == {UnlikeTrainingError}
    assert [Path(error.where).name for error in report.errors] == ["ct.nii.gz", "other_t1.nii.gz"]


def test_from_python_a_scan_is_judged_as_by_the_command_line(
    quick: Model, scan: Path, tmp_path: Path
) -> None:
    image = nib.load(scan)
    array = np.asarray(image.dataobj)
    named = scan.with_name("other_t1.nii.gz")  # and with values as of CT
    nib.save(nib.Nifti1Image(np.where(array, array - 500, 0), image.affine), named)
    paths = [scan, named]
    for path, record in zip(paths, predict(quick, paths, tmp_path / "out").done, strict=True):
        written = json.loads(record.read_text(encoding="utf-8"))
        found = LoadedModel(quick).predict(read(path))
        assert list(found.warnings) == written["warnings"] + written["unlike_training"]
        assert list(found.not_judged) == written["not_judged"]
    assert "flair: by its name, other_t1.nii.gz is a t1" in found.warnings
    volume = read(scan)
    assert isinstance(volume, Volume)
    alone = LoadedModel(quick).predict({"flair": volume_from_array(volume.array, volume.affine)})
    assert alone.not_judged == ("file name: the flair volume has none",)


def test_a_name_that_says_nothing_is_not_judged(
    quick: Model, tiny_root: Path, scan: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slices = np.asarray(nib.load(scan).dataobj).transpose(2, 1, 0)
    write_series(tmp_path / "series_flair", slices, spacing_mm=(4, 4, 4))  # "simulated"
    given = [tiny_root / "tiny_0", scan, tmp_path / "series_flair"]
    done = predict(quick, given, tmp_path / "out", report=True, picture=False).done
    records = [json.loads(path.read_text(encoding="utf-8")) for path in done]
    silent = "file name: {} names no modality".format
    of_series = "series description: that of series_flair names no modality"
    said = [[], [silent("scan.nii.gz")], [of_series]]
    assert [record["not_judged"] for record in records] == said
    page = tmp_path / "out" / "report" / "scan.html"
    assert f"Not checked: {silent('scan.nii.gz')}." in page.read_text(encoding="utf-8")
    index = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    heading, *rows = index.split("<tr>")[1:]
    assert re.findall(r">([^<]+)</button>", heading)[-1] == "not checked"
    counts = [re.findall(r"<td data-value[^>]*>([^<]*)</td>", row)[-1] for row in rows]
    assert counts == ["1", "1", "–"]  # scan, series_flair, tiny_0

    predict(quick, given, tmp_path / "strict", strict=True, picture=False)
    (warned,) = (m for m in caplog.messages if "--strict" in m)
    assert "the names of 2 of 3 scans" in warned
    assert warned.endswith(": scan, series_flair")


def test_the_description_of_a_series_tells_its_modality(
    quick: Model, scan: Path, tmp_path: Path
) -> None:
    slices = np.asarray(nib.load(scan).dataobj).transpose(2, 1, 0)
    for name, description in (("one", "AX FLAIR"), ("two", "Meier T1 MPRAGE"), ("three", "DWI")):

        def change(data: Dataset, number: int, description: str = description) -> None:
            data.SeriesDescription = description

        write_series(tmp_path / name, slices, spacing_mm=(4, 4, 4), change=change)
    given = [tmp_path / name for name in ("one", "two", "three")]
    report = predict(quick, given, tmp_path / "out", picture=False)
    records = [path.read_text(encoding="utf-8") for path in report.done]
    assert [json.loads(record)["unlike_training"] for record in records] == [
        [],
        ["flair: by its series description, this is a t1"],
        ["flair: by its series description, this is a diffusion image"],
    ]
    assert all(json.loads(record)["not_judged"] == [] for record in records)
    assert "Meier" not in "".join(records)
    for folder, record in zip(given, records, strict=True):
        found = LoadedModel(quick).predict(read(folder))
        differences = json.loads(record)["unlike_training"]
        assert list(found.warnings)[-len(differences) or len(found.warnings) :] == differences
    first, _ = predict(quick, given, tmp_path / "strict", strict=True, picture=False).errors
    assert isinstance(first, UnlikeTrainingError)


def test_names_count_only_where_those_of_the_training_scans_did(
    tiny_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a plain folder the channel's name is only the config's default."""
    plain = tmp_path / "plain"
    plain.mkdir()
    for number in range(3):
        source = tiny_root / f"tiny_{number}" / f"tiny_{number}_flair.nii.gz"
        shutil.copy(source, plain / f"p{number}_T1w.nii.gz")
    raw = {
        "data": {
            "root": str(plain),
            "healthy": True,
            "cache": str(tmp_path / "cache"),
            "split": {"train": 1, "calibration": 1, "test": 1},
        },
        "recipe": {"size": 64, "min_brain_mm2": 2000, "normalise": "rank"},
        "model": {"name": "intensity"},
    }
    model = load_model(train(make_config(raw), tmp_path / "run"))
    report = predict(model, [plain], tmp_path / "out", strict=True, picture=False)
    assert [error for error in report.errors if "by its name" in error.found] == []
    reasons = ("contrast: the profile has 2 scans", "file names: those of the training scans")
    for reason in reasons:
        assert any(f"--strict cannot check {reason}" in m for m in caplog.messages)
    predict(model, [plain], tmp_path / "out", picture=False)
    record = json.loads((tmp_path / "out" / "p0_T1w.json").read_text(encoding="utf-8"))
    assert [text.startswith(r) for text, r in zip(record["not_judged"], reasons, strict=True)] == [
        True,
        True,
    ]


def test_strict_is_refused_where_nothing_can_be_judged(
    quick: Model, scan: Path, tmp_path: Path
) -> None:
    blind = replace(quick, profile=None)
    with pytest.raises(ConfigError, match="no profile of its training scans"):
        predict(blind, [scan], tmp_path / "out", strict=True)
    assert not (tmp_path / "out" / "scan.json").exists()
    predict(blind, [scan], tmp_path / "out", picture=False)
    record = json.loads((tmp_path / "out" / "scan.json").read_text(encoding="utf-8"))
    assert record["not_judged"] == ["anything: the model file has no profile of its training scans"]
