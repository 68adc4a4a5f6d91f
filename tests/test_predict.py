"""``medrd predict``: maps on the scans' own grids, whole or not there, one scan at a time."""

from __future__ import annotations

import gc
import gzip
import json
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from dicoms import write_series
from medrd.config import make_config
from medrd.data.domain import Prepared
from medrd.errors import (
    ConfigError,
    OutputError,
    SeriesError,
    UnlikeTrainingError,
    WrongKindError,
)
from medrd.workflows import predict_case as case_module
from medrd.workflows import scans as scans_module
from medrd.workflows.api import LoadedModel, read
from medrd.workflows.model_folder import Model, load_model
from medrd.workflows.predict import predict
from medrd.workflows.train import train

Medrd = Callable[..., Any]
ENDINGS = {"_anomaly.nii.gz", "_mask.nii.gz", ".json", ".png"}


@pytest.fixture
def scan(tiny_root: Path, tmp_path: Path) -> Path:
    """A test subject's FLAIR as a file of its own."""
    (tmp_path / "in").mkdir()
    source = tiny_root / "tiny_0" / "tiny_0_flair.nii.gz"
    return Path(shutil.copy(source, tmp_path / "in" / "scan.nii.gz"))


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Model:
    return load_model(tiny_run)


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def times(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def copies(scan: Path, count: int) -> list[Path]:
    """The same brain, a little brighter each, so that no two files are alike."""
    image = nib.load(scan)
    made = []
    for i in range(count):
        array = np.asarray(image.dataobj)
        path = scan.parent / f"copy_{i}.nii.gz"
        nib.save(nib.Nifti1Image(np.where(array, array + i, 0), image.affine), path)
        made.append(path)
    return made


# --- What is written ---


def test_a_good_scan_among_bad_ones_is_done_and_each_bad_one_explained(
    medrd: Medrd, tiny_run: Path, scan: Path, tmp_path: Path
) -> None:
    folder, whole = scan.parent, scan.read_bytes()
    affine = nib.load(scan).affine
    cut, grid = folder / "cut.nii.gz", (8, 8, 8)
    cut.write_bytes(whole[: len(whole) // 2])
    (folder / "empty.nii.gz").touch()
    (folder / "text.nii.gz").write_text("not a scan")
    (folder / "photo.jpg").write_text("not a scan")
    nib.save(nib.Nifti1Image(np.zeros(grid, np.int16), affine), folder / "dark.nii.gz")
    nib.save(nib.Nifti1Image(np.ones(grid, np.int16), affine), folder / "flat.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((*grid, 5), np.int16), affine), folder / "four.nii.gz")
    nib.save(nib.Nifti1Image(np.full(grid, np.nan, np.float32), affine), folder / "nan.nii.gz")
    singular = nib.Nifti1Image(np.ones(grid, np.int16), affine)
    singular.header["srow_x"] = 0
    with gzip.open(folder / "singular.nii.gz", "wb") as file:
        file.write(singular.header.binaryblock + bytes(4) + bytes(2 * 512))
    bad = ["cut", "empty", "text", "dark", "flat", "four", "nan", "singular"]
    paths = [folder / f"{name}.nii.gz" for name in bad]
    paths += [folder / "photo.jpg", folder / "missing.nii.gz"]

    out = tmp_path / "out"
    done = medrd("predict", tiny_run, *paths[:4], scan, *paths[4:], "--out", out)
    assert done.code == 3, done.stderr
    assert "Traceback" not in done.stderr
    errors = json.loads((out / "errors.json").read_text(encoding="utf-8"))
    assert sorted(Path(error["where"]).name for error in errors) == sorted(p.name for p in paths)
    for error in errors:
        assert all(error[key] for key in ("expected", "found", "remedy")), error
    assert names(out) == {"errors.json"} | {f"scan{ending}" for ending in ENDINGS}
    assert scan.read_bytes() == whole

    again = medrd("predict", tiny_run, scan, "--out", out)
    assert again.code == 0
    assert not (out / "errors.json").exists()


ORIENTATIONS = ["RAS", "LPS", "PIR", "SLA", "IAR"]


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["int16", "float32 with both codes", "trailing 1"])
def test_outputs_lie_on_the_scans_grid_bit_for_bit(
    quick: Model, scan: Path, tmp_path: Path, codes: str, kind: str
) -> None:
    image = reoriented(nib.load(scan), codes)
    array, affine = np.asarray(image.dataobj), image.affine
    affine[:3, :3] = affine[:3, :3] @ rotation(0.1)  # oblique, and nothing a round number
    affine[:3, 3] += [0.1, 1 / 3, np.pi]
    if kind == "trailing 1":
        array = array[..., None]
    if kind == "int16":
        image = nib.Nifti1Image(array.astype(np.int16), affine)
        image.header.set_slope_inter(0.5, -0.0)
    else:
        image = nib.Nifti1Image(array.astype(np.float32), affine)
        image.set_qform(affine, code=1)
        image.set_sform(affine, code=4)
    nib.save(image, scan)
    predict(quick, [scan], tmp_path / "out", picture=False)
    given = nib.load(scan)
    for ending, dtype in (("_anomaly", np.float32), ("_mask", np.uint8)):
        found = nib.load(tmp_path / "out" / f"scan{ending}.nii.gz")
        assert found.shape == given.shape
        assert found.get_data_dtype() == dtype
        assert found.affine.tobytes() == given.affine.tobytes()
        for field in ("srow_x", "srow_y", "srow_z", "sform_code", "qform_code", "quatern_b"):
            assert found.header[field].tobytes() == given.header[field].tobytes(), field
        for field in ("quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
            assert found.header[field].tobytes() == given.header[field].tobytes(), field
        assert found.header["pixdim"][:4].tobytes() == given.header["pixdim"][:4].tobytes()
        assert found.header["scl_slope"] in (1, np.nan) or np.isnan(found.header["scl_slope"])
        raw = np.asarray(found.dataobj.get_unscaled())
        assert np.array_equal(raw, np.asarray(found.dataobj))
        values = np.squeeze(raw)
        assert not values[np.squeeze(np.asarray(given.dataobj)) == 0].any()
        assert values.any()


def rotation(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def reoriented(image: Any, codes: str) -> Any:
    """The same brain in the same world, its array flipped and permuted."""
    start = nib.io_orientation(image.affine)
    transform = ornt_transform(start, axcodes2ornt(codes))
    array = nib.apply_orientation(np.asarray(image.dataobj), transform)
    return nib.Nifti1Image(array, image.affine @ inv_ornt_aff(transform, image.shape))


@pytest.mark.parametrize("codes", ["RAS", "IAR"])
def test_a_scan_stored_in_another_orientation_gets_the_same_map_in_the_world(
    model: Model, scan: Path, tmp_path: Path, codes: str
) -> None:
    other = scan.parent / "other.nii.gz"
    nib.save(reoriented(nib.load(scan), codes), other)
    predict(model, [scan, other], tmp_path / "out", picture=False)
    maps = [nib.load(tmp_path / "out" / f"{name}_anomaly.nii.gz") for name in ("scan", "other")]
    assert maps[0].shape != maps[1].shape or codes == "RAS"
    mine, theirs = (np.asarray(nib.as_closest_canonical(m).dataobj) for m in maps)
    assert mine.max() > 0
    np.testing.assert_allclose(mine, theirs, atol=1e-5)
    records = [
        json.loads((tmp_path / "out" / f"{n}.json").read_text(encoding="utf-8"))
        for n in ("scan", "other")
    ]
    assert records[0]["scan_score"] == pytest.approx(records[1]["scan_score"], abs=1e-5)
    for a, b in zip(records[0]["findings"], records[1]["findings"], strict=True):
        assert a["centroid_mm"] == pytest.approx(b["centroid_mm"], abs=0.5)


def test_the_record_agrees_with_the_files(quick: Model, scan: Path, tmp_path: Path) -> None:
    predict(quick, [scan], tmp_path)
    record = json.loads((tmp_path / "scan.json").read_text(encoding="utf-8"))
    scores = np.asarray(nib.load(tmp_path / "scan_anomaly.nii.gz").dataobj)
    mask = np.asarray(nib.load(tmp_path / "scan_mask.nii.gz").dataobj)
    calibration = quick.calibration
    assert calibration is not None
    assert record["threshold"] == calibration.threshold
    assert np.array_equal(mask > 0, scores >= np.float32(calibration.threshold))
    volume_mm3 = abs(np.linalg.det(nib.load(scan).affine[:3, :3]))
    assert volume_mm3 == pytest.approx(64)
    assert record["findings_volume_mm3"] == pytest.approx(mask.sum() * volume_mm3)
    assert record["findings"]
    lesion = record["findings"][0]
    assert lesion["volume_mm3"] == pytest.approx(lesion["voxels"] * volume_mm3)
    assert sum(row["voxels"] for row in record["findings"]) <= mask.sum()
    at = np.linalg.inv(nib.load(scan).affine) @ [*lesion["peak_mm"], 1]
    assert scores[tuple(np.round(at[:3]).astype(int))] == pytest.approx(lesion["peak_score"])
    assert record["p_value"] is None  # the calibration scans have lesions
    assert record["healthy_percentile"] == calibration.percentile(record["scan_score"])
    assert record["slices_scored"] < record["slices"] == 24
    assert "not a medical device" in record["notice"].lower()


def test_a_label_or_a_map_is_no_scan(
    quick: Model, tiny_root: Path, scan: Path, tmp_path: Path
) -> None:
    label = shutil.copy(tiny_root / "tiny_0" / "tiny_0_seg.nii.gz", tmp_path / "innocent.nii.gz")
    array = np.asarray(nib.load(label).dataobj).copy()
    array[::2] *= 4  # one number for the edema, one for the core
    nib.save(nib.Nifti1Image(array, nib.load(label).affine), label)
    predict(quick, [scan], tmp_path / "out", picture=False)
    given = [label, tmp_path / "out" / "scan_anomaly.nii.gz", tmp_path / "out" / "scan_mask.nii.gz"]
    report = predict(quick, given, tmp_path / "again")
    assert [type(error) for error in report.errors] == [WrongKindError] * 3
    assert ["medrd wrote" in error.found for error in report.errors] == [False, True, True]


def test_a_model_calibrated_on_whole_healthy_scans_gives_a_p_value(
    quick: Model, scan: Path, tmp_path: Path
) -> None:
    assert quick.calibration is not None
    scores = (0.0, 0.1, 99.0)
    whole = replace(quick, calibration=replace(quick.calibration, whole=True, scan_scores=scores))
    predict(whole, [scan], tmp_path, picture=False)
    assert json.loads((tmp_path / "scan.json").read_text(encoding="utf-8"))["p_value"] == (
        1 + 1
    ) / (1 + 3)


def test_a_model_without_threshold_leaves_no_mask_of_another_behind(
    quick: Model, scan: Path, tmp_path: Path
) -> None:
    predict(quick, [scan], tmp_path)
    bare = Model(quick.detector, quick.config, None, quick.training, "another")
    report = predict(bare, [scan], tmp_path)
    assert len(report.done) == 1
    assert not (tmp_path / "scan_mask.nii.gz").exists()
    record = json.loads((tmp_path / "scan.json").read_text(encoding="utf-8"))
    assert record["threshold"] is record["p_value"] is record["findings_volume_mm3"] is None


@pytest.mark.parametrize("shape", ["one slice", "two slices"])
def test_very_thin_volumes_are_predicted_with_their_picture(
    quick: Model, scan: Path, tmp_path: Path, shape: str
) -> None:
    image = nib.load(scan)
    count = 1 if shape == "one slice" else 2
    thin = image.slicer[:, :, 9 : 9 + count]
    nib.save(thin, scan)
    report = predict(quick, [scan], tmp_path / "out")
    assert report.errors == []
    assert (tmp_path / "out" / "scan.png").stat().st_size > 10_000


# --- Doing it again ---


def test_a_second_run_skips_what_is_done(
    medrd: Medrd, tiny_run: Path, scan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert medrd("predict", tiny_run, scan, "--out", out).code == 0
    before = times(out)
    again = medrd("predict", tiny_run, scan, "--out", out)
    assert again.code == 0
    assert "0 predicted, 1 already there" in again.stderr
    assert times(out) == before


@pytest.mark.parametrize(
    "change",
    ["input", "map", "mask", "picture", "record", "no record", "overwrite", "model", "code"],
)
def test_what_is_not_as_on_record_is_done_again(
    quick: Model, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    out, model = tmp_path / "out", quick
    predict(model, [scan], out)
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
    report = predict(model, [scan], out, overwrite=change == "overwrite")
    assert (len(report.done), len(report.skipped), report.errors) == (1, 0, [])
    assert not set(times(out).items()) & set(before.items())
    assert ((out / "scan_anomaly.nii.gz").read_bytes() == expected) == (
        change not in ("input", "model")
    )
    assert len(predict(model, [scan], out).skipped) == 1


def test_another_frame_of_the_same_file_is_another_scan(
    quick: Model, scan: Path, tmp_path: Path
) -> None:
    image = nib.load(scan)
    array = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(np.stack([array, array[::-1]], -1), image.affine), scan)
    maps = []
    for frame in (0, 1):
        report = predict(quick, [scan], tmp_path / "out", frame=frame)
        assert (len(report.done), report.errors) == (1, [])
        maps.append(np.asarray(nib.load(tmp_path / "out" / "scan_anomaly.nii.gz").dataobj))
    assert maps[0].shape == array.shape
    assert not np.array_equal(maps[0], maps[1])


@pytest.mark.parametrize(
    "moment", ["predict_case.write_json", "scans.save_figure", "scans.write_nifti"]
)
def test_killed_while_writing_a_scan_it_is_done_again(
    medrd: Medrd, tiny_run: Path, scan: Path, tmp_path: Path, moment: str
) -> None:
    """kill -9 after the map, between the map and the record, and before anything."""
    out = tmp_path / "out"
    kill = f"""
import os, signal
from medrd.workflows import predict_case, scans
{moment} = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
"""
    assert medrd("predict", tiny_run, scan, "--out", out, prelude=kill).code == -9
    assert not (out / "scan.json").exists()
    assert (out / "scan_anomaly.nii.gz").exists() == (moment != "scans.write_nifti")
    again = medrd("predict", tiny_run, scan, "--out", out)
    assert again.code == 0, again.stderr
    assert "1 predicted, 0 already there" in again.stderr
    assert {f"scan{ending}" for ending in ENDINGS} == names(out)


def test_sigterm_ends_after_the_scan_under_way_and_the_rest_is_done_later(
    medrd: Medrd, tiny_run: Path, scan: Path, tmp_path: Path
) -> None:
    scans, out = [scan.parent / "missing.nii.gz", *copies(scan, 3)], tmp_path / "out"
    stop = """
import os, signal
import medrd.workflows.scans as module
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
    one, two = copies(scan, 2)
    (tmp_path / "out" / "copy_0.json").mkdir(parents=True)
    report = predict(quick, [one, two], tmp_path / "out")
    assert [type(error) for error in report.errors] == [OutputError]
    assert [path.name for path in report.done] == ["copy_1.json"]


# --- Memory ---


def test_scans_in_memory_do_not_grow_with_their_number(
    quick: Model, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, original = copies(scan, 6), scans_module.prepare
    alive: list[weakref.ref[Prepared]] = []
    counts = []

    def counting(*args: Any, **kwargs: Any) -> Prepared:
        prepared = original(*args, **kwargs)
        alive.append(weakref.ref(prepared))
        gc.collect()
        counts.append(sum(ref() is not None for ref in alive))
        return prepared

    monkeypatch.setattr(scans_module, "prepare", counting)
    assert len(predict(quick, scans, tmp_path / "out", picture=False).done) == 6
    assert len(counts) == 6
    assert max(counts) <= 3  # one read ahead, one computed, one just being let go
    gc.collect()
    assert not any(ref() is not None for ref in alive)


def test_a_volume_over_the_budget_is_refused(quick: Model, scan: Path, tmp_path: Path) -> None:
    report = predict(quick, [scan], tmp_path / "out", max_voxels=1000)
    assert [type(error).__name__ for error in report.errors] == ["TooLargeError"]


def test_no_input_is_a_config_error(quick: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        predict(quick, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- DICOM in ---


def test_a_dicom_series_is_predicted_like_the_nifti_file_of_the_same_scan(
    quick: Model, scan: Path, tmp_path: Path
) -> None:
    image = nib.load(scan)  # LPS: rows and columns run as DICOM's, slices upwards
    array, affine = np.asarray(image.dataobj), image.affine
    study = tmp_path / "study"
    write_series(
        study / "flair",
        array.transpose(2, 1, 0),
        spacing_mm=(4, 4, 4),
        origin_mm=affine[:3, 3] * [-1, -1, 1],
    )
    uid = write_series(study / "both", array.transpose(2, 1, 0), spacing_mm=(4, 4, 4), prefix="a")
    write_series(study / "both", array.transpose(2, 1, 0), spacing_mm=(4, 4, 4), prefix="b")
    out = tmp_path / "out"
    report = predict(quick, [study, scan], out)
    (error,) = report.errors  # of two series in one folder none was chosen
    assert isinstance(error, SeriesError)
    ours, theirs = nib.load(out / "flair_anomaly.nii.gz"), nib.load(out / "scan_anomaly.nii.gz")
    # dcm2niix's grid, which counts rows from the last.
    np.testing.assert_allclose(ours.get_fdata()[:, ::-1], theirs.get_fdata(), atol=1e-4)
    records = [
        json.loads((out / f"{name}.json").read_text(encoding="utf-8")) for name in ("flair", "scan")
    ]
    assert records[0]["scan_score"] == pytest.approx(records[1]["scan_score"], abs=1e-4)

    chosen = predict(quick, [study], out, series=uid)
    assert chosen.done == [out / "both.json"]
    again = predict(quick, [study / "both"], out, series=uid, report=True)
    assert again.skipped == [out / "both.json"]
    assert again.page is not None
    assert (again.page.pages, again.page.errors) == (3, [])  # flair, scan, and the chosen one


# --- The guard ---


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

    assert len(predict(quick, [scan, ct, named], out).done) == 3
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
    record = json.loads((out / "scan.json").read_text(encoding="utf-8"))
    assert record["not_judged"] == []
    report = predict(quick, [scan, ct, named], out, strict=True)
    assert report.skipped == [out / "scan.json"]
    assert {type(error) for error in report.errors} == {UnlikeTrainingError}
    assert [Path(error.where).name for error in report.errors] == ["ct.nii.gz", "other_t1.nii.gz"]
    assert LoadedModel(quick).predict(read(ct)).warnings == (
        *json.loads((out / "ct.json").read_text(encoding="utf-8"))["warnings"],
        *odd["ct"],
    )


def test_names_count_only_where_those_of_the_training_scans_did(
    tiny_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a plain folder the channel's name is the config's default: it says nothing."""
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
    report = predict(model, [plain], tmp_path / "out", strict=True)
    assert [error for error in report.errors if "by its name" in error.found] == []
    reasons = ("contrast: the model knows 2 scans", "file names: those of the training scans")
    for reason in reasons:
        assert any(f"--strict does not judge {reason}" in m for m in caplog.messages)
    predict(model, [plain], tmp_path / "out")
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
    predict(blind, [scan], tmp_path / "out")
    record = json.loads((tmp_path / "out" / "scan.json").read_text(encoding="utf-8"))
    assert record["not_judged"] == ["anything: the model file has no profile of its training scans"]
