"""``medrd predict`` once more: what is done is left, what is half done is done over, and no file
of another's is replaced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from folders import names, times
from medrd.errors import OutputError
from medrd.prediction import case as case_module
from medrd.prediction.options import PredictOptions
from medrd.prediction.predict import predict
from medrd.run.model_folder import Model
from tiny import brighter_copies

Medrd = Callable[..., Any]
ENDINGS = {"_anomaly.nii.gz", "_mask.nii.gz", ".json", ".png"}


def test_a_second_run_skips_what_is_done(quick: Model, scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict(quick, [scan], out).done == [out / "scan.json"]
    before = times(out)
    assert predict(quick, [scan], out).skipped == [out / "scan.json"]
    assert times(out) == before


@pytest.mark.parametrize(
    "change",
    ["input", "map", "mask", "picture", "record", "no record", "overwrite", "model", "code"],
)
def test_what_is_not_as_on_record_is_done_again(
    quick: Model, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    out, model, picture = tmp_path / "out", quick, change == "picture"
    predict(model, [scan], out, picture=picture)
    expected = (out / "scan_anomaly.nii.gz").read_bytes()
    if change == "input":
        image = nib.load(scan)
        array = np.asarray(image.dataobj).copy()
        array[20:25, 20:25, 10] += 500
        nib.save(nib.Nifti1Image(array, image.affine), scan)
    elif change == "record":
        (out / "scan.json").write_text("{")
    elif change == "no record":
        (out / "scan.json").unlink()
    elif change == "model":
        model = Model(quick.detector, quick.config, quick.calibration, quick.training, "new")
    elif change == "code":
        monkeypatch.setattr(case_module, "CODE_VERSION", case_module.CODE_VERSION + 1)
    elif change != "overwrite":
        ending = {"map": "_anomaly.nii.gz", "mask": "_mask.nii.gz", "picture": ".png"}[change]
        path = out / f"scan{ending}"
        path.write_bytes(path.read_bytes()[:-3])
    before = times(out)
    report = predict(model, [scan], out, overwrite=change == "overwrite", picture=picture)
    assert (len(report.done), len(report.skipped), report.errors) == (1, 0, [])
    assert not set(times(out).items()) & set(before.items())
    assert ((out / "scan_anomaly.nii.gz").read_bytes() == expected) == (
        change not in ("input", "model")
    )
    assert len(predict(model, [scan], out, picture=picture).skipped) == 1


def test_a_picture_that_an_earlier_call_left_out_is_drawn(
    quick: Model, scan: Path, tmp_path: Path
) -> None:
    predict(quick, [scan], tmp_path, picture=False)
    assert len(predict(quick, [scan], tmp_path).done) == 1
    assert (tmp_path / "scan.png").exists()
    assert len(predict(quick, [scan], tmp_path, picture=False).skipped) == 1


def test_a_late_process_leaves_what_others_have_done(
    quick: Model, scan: Path, tmp_path: Path
) -> None:
    """It was taken for dead after it had read the scan, on whose earlier result it began."""
    out = tmp_path / "out"
    predict(quick, [scan], out)
    (case,) = quick.kind.find([scan], frame=None, series=None).cases
    job = case_module.Job(out, PredictOptions(overwrite=True, device="cpu"))
    late = case_module.CasePredictor(quick, job)
    item = late.read(case)
    assert len(predict(quick, [scan], out, overwrite=True).done) == 1
    before = times(out)
    assert late.finish(item) is None
    assert times(out) == before


def test_another_frame_of_the_same_file_is_another_scan(
    quick: Model, scan: Path, tmp_path: Path
) -> None:
    image = nib.load(scan)
    array = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(np.stack([array, array[::-1]], -1), image.affine), scan)
    out = tmp_path / "out"
    maps = []
    for frame in (0, 1):
        report = predict(quick, [scan], out, frame=frame, picture=False, overwrite=frame == 1)
        assert (len(report.done), report.errors) == (1, [])
        maps.append(np.asarray(nib.load(out / "scan_anomaly.nii.gz").dataobj))
    assert maps[0].shape == array.shape
    assert not np.array_equal(maps[0], maps[1])
    (error,) = predict(quick, [scan], out, frame=0, picture=False).errors
    assert f"{scan} (frame 0)" in error.expected
    assert f"{scan} (frame 1)" in error.found


@pytest.mark.parametrize(
    "moment", ["record.write_json", "heat.save_figure", "opened.write_score_map"]
)
def test_killed_while_writing_a_scan_it_is_done_again(
    medrd: Medrd, tiny_run: Path, scan: Path, tmp_path: Path, moment: str
) -> None:
    """kill -9 after the map, between the map and the record, and before anything."""
    out = tmp_path / "out"
    kill = f"""
import os, signal
from medrd.data.brains import opened
from medrd.draw import heat
from medrd.run import record
{moment} = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
"""
    assert medrd("predict", tiny_run, scan, "--out", out, prelude=kill).code == -9
    assert not (out / "scan.json").exists()
    assert (out / "scan_anomaly.nii.gz").exists() == (moment != "opened.write_score_map")
    again = medrd("predict", tiny_run, scan, "--out", out)
    assert again.code == 0, again.stderr
    assert "1 predicted, 0 already there" in again.stderr
    assert {f"scan{ending}" for ending in ENDINGS} == names(out)


def test_sigterm_ends_after_the_scan_under_way_and_the_rest_is_done_later(
    medrd: Medrd, tiny_run: Path, scan: Path, tmp_path: Path
) -> None:
    scans, out = [scan.parent / "missing.nii.gz", *brighter_copies(scan, 3)], tmp_path / "out"
    stop = """
import os, signal
import medrd.draw.heat as module
original = module.save_figure
def patched(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGTERM)
    original(*args, **kwargs)
module.save_figure = patched
"""
    stopped = medrd("predict", tiny_run, *scans, "--out", out, prelude=stop)
    assert stopped.code == 130
    assert "same command again" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    # What failed before the stop is not forgotten.
    assert names(out) == {f"copy_0{ending}" for ending in ENDINGS} | {"errors.json"}
    (error,) = json.loads((out / "errors.json").read_text(encoding="utf-8"))
    assert Path(error["where"]).name == "missing.nii.gz"
    before = times(out)
    del before[str(out / "errors.json")]
    again = medrd("predict", tiny_run, *scans, "--out", out)
    assert again.code == 3
    assert "2 predicted, 1 already there, 1 failed" in again.stderr
    assert before.items() <= times(out).items()


# --- What must never be replaced ---


def test_two_inputs_with_one_output_are_refused_before_anything_is_written(
    medrd: Medrd, tiny_run: Path, scan: Path, tmp_path: Path
) -> None:
    (tmp_path / "b").mkdir()
    other = shutil.copy(scan, tmp_path / "b" / "scan.nii.gz")
    refused = medrd("predict", tiny_run, scan, other, "--out", tmp_path / "out")
    assert refused.code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["overwrite", "gone"])
def test_a_result_of_another_scan_that_is_still_there_is_not_replaced(
    quick: Model, scan: Path, tmp_path: Path, way: str
) -> None:
    out, (_, other, third) = tmp_path / "out", brighter_copies(scan, 3)
    (tmp_path / "site").mkdir()
    other = other.rename(tmp_path / "site" / scan.name)
    predict(quick, [scan], out, picture=False)
    before = times(out)
    report = predict(quick, [other, third], out, picture=False)
    (error,) = report.errors
    assert isinstance(error, OutputError)
    assert (str(other) in error.expected, str(scan) in error.found) == (True, True)
    assert report.done == [out / "copy_2.json"]
    assert before.items() <= times(out).items()
    if way == "gone":
        scan.unlink()
    again = predict(quick, [other], out, picture=False, overwrite=way == "overwrite")
    assert (again.done, again.errors) == ([out / "scan.json"], [])


def test_a_scan_that_has_changed_is_the_same_by_any_spelling_of_its_path(
    quick: Model, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to(scan.parent)
    spellings = [scan, Path("in/scan.nii.gz"), Path("link/scan.nii.gz"), scan]
    for changed, spelling in zip(brighter_copies(scan, len(spellings)), spellings, strict=True):
        changed.replace(scan)
        report = predict(quick, [spelling], tmp_path / "out", picture=False)
        assert (len(report.done), report.errors) == (1, [])


@pytest.mark.parametrize(
    ("there", "given"),
    [
        ("scan.json", False),
        ("scan.png", False),
        ("scan_mask.nii.gz", False),
        ("scan_anomaly.nii.gz", False),
        ("scan_mask.nii.gz", True),
        ("scan_anomaly.nii.gz", True),
    ],
)
def test_a_file_beside_the_scan_that_medrd_did_not_write_is_never_replaced(
    quick: Model, scan: Path, there: str, given: bool
) -> None:
    """A BIDS sidecar, a label, or another input when --out is the scans' own folder."""
    other = scan.parent / there
    if there.endswith(".nii.gz"):
        shutil.copy(scan, other)
    else:
        other.write_text('{"EchoTime": 0.1}')
    before = other.read_bytes()
    report = predict(quick, [scan, other] if given else [scan], scan.parent)
    assert [type(error) for error in report.errors] == [OutputError]
    assert other.read_bytes() == before
    assert len(report.done) == given  # the other input itself is predicted
    own = predict(quick, [scan], scan.parent / "out")
    assert own.errors == []


def test_the_scans_own_folder_can_take_the_results(quick: Model, scan: Path) -> None:
    before = scan.read_bytes()
    for done in (1, 0):
        report = predict(quick, [scan.parent], scan.parent)
        assert (len(report.done), report.errors) == (done, [])
    assert scan.read_bytes() == before


@pytest.mark.parametrize("below", ["", "deeper"])
def test_an_out_that_cannot_be_a_folder_is_exit_3(
    medrd: Medrd, tiny_run: Path, scan: Path, tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").write_text("x")
    failed = medrd("predict", tiny_run, scan, "--out", tmp_path / "file" / below)
    assert failed.code == 3
    assert "Traceback" not in failed.stderr
    assert str(tmp_path / "file") in failed.stderr
    assert (tmp_path / "file").read_text(encoding="utf-8") == "x"


def test_a_folder_in_the_place_of_a_result_fails_that_scan_alone(
    quick: Model, scan: Path, tmp_path: Path
) -> None:
    one, two = brighter_copies(scan, 2)
    (tmp_path / "out" / "copy_0.json").mkdir(parents=True)
    report = predict(quick, [one, two], tmp_path / "out")
    assert [type(error) for error in report.errors] == [OutputError]
    assert [path.name for path in report.done] == ["copy_1.json"]
