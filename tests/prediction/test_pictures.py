"""``medrd predict`` on pictures: maps on their own pixels, whole or not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

import medrd
from folders import names, times
from medrd.config import make_config
from medrd.data.pictures.files import PictureSubject
from medrd.data.pictures.opened import find_parts
from medrd.data.subject import Source
from medrd.errors import ConfigError, ModelError, OutputError, TooLargeError
from medrd.images.volume import volume_from_array
from medrd.prediction.predict import predict
from medrd.run.device import choose_execution
from medrd.run.model_folder import Model, load_model
from medrd.run.predictor import Predictor
from medrd.training.train import train

Medrd = Callable[..., Any]
ENDINGS = {"_anomaly.tiff", "_mask.png", ".json", ".png"}


@pytest.fixture(scope="module")
def quick(texture_root: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The calibrated intensity baseline: bright is anomalous."""
    raw = {
        "data": {
            "kind": "pictures",
            "root": str(texture_root),
            "cache": str(tiny_cache),
            "category": "weave",
            "calibration": 2,
        },
        "recipe": {"size": 64, "colour": "grey"},
        "model": {"name": "intensity"},
        "scoring": {"sigma_px": 1},
    }
    return load_model(train(make_config(raw), tmp_path_factory.mktemp("quick") / "run"))


def resizing(model: Model, resize: str) -> Model:
    recipe = model.config.recipe.model_copy(update={"resize": resize})
    return replace(model, config=model.config.model_copy(update={"recipe": recipe}))


def spots(*places: tuple[int, int], shape: tuple[int, int] = (90, 140)) -> NDArray[np.uint8]:
    """Dark, with white squares of 15 pixels around (row, column)."""
    values = np.full(shape, 30, np.uint8)
    for row, column in places:
        values[row - 7 : row + 8, column - 7 : column + 8] = 255
    return values


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """90 rows, 140 columns, one bright spot left of and above the middle."""
    path = tmp_path / "in" / "part.png"
    path.parent.mkdir()
    Image.fromarray(spots((30, 50))).save(path)
    return path


def record(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# --- What is written ---


@pytest.mark.parametrize("resize", ["stretch", "fit", "crop"])
def test_the_map_is_the_one_that_evaluate_judges(
    picture_run: Path, quick: Model, texture_root: Path, tmp_path: Path, resize: str
) -> None:
    """The map of a picture that is not square is written without resizing or rescaling."""
    source = next((texture_root / "weave" / "test" / "good").glob("*.png"))
    picture = tmp_path / "wide.png"
    Image.open(source).crop((0, 5, 96, 70)).save(picture)
    for name, model in (("rd4ad", load_model(picture_run)), ("quick", quick)):
        model = resizing(model, resize)
        report = predict(model, [picture], tmp_path / name, device="cpu", engine="torch")
        assert report.errors == []
        written = tifffile.imread(tmp_path / name / "wide_anomaly.tiff")
        subject = PictureSubject("wide", {"picture": Source(picture)})
        item = model.kind.test_item(subject, budget=10**6)
        predictor = Predictor(model.detector, model.scoring(), choose_execution("cpu", "fp32"))
        predicted = predictor.on_grid(item.prepared)
        assert written.dtype == np.float32
        assert written.shape == (65, 96) == predicted.grid_map.shape
        assert np.array_equal(written, predicted.grid_map)
        said = record(tmp_path / name / "wide.json")
        assert said["image_score"] == predicted.scan_score
        scored = item.prepared.scored()
        assert not written[~scored].any()
        assert written[scored].all()
        assert said["pixels_scored"] == scored.sum() == 65 * (65 if resize == "crop" else 96)
        assert (said["height"], said["width"]) == (65, 96)


@pytest.mark.parametrize("resize", ["stretch", "fit", "crop"])
def test_the_record_agrees_with_the_files_and_with_what_is_in_the_picture(
    quick: Model, picture: Path, tmp_path: Path, resize: str
) -> None:
    report = predict(resizing(quick, resize), [picture], tmp_path / "out")
    assert report.errors == []
    assert names(tmp_path / "out") == {f"part{ending}" for ending in ENDINGS}
    said = record(tmp_path / "out" / "part.json")
    scores = tifffile.imread(tmp_path / "out" / "part_anomaly.tiff")
    mask = np.asarray(Image.open(tmp_path / "out" / "part_mask.png"))
    calibration = quick.calibration
    assert calibration is not None
    assert set(np.unique(mask)) == {0, 255}
    assert np.array_equal(mask > 0, scores >= np.float32(calibration.threshold))
    assert said["threshold"] == calibration.threshold
    assert said["normal_pictures"] == calibration.scans == 2
    assert said["normal_percentile"] == calibration.percentile(said["image_score"])
    # Every normal picture counts whole, so scores can be compared.
    assert said["p_value"] == calibration.p_value(said["image_score"])
    assert said["p_value"] is not None
    (finding,) = said["findings"]
    assert finding["area_px"] == said["anomalous_pixels"] == (mask > 0).sum()
    assert 100 < finding["area_px"] < 500
    assert finding["centroid_px"] == pytest.approx([30, 50], abs=1)
    assert finding["centroid_px"] == pytest.approx(ndimage.center_of_mass(mask))
    assert scores[tuple(finding["peak_px"])] == pytest.approx(finding["peak_score"])
    assert finding["peak_score"] == scores.max()
    assert "lesion" not in json.dumps(said)
    assert Path(said["inputs"]["picture"]) == picture


def test_findings_are_the_8_connected_parts_largest_first() -> None:
    mask = np.zeros((7, 9), bool)
    mask[0, 0] = mask[1, 1] = mask[2, 0] = True  # corner by corner: one
    mask[5, 4:8] = True
    mask[3, 8] = True
    scores = np.arange(63, dtype=np.float32).reshape(7, 9)
    rows = find_parts(scores, mask)
    assert [row["area_px"] for row in rows] == [4, 3, 1]
    assert rows[0]["centroid_px"] == [5, 5.5]
    assert rows[0]["peak_px"] == [5, 7]
    assert rows[1]["centroid_px"] == pytest.approx([1, 1 / 3])
    assert rows[2]["peak_score"] == scores[3, 8]
    assert find_parts(scores, np.zeros_like(mask)) == []


def test_a_model_without_threshold_leaves_no_mask_of_another_behind(
    quick: Model, picture: Path, tmp_path: Path
) -> None:
    predict(quick, [picture], tmp_path / "out")
    bare = Model(quick.detector, quick.config, None, quick.training, "another")
    assert len(predict(bare, [picture], tmp_path / "out").done) == 1
    assert names(tmp_path / "out") == {f"part{ending}" for ending in ENDINGS - {"_mask.png"}}
    said = record(tmp_path / "out" / "part.json")
    assert said["threshold"] is said["p_value"] is said["anomalous_pixels"] is None
    assert said["findings"] == []


def test_a_good_picture_among_bad_ones_is_done_and_each_bad_one_explained(
    medrd: Medrd, picture_run: Path, picture: Path, tmp_path: Path
) -> None:
    folder, whole = picture.parent, picture.read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("not a picture")
    Image.fromarray(spots(shape=(200, 200))).save(folder / "large.png")
    tifffile.imwrite(folder / "float.tif", np.full((40, 40), 4000, np.float32))
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.int16), np.eye(4)), folder / "scan.nii.gz")
    bad = ["cut.png", "empty.png", "text.jpg", "large.png", "float.tif"]
    argv = [folder, folder / "scan.nii.gz", folder / "missing.png", "--max-voxels", 30_000]
    out = tmp_path / "out"
    done = medrd("predict", picture_run, *argv, "--out", out)
    assert done.code == 3, done.stderr
    assert "Traceback" not in done.stderr
    errors = {Path(e["where"]).name: e for e in record(out / "errors.json")}
    assert set(errors) == {*bad, "scan.nii.gz", "missing.png"}
    assert errors["large.png"]["error"] == "TooLargeError"
    assert "trained on pictures" in errors["scan.nii.gz"]["expected"]
    assert errors["scan.nii.gz"]["found"] == "a scan named scan.nii.gz"
    assert names(out) == {"errors.json"} | {f"part{ending}" for ending in ENDINGS}
    assert picture.read_bytes() == whole


def test_a_link_to_nothing_among_pictures_is_said(quick: Model, picture: Path) -> None:
    """As git-annex leaves those that it has not fetched."""
    (picture.parent / "away.png").symlink_to("nowhere.png")
    report = predict(quick, [picture.parent], picture.parents[1] / "out")
    assert len(report.done) == 1
    assert ["nowhere.png, which does not exist" in error.found for error in report.errors] == [True]


def test_pictures_for_a_model_of_scans_are_explained(
    medrd: Medrd, tiny_run: Path, picture: Path, tmp_path: Path
) -> None:
    for given, found in ((picture, "a picture named part.png"), (picture.parent, "pictures")):
        done = medrd("predict", tiny_run, given, "--out", tmp_path / "out")
        assert done.code == 3
        assert "trained on scans" in done.stderr
        assert f"found {found}" in done.stderr


def test_a_frame_of_a_picture_is_a_config_error(
    medrd: Medrd, picture_run: Path, picture: Path, tmp_path: Path
) -> None:
    refused = medrd("predict", picture_run, picture, "--frame", 1, "--out", tmp_path / "out")
    assert refused.code == 2
    assert not (tmp_path / "out").exists()


def test_the_range_of_values_is_the_models(quick: Model, tmp_path: Path) -> None:
    recipe = quick.config.recipe.model_copy(update={"value_range": (0.0, 4080.0)})
    deep = replace(quick, config=quick.config.model_copy(update={"recipe": recipe}))
    values = spots((40, 40))
    Image.fromarray(values).save(tmp_path / "eight.png")
    tifffile.imwrite(tmp_path / "deep.tif", values.astype(np.float32) * 16)
    assert predict(quick, [tmp_path / "eight.png"], tmp_path / "out").errors == []
    assert predict(deep, [tmp_path / "deep.tif"], tmp_path / "out").errors == []
    maps = [tifffile.imread(tmp_path / "out" / f"{n}_anomaly.tiff") for n in ("eight", "deep")]
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-6)


# --- Doing it again ---


@pytest.mark.parametrize("change", ["nothing", "input", "map", "mask", "picture", "record"])
def test_what_is_as_on_record_is_skipped_and_all_else_done_again(
    quick: Model, picture: Path, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "out"
    predict(quick, [picture], out)
    endings = {"map": "_anomaly.tiff", "mask": "_mask.png", "picture": ".png", "record": ".json"}
    if change == "input":
        Image.fromarray(spots((60, 100))).save(picture)
    elif change != "nothing":
        path = out / f"part{endings[change]}"
        path.write_bytes(path.read_bytes()[:-3])
    before = times(out)
    report = predict(quick, [picture], out)
    assert report.errors == []
    assert len(report.skipped) == (change == "nothing")
    assert bool(set(times(out).items()) & set(before.items())) == (change == "nothing")


@pytest.mark.parametrize("moment", ["imwrite", "save_figure", "write_json"])
def test_killed_while_writing_nothing_half_is_there_and_it_goes_on(
    medrd: Medrd, picture_run: Path, tmp_path: Path, moment: str
) -> None:
    """kill -9 in the second of three pictures, whose own folder takes the results."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(spots((30 + i, 40))).save(folder / f"{i}.bmp")
    module = {"imwrite": "tifffile", "write_json": "medrd.run.record"}
    kill = f"""
import os, signal
import {module.get(moment, "medrd.draw.heat")} as module
original, calls = module.{moment}, []
def patched(path, *args, **kwargs):
    calls.append(path)
    if len(calls) == 2:
        open(path, "wb").write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    original(path, *args, **kwargs)
module.{moment} = patched
"""
    if moment != "imwrite":  # the file of that name itself would be half
        kill = kill.replace('        open(path, "wb").write(b"half")\n', "")
    assert medrd("predict", picture_run, folder, "--out", folder, prelude=kill).code == -9
    assert (folder / "0.json").exists()
    assert not (folder / "1.json").exists()
    assert (folder / "1_anomaly.tiff").exists() == (moment != "imwrite")
    first = {path: time for path, time in times(folder).items() if Path(path).name[0] == "0"}
    again = medrd("predict", picture_run, folder, "--out", folder)
    assert again.code == 0, again.stderr
    assert "2 predicted, 1 already there, 0 failed" in again.stderr
    assert first.items() <= times(folder).items()
    visible = {name for name in names(folder) if not name.startswith(".")}
    assert visible == {f"{i}{ending}" for i in range(3) for ending in {*ENDINGS, ".bmp"}}
    last = medrd("predict", picture_run, folder, "--out", folder)
    assert "0 predicted, 3 already there, 0 failed" in last.stderr


# --- Which pictures, and what must never be replaced ---


def test_a_folders_tree_is_mirrored_without_what_is_no_picture_to_predict(
    quick: Model, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    for place in ("a.png", "deep/a.JPG", "deep/er/b.tif", "deep/blue_mask.png"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(spots((20, 20))).convert("RGB").save(folder / place)
    for place in ("._a.png", ".hidden/c.png", "a_mask.png", "old_anomaly.tiff", "notes.txt"):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_bytes(b"not a picture")
    report = predict(quick, [folder], tmp_path / "out", picture=False)
    assert report.errors == []
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in report.done)
    assert found == ["a.json", "deep/a.json", "deep/blue_mask.json", "deep/er/b.json"]


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (["x/a.png", "y/a.png"], "a_anomaly.tiff"),
        (["errors.png"], "errors.json lists"),
    ],
)
def test_two_inputs_with_one_output_are_refused_before_anything_is_written(
    quick: Model, tmp_path: Path, given: list[str], same: str
) -> None:
    for name in given:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(spots((20, 20))).save(tmp_path / name)
    with pytest.raises(ConfigError, match=same):
        predict(quick, [tmp_path / name for name in given], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (["a.png", "a.jpg"], "a_anomaly.tiff"),
        (["a.png", "a_mask.png"], "a_mask.png"),  # the mask of one is the overlay of the other
    ],
)
def test_two_pictures_of_a_folder_with_one_output_fail_alone(
    quick: Model, tmp_path: Path, given: list[str], same: str
) -> None:
    for name in (*given, "b.png"):
        Image.fromarray(spots((20, 20))).save(tmp_path / name)
    report = predict(quick, sorted(tmp_path.iterdir()), tmp_path / "out")
    assert sorted(Path(error.where).name for error in report.errors) == sorted(given)
    assert all(same in error.found for error in report.errors)
    assert [path.name for path in report.done] == ["b.json"]


def test_nothing_to_do_is_an_error(quick: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no picture"):
        predict(quick, [], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    (error,) = predict(quick, [tmp_path / "empty"], tmp_path / "out").errors
    assert error.where == str(tmp_path / "empty")


@pytest.mark.parametrize("there", [".png", ".json", "_mask.png", "_anomaly.tiff"])
def test_a_file_that_medrd_did_not_write_is_never_replaced(
    quick: Model, tmp_path: Path, there: str
) -> None:
    """The picture itself, a tool's annotation, a label, another program's map."""
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(spots((20, 20))).save(folder / "part.png")
    other = folder / f"part{there}"
    if there == ".json":
        other.write_text('{"shapes": []}')
    elif there == "_anomaly.tiff":
        tifffile.imwrite(other, np.zeros((4, 4), np.float32))
    elif there == "_mask.png":
        shutil.copy(folder / "part.png", other)
    (folder / "part.png").rename(folder / ("part.png" if there == ".png" else "part.bmp"))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    report = predict(quick, [folder], folder)
    assert [type(error) for error in report.errors] == [OutputError]
    assert report.done == []
    (folder / "errors.json").unlink()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert predict(quick, [folder], tmp_path / "out").errors == []


def test_a_picture_with_results_copied_beside_it_is_still_a_picture(
    quick: Model, picture: Path, tmp_path: Path
) -> None:
    predict(quick, [picture], tmp_path / "out")
    shutil.copy(tmp_path / "out" / "part_anomaly.tiff", picture.parent)
    assert len(predict(quick, [picture.parent], tmp_path / "new").done) == 1


# --- Python ---


def test_a_picture_in_memory_gets_the_map_that_the_command_line_writes(
    picture_run: Path, picture: Path, tmp_path: Path
) -> None:
    found = medrd.load(picture_run, device="cpu").predict(medrd.read(picture))
    medrd.predict(picture_run, [picture], tmp_path, device="cpu", picture=False)
    assert np.array_equal(found.scores, tifffile.imread(tmp_path / "part_anomaly.tiff"))
    assert found.scores.dtype == np.float32
    assert found.mask is not None
    assert np.array_equal(found.mask, np.asarray(Image.open(tmp_path / "part_mask.png")) > 0)
    assert found.slice_scores.shape == (1,)
    assert found.scan_score == record(tmp_path / "part.json")["image_score"]


def test_scans_and_pictures_in_memory_are_not_mixed_up(
    picture_run: Path, tiny_run: Path, picture: Path
) -> None:
    volume = volume_from_array(np.ones((4, 4, 4)), np.eye(4))
    model = medrd.load(picture_run)
    for given in (volume, {"flair": volume}):
        with pytest.raises(ModelError, match="trained on pictures"):
            model.predict(given)
    with pytest.raises(ModelError, match="trained on scans"):
        medrd.load(tiny_run).predict(medrd.read(picture))


def test_what_is_read_goes_by_the_ending(picture: Path, tmp_path: Path) -> None:
    assert medrd.read(picture).array.shape == (90, 140, 1)
    path = tmp_path / "deep.TIFF"
    tifffile.imwrite(path, np.full((5, 4), 1000.0, np.float32))
    assert medrd.read(path, value_range=(0, 2000)).array[0, 0, 0] == 0.5
    with pytest.raises(TooLargeError):
        medrd.read(picture, max_voxels=90 * 140 - 1)
    with pytest.raises(ConfigError, match="frame"):
        medrd.read(picture, frame=0)
    with pytest.raises(ConfigError, match="value range"):
        medrd.read("scan.nii.gz", value_range=(0, 1))
