"""Pictures from folders to numbers: what is trained on, what is judged, what may go wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from medrd.config import load_config, make_config
from medrd.data.pictures.split import split_pictures
from medrd.errors import ConfigError, LeakageError, MedrdError
from medrd.evaluation.evaluate import evaluate
from medrd.evaluation.outputs import load_units
from medrd.metrics.columns import KEYS, METRICS
from medrd.prediction.predict import predict
from medrd.run.cohort import load_cohort, prepare_sides
from medrd.run.model_folder import load_model
from medrd.training.train import train


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def images(root: Path, *parts: str) -> list[Path]:
    return sorted(root.joinpath(*parts).glob("*.png"))


@pytest.fixture
def copy(texture_root: Path, tmp_path: Path) -> Path:
    """The textures, to be damaged."""
    shutil.copytree(texture_root, tmp_path / "textures")
    return tmp_path / "textures"


@pytest.fixture(scope="module")
def evaluated(
    picture_run: Path, texture_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    raw = yaml.safe_load((picture_run / "config.yaml").read_text(encoding="utf-8"))
    evaluate(picture_run, make_config(raw), out)
    return out


# --- sides ---


def test_test_pictures_are_the_folders_and_calibration_is_drawn_from_train_good(
    picture_raw: dict[str, Any], texture_root: Path
) -> None:
    drawn = set()
    for seed in range(4):
        split = load_cohort(make_config(picture_raw | {"seed": seed})).split
        assert len(split.calibration) == 2
        assert len(split.train) == 8
        assert all(id.startswith("weave/train/good/") for id in split.train + split.calibration)
        assert len(set(split.train) | set(split.calibration)) == 10
        assert len(split.test) == 12
        assert all(id.startswith("weave/test/") for id in split.test)
        drawn.add(split.calibration)
    assert len(drawn) > 1


@pytest.mark.parametrize(
    ("calibration", "counts"), [("auto", (9, 1)), (0.5, (5, 5)), (0, (10, 0)), (10, None)]
)
def test_how_many_are_held_out(
    picture_raw: dict[str, Any], calibration: Any, counts: tuple[int, int] | None
) -> None:
    picture_raw["data"]["calibration"] = calibration
    config = make_config(picture_raw)
    if counts is None:
        with pytest.raises(ConfigError, match="all held out"):
            load_cohort(config)
        return
    split = load_cohort(config).split
    assert (len(split.train), len(split.calibration)) == counts


def test_a_validation_folder_calibrates_unless_a_number_is_asked_for(
    copy: Path, picture_raw: dict[str, Any]
) -> None:
    picture_raw["data"] |= {"root": str(copy), "calibration": "auto", "layout": "mvtec_loco"}
    for old, new in (("test/good", "validation/good"),):
        (copy / "weave" / new).parent.mkdir(parents=True)
        shutil.copytree(copy / "weave" / old, copy / "weave" / new)
    bad = next(p for p in (copy / "weave" / "test").iterdir() if p.name != "good")
    bad.rename(bad.parent / "structural_anomalies")
    masks = copy / "weave" / "ground_truth"
    (masks / "structural_anomalies").mkdir()
    for path in images(masks, bad.name):
        place = masks / "structural_anomalies" / path.stem.removesuffix("_mask")
        place.mkdir()
        path.rename(place / "000.png")
    for other in [*(copy / "weave" / "test").iterdir(), *masks.iterdir()]:
        if other.name not in ("good", "structural_anomalies"):
            shutil.rmtree(other)
    split = load_cohort(make_config(picture_raw)).split
    assert len(split.train) == 10
    assert all(id.startswith("weave/validation/good/") for id in split.calibration)
    assert len(split.calibration) == 4
    picture_raw["data"]["calibration"] = 3
    split = load_cohort(make_config(picture_raw)).split
    assert all(id.startswith("weave/train/good/") for id in split.calibration)


def test_a_plain_folder_is_split_by_seed(copy: Path, tmp_path: Path) -> None:
    root = tmp_path / "plain"
    shutil.copytree(copy / "weave" / "train" / "good", root / "normal")
    defect = next(p for p in (copy / "weave" / "test").iterdir() if p.name != "good")
    shutil.copytree(defect, root / "abnormal")
    shutil.copytree(copy / "weave" / "ground_truth" / defect.name, root / "masks")
    raw = {"data": {"kind": "pictures", "root": str(root), "normal_test": 0.3, "calibration": 2}}
    splits = [load_cohort(make_config(raw | {"seed": seed})).split for seed in range(3)]
    for split in splits:
        assert len(split.train) == 5
        assert len(split.calibration) == 2
        assert len([id for id in split.test if "abnormal" not in id]) == 3
    assert len({split.hash for split in splits}) > 1


def test_split_knows_each_category_by_itself(texture_root: Path) -> None:
    config = make_config({"data": {"kind": "pictures", "root": str(texture_root)}})
    cohort = load_cohort(config)
    assert len(cohort.split.calibration) == 2  # 0.1 of 10 in each of two
    assert {id.split("/")[0] for id in cohort.split.calibration} == {"weave", "grain"}
    pictures = list(cohort.subjects.values())
    again = split_pictures(pictures[::-1], config.data, seed=0)  # type: ignore[arg-type]
    assert again.hash == cohort.split.hash


# --- numbers ---


def test_numbers_are_those_of_maps_at_the_pictures_own_resolution(
    evaluated: Path, picture_run: Path, texture_root: Path
) -> None:
    """Against scikit-learn on maps made by hand, with nothing of the workflow in between."""
    model = load_model(picture_run)
    scores, labels, tops, bad = [], [], [], []
    for path in sorted((texture_root / "weave" / "test").glob("*/*.png")):
        array = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
        tensor = torch.from_numpy(array).permute(2, 0, 1)[None]
        small = torch.nn.functional.interpolate(
            tensor, (64, 64), mode="bilinear", antialias=True, align_corners=False
        )
        with torch.inference_mode():
            maps, top = model.scoring()(
                model.detector.anomaly_map(small), torch.ones(1, 64, 64, dtype=torch.bool)
            )
            large = torch.nn.functional.interpolate(
                maps[None], array.shape[:2], mode="bilinear", align_corners=False
            )
        scores.append(large.numpy().ravel())
        tops.append(float(top))
        good = path.parent.name == "good"
        bad.append(not good)
        mask = texture_root / "weave" / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        truth = np.zeros(array.shape[:2]) if good else np.asarray(Image.open(mask))
        labels.append(truth.ravel() > 0)
    found = read(evaluated / "metrics.json")
    y, s = np.concatenate(labels), np.concatenate(scores)
    # The float16 cache takes no part in testing, so only the order of sums differs.
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(y, s), abs=1e-5)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(y, s), abs=1e-4)
    assert found["image_auroc"] == pytest.approx(roc_auc_score(bad, tops), abs=1e-9)
    threshold = model.calibration.threshold if model.calibration else np.inf
    mask = s >= threshold
    dice = 2 * (mask & y).sum() / (mask.sum() + y.sum())
    assert found["pixel_dice"] == pytest.approx(dice, abs=1e-3)
    assert found["complete"] is True
    assert found["protocol"]["region"] == "all"
    assert found["counts"]["voxels"] == s.size
    assert found["subject_dice"] is None  # of scans


def test_intervals_and_units_stand_beside_the_numbers(evaluated: Path) -> None:
    metrics = read(evaluated / "metrics.json")
    assert metrics["intervals"]["over"] == "subjects"
    for key in ("image_auroc", "pixel_ap", "aupro"):
        low, high = metrics["intervals"][key]
        assert 0 <= low <= metrics[key] + 0.02
        assert low < high <= 1
        assert metrics[key] <= high + 0.02
    units = load_units(evaluated / "units" / "weave.npz")
    assert set(units.ids) == {row["subject"] for row in read(evaluated / "subjects.json")}
    assert units.image_labels.sum() == 8


def test_several_categories_have_rows_and_a_mean(
    texture_root: Path, picture_raw: dict[str, Any], tmp_path: Path
) -> None:
    picture_raw["data"]["category"] = "all"
    picture_raw["model"] = {"name": "intensity"}
    config = make_config(picture_raw)
    run = train(config, tmp_path / "run")
    metrics = read(evaluate(run, config, tmp_path / "out"))
    assert set(metrics["categories"]) == {"weave", "grain"}
    for key in ("image_auroc", "pixel_ap", "aupro"):
        mean = np.mean([metrics["categories"][c][key] for c in ("weave", "grain")])
        assert metrics[key] == pytest.approx(mean)
    assert metrics["counts"]["subjects"] == 24
    assert sorted(p.stem for p in (tmp_path / "out" / "units").iterdir()) == ["grain", "weave"]


def test_without_any_masks_images_are_judged_and_pixels_are_not(
    copy: Path, picture_run: Path, picture_raw: dict[str, Any], evaluated: Path, tmp_path: Path
) -> None:
    shutil.rmtree(copy / "weave" / "ground_truth")
    shutil.rmtree(copy / "grain")
    picture_raw["data"]["root"] = str(copy)
    metrics = read(evaluate(picture_run, make_config(picture_raw), tmp_path / "out"))
    assert metrics["image_auroc"] == read(evaluated / "metrics.json")["image_auroc"]
    defined = [key for key in KEYS if metrics[key] is not None]
    assert defined == [metric.key for metric in METRICS if metric.needs == ("images",)]
    assert "image_auroc" in metrics["intervals"]
    assert "pixel_ap" not in metrics["intervals"]


def test_what_a_crop_does_not_show_counts_as_not_found(
    copy: Path, picture_raw: dict[str, Any], tmp_path: Path
) -> None:
    """Pictures made wider, with a defect at the very edge: a crop must not make it vanish."""
    picture_raw["recipe"] |= {"resize": "crop", "colour": "grey"}
    picture_raw["model"] = {"name": "intensity"}
    for path in copy.glob("weave/**/*.png"):
        pixels = np.asarray(Image.open(path))
        wide = np.pad(pixels, ((0, 0), (48, 48), *[(0, 0)] * (pixels.ndim - 2)), mode="edge")
        if "ground_truth" in path.parts:
            wide[:] = 0
            wide[:20, :20] = 255
        Image.fromarray(wide).save(path)
    picture_raw["data"] |= {"root": str(copy), "cache": str(tmp_path / "cache")}
    config = make_config(picture_raw)
    metrics = read(evaluate(train(config, tmp_path / "run"), config, tmp_path / "out"))
    assert metrics["counts"]["lesion_voxels"] == metrics["counts"]["lesion_voxels_not_scored"]
    assert metrics["counts"]["lesion_voxels"] == 8 * 400
    assert metrics["pixel_auroc"] < 0.5
    assert metrics["aupro"] == pytest.approx(0, abs=1e-6)
    assert metrics["pixel_dice"] == 0


# --- damage ---


def test_a_damaged_test_picture_is_reported_and_the_numbers_are_marked(
    copy: Path, picture_run: Path, picture_raw: dict[str, Any], medrd: Any, tmp_path: Path
) -> None:
    good, *_ = images(copy, "weave", "test", "good")
    good.write_bytes(good.read_bytes()[:200])
    defect = next(p for p in (copy / "weave" / "ground_truth").iterdir())
    mask, *_ = images(defect)
    Image.new("L", (7, 9)).save(mask)
    picture_raw["data"]["root"] = str(copy)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(picture_raw))
    done = medrd("evaluate", picture_run, tmp_path / "c.yaml", "--out", tmp_path / "out")
    assert done.code == 3
    metrics = read(tmp_path / "out" / "metrics.json")
    assert metrics["complete"] is False
    assert (metrics["counts"]["subjects"], metrics["counts"]["subjects_failed"]) == (10, 2)
    errors = {e["error"]: e["where"] for e in read(tmp_path / "out" / "errors.json")}
    assert errors.keys() == {"TruncatedFileError", "GridMismatchError"}
    assert str(good) in errors["TruncatedFileError"]
    assert str(mask) in errors["GridMismatchError"]
    assert "2 of 12" in done.stdout


def test_a_mask_that_is_missing_costs_its_picture_alone(
    copy: Path, picture_run: Path, picture_raw: dict[str, Any], tmp_path: Path
) -> None:
    gone = next((copy / "weave" / "ground_truth").rglob("*.png"))
    gone.unlink()
    picture_raw["data"]["root"] = str(copy)
    metrics = read(evaluate(picture_run, make_config(picture_raw), tmp_path / "out"))
    assert (metrics["complete"], metrics["counts"]["subjects"]) == (False, 11)
    [error] = read(tmp_path / "out" / "errors.json")
    assert (error["error"], error["where"]) == ("MissingInputError", str(gone))


def test_deep_pictures_are_trained_on_in_their_depth(
    copy: Path, picture_raw: dict[str, Any], tmp_path: Path
) -> None:
    path = images(copy, "weave", "train", "good")[0]
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) + 60_000
    Image.fromarray(deep).save(path)
    picture_raw["data"] |= {"root": str(copy), "calibration": 0}
    config = make_config(picture_raw)
    [cached] = prepare_sides(load_cohort(config), ("train",), config, tmp_path)[0]
    by_id = {subject.id: subject.images for subject in cached}
    kept = by_id["weave/train/good/000"]
    assert len(np.unique(kept)) == 64 * 64
    assert {images.dtype for images in by_id.values()} == {np.dtype("f2"), np.dtype("f4")}


def test_training_goes_on_without_a_damaged_picture_and_says_so(
    copy: Path, picture_raw: dict[str, Any], medrd: Any, tmp_path: Path
) -> None:
    picture_raw["data"] |= {"root": str(copy), "calibration": 0}
    picture_raw["model"] = {"name": "intensity"}
    bad = images(copy, "weave", "train", "good")[3]
    bad.write_text("no picture")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(picture_raw))
    done = medrd("train", tmp_path / "c.yaml", "--out", tmp_path / "run")
    assert done.code == 3
    assert str(bad) in done.stderr
    assert read(tmp_path / "run" / "run.json")["inputs_left_out"] == [str(bad)]
    trained = read(tmp_path / "run" / "model" / "model.json")["training"]["subjects"]
    assert len(trained) == 9


def test_a_test_picture_that_was_trained_on_is_leakage_under_any_name(
    copy: Path, picture_run: Path, picture_raw: dict[str, Any], tmp_path: Path
) -> None:
    seen = next(iter(read(picture_run / "model" / "model.json")["training"]["subjects"]))
    target = images(copy, "weave", "test", "good")[0]
    Image.open(copy / f"{seen}.png").save(target, compress_level=0)
    picture_raw["data"]["root"] = str(copy)
    with pytest.raises(LeakageError, match=seen):
        evaluate(picture_run, make_config(picture_raw), tmp_path / "out")


def test_models_of_pictures_and_of_scans_are_not_mixed_up(
    picture_run: Path, tiny_raw: dict[str, Any], tiny_root: Path, tmp_path: Path
) -> None:
    (error,) = predict(picture_run, [tiny_root / "tiny_0"], tmp_path / "maps").errors
    assert "trained on pictures" in str(error)
    assert error.found == "scans"
    with pytest.raises(MedrdError, match=r"pictures.*volumes|volumes.*pictures"):
        evaluate(picture_run, make_config(tiny_raw), tmp_path / "out")


# --- no leakage, no selection ---


def weights_and_choices(run: Path) -> dict[str, Any]:
    """All that a run has learned or chosen; the hash of the whole split names the test side."""
    model = read(run / "model" / "model.json")
    epochs = [
        json.loads(line)
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return {
        "weights": model["weights_sha256"],
        "calibration": model["calibration"],
        "trained on": {k: v for k, v in model["training"].items() if k != "split_hash"},
        "epochs": [(line["epoch"], line["loss"]) for line in epochs],
    }


def test_poisoned_test_pictures_change_nothing_that_is_trained_or_chosen(
    medrd: Any, copy: Path, picture_yaml: Path, picture_run: Path, tmp_path: Path
) -> None:
    """Good and bad change places, masks are inverted: a run that looks at them would differ.

    (Of scans: tests/training/test_train.py.)
    """
    weave = copy / "weave"
    bad = next(p for p in (weave / "test").iterdir() if p.name != "good")
    for path in (weave / "ground_truth").glob("*/*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    (weave / "test" / "good").rename(weave / "test" / "swap")
    bad.rename(weave / "test" / "good")
    (weave / "test" / "swap").rename(weave / "test" / bad.name)
    for path in images(weave, "test", bad.name):
        with Image.open(path) as picture:
            mask = Image.new("L", picture.size, 255)
        mask.save(weave / "ground_truth" / bad.name / f"{path.stem}_mask.png")
    poisoned = tmp_path / "poisoned"
    roots = ("--set", f"data.root={copy}", "--set", f"data.cache={tmp_path / 'cache'}")
    done = medrd("train", picture_yaml, "--out", poisoned, *roots)
    assert done.code == 0, done.stderr
    assert weights_and_choices(poisoned) == weights_and_choices(picture_run)
    # The poison is there to be seen by who looks at test pictures.
    config = load_config(picture_yaml, [f"data.root={copy}"])
    metrics = read(evaluate(picture_run, config, tmp_path / "out"))
    assert metrics["counts"]["images_with_lesion"] != 8
