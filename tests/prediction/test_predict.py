"""``medrd predict``: maps on the scans' own grids, of every input that can be read."""

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
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from dicoms import write_series
from folders import names
from medrd.data.brains import kind as brains_module
from medrd.data.kind import Prepared
from medrd.errors import ConfigError, SeriesError, TooLargeError, WrongKindError
from medrd.prediction.predict import predict
from medrd.run.model_folder import Model, load_model
from medrd.run.predictor import Predictor
from tiny import brighter_copies

Medrd = Callable[..., Any]
ENDINGS = {"_anomaly.nii.gz", "_mask.nii.gz", ".json", ".png"}


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Model:
    return load_model(tiny_run)


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

    for path in paths:
        path.unlink(missing_ok=True)
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
    predict(quick, [scan], tmp_path, picture=False)
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
    assert record["slices_scored"] < record["slices_with_brain"] < record["slices"] == 24
    brain = nib.load(scan).get_fdata() != 0
    assert record["slices_with_brain"] == brain.any(axis=(0, 1)).sum()
    assert record["min_brain_mm2"] == quick.recipe.min_brain_mm2
    assert "not a medical device" in record["notice"].lower()


def test_a_label_or_a_map_is_no_scan(
    quick: Model, tiny_root: Path, scan: Path, tmp_path: Path
) -> None:
    binary = shutil.copy(tiny_root / "tiny_0" / "tiny_0_seg.nii.gz", tmp_path / "binary.nii.gz")
    label = shutil.copy(binary, tmp_path / "innocent.nii.gz")
    array = np.asarray(nib.load(label).dataobj).copy()
    array[::2] *= 4  # one number for the edema, one for the core
    nib.save(nib.Nifti1Image(array, nib.load(label).affine), label)
    predict(quick, [scan], tmp_path / "out", picture=False)
    maps = [tmp_path / "out" / "scan_anomaly.nii.gz", tmp_path / "out" / "scan_mask.nii.gz"]
    report = predict(quick, [binary, label, *maps], tmp_path / "again")
    assert [type(error) for error in report.errors] == [WrongKindError] * 4
    assert ["medrd wrote" in error.found for error in report.errors] == [False, False, True, True]


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
    predict(quick, [scan], tmp_path, picture=False)
    bare = Model(quick.detector, quick.config, None, quick.training, "another")
    report = predict(bare, [scan], tmp_path, picture=False)
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


# --- Memory ---


@pytest.mark.parametrize(
    "failure",
    [
        None,
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"),
    ],
)
def test_scans_in_memory_do_not_grow_with_their_number(
    quick: Model,
    scan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception | None,
) -> None:
    """Nor do those that the memory does not suffice for: each fails alone."""
    scans, original = brighter_copies(scan, 6), brains_module.prepare_slices
    alive: list[weakref.ref[Prepared]] = []
    counts = []

    def counting(*args: Any, **kwargs: Any) -> Prepared:
        prepared = original(*args, **kwargs)
        alive.append(weakref.ref(prepared))
        gc.collect()
        counts.append(sum(ref() is not None for ref in alive))
        return prepared

    def fail(self: Predictor, prepared: Prepared, threshold: float | None) -> None:
        assert failure is not None
        raise type(failure)(*failure.args)

    monkeypatch.setattr(brains_module, "prepare_slices", counting)
    if failure is not None:
        monkeypatch.setattr(Predictor, "on_grid", fail)
    gc.freeze()  # what there is already is not looked through again
    report = predict(quick, scans, tmp_path / "out", picture=False)
    assert len(report.done) == (0 if failure else 6)
    assert [type(error) for error in report.errors] == ([TooLargeError] * 6 if failure else [])
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
    other = write_series(study / "both", array.transpose(2, 1, 0), spacing_mm=(4, 4, 4), prefix="b")
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
    (error,) = predict(quick, [study / "both"], out, series=other).errors
    assert (f"series {other}" in error.expected, f"series {uid}" in error.found) == (True, True)
    again = predict(quick, [study / "both"], out, series=uid, report=True)
    assert again.skipped == [out / "both.json"]
    assert again.page is not None
    assert (again.page.pages, again.page.errors) == (3, [])  # flair, scan, and the chosen one
