"""``medrd evaluate``: its numbers against scikit-learn on what predict wrote, and its protocol."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nibabel as nib
import numpy as np
import pytest
import yaml
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

import medrd as package
from medrd.config import load_config, make_config
from medrd.data.brains import kind as brains
from medrd.data.brains.prepare import PreparedVolume
from medrd.errors import ConfigError, LeakageError, OutputError
from medrd.evaluation import summary
from medrd.evaluation.baseline import baseline_config
from medrd.evaluation.evaluate import evaluate, with_models_own
from medrd.metrics.columns import KEYS, METRICS
from medrd.prediction.predict import predict
from medrd.run.model_folder import Model, load_model

Medrd = Callable[..., Any]
TEST = ("tiny_0", "tiny_4")


def read(path: Path) -> dict[str, Any]:
    """JSON proper: NaN and Infinity are none."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in {path}")

    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    return content


@pytest.fixture(scope="module")
def evaluated(
    medrd: Medrd, tiny_run: Path, tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    done = medrd("evaluate", tiny_run, tiny_yaml, "--out", out)
    assert done.code == 0, done.stderr
    assert "| rd4ad " in done.stdout
    assert "| intensity " in done.stdout
    return out


@pytest.fixture
def cohort(tiny_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_root, tmp_path / "cohort"))


def test_numbers_are_those_of_the_maps_that_predict_writes(
    evaluated: Path, tiny_run: Path, tiny_root: Path, tmp_path: Path
) -> None:
    predict(tiny_run, [tiny_root / s for s in TEST], tmp_path, device="cpu", picture=False)
    model = package.load(tiny_run, device="cpu")
    scores, labels, masks, slice_scores, slice_labels = [], [], [], [], []
    dices, lesions, detected, false = [], 0, 0, 0
    near = np.ones((3, 3, 3))
    for subject in TEST:
        volume = package.read(tiny_root / subject / f"{subject}_flair.nii.gz")
        map_ = np.asarray(nib.load(tmp_path / f"{subject}_anomaly.nii.gz").dataobj)
        mask = np.asarray(nib.load(tmp_path / f"{subject}_mask.nii.gz").dataobj) > 0
        label = np.asarray(nib.load(tiny_root / subject / f"{subject}_seg.nii.gz").dataobj) > 0
        scored = map_.any(axis=(0, 1))
        region = ndimage.binary_fill_holes(volume.array != 0) & scored
        scores.append(map_[region])
        labels.append(label[region])
        masks.append(mask[region])
        slice_scores.append(model.predict(volume).slice_scores)
        slice_labels.append(label.any(axis=(0, 1))[scored])
        dices.append(2 * (mask & label).sum() / (mask.sum() + label.sum()))
        for found, other, is_label in ((label, mask, True), (mask, label, False)):
            parts, count = ndimage.label(found, structure=near)
            for i in range(1, count + 1):
                if (parts == i).sum() < 10:
                    continue
                lesions += is_label
                detected += is_label and bool(other[parts == i].any())
                false += not is_label and not other[parts == i].any()
    y, s, m = np.concatenate(labels), np.concatenate(scores), np.concatenate(masks)
    metrics = read(evaluated / "metrics.json")
    assert metrics["pixel_auroc"] == pytest.approx(roc_auc_score(y, s), abs=1e-6)
    assert metrics["pixel_ap"] == pytest.approx(average_precision_score(y, s), abs=1e-6)
    assert metrics["pixel_dice"] == pytest.approx(2 * (y & m).sum() / (y.sum() + m.sum()))
    thresholds = np.unique(s)
    best = max(2 * (y & (s >= t)).sum() / (y.sum() + (s >= t).sum()) for t in thresholds[::7])
    assert best - 1e-9 <= metrics["pixel_dice_best"] < best + 0.01
    image_y, image_s = np.concatenate(slice_labels), np.concatenate(slice_scores)
    assert metrics["image_auroc"] == pytest.approx(roc_auc_score(image_y, image_s), abs=1e-9)
    assert metrics["image_ap"] == pytest.approx(average_precision_score(image_y, image_s), abs=1e-9)
    assert metrics["subject_dice"] == pytest.approx(np.mean(dices))
    assert metrics["lesion_sensitivity"] == pytest.approx(detected / lesions)
    assert metrics["false_positives_per_scan"] == pytest.approx(false / 2)
    assert 0 < metrics["aupro"] <= 1
    assert metrics["counts"] == {
        "subjects": 2,
        "subjects_failed": 0,
        "images": image_y.size,
        "images_with_lesion": int(image_y.sum()),
        "voxels": y.size,
        "lesion_voxels": int(y.sum()),
        "lesion_voxels_not_scored": 0,
    }


def test_metrics_json_is_complete(evaluated: Path, tiny_run: Path) -> None:
    metrics = read(evaluated / "metrics.json")
    trained = read(tiny_run / "model" / "model.json")
    assert all(metrics[key] is not None for key in KEYS)
    assert list(metrics["baseline"]) == ["intensity"]
    assert list(metrics["baseline"]["intensity"]) == list(KEYS)
    # A bright ball in a dim brain: a baseline that cannot see it is broken.
    assert metrics["baseline"]["intensity"]["pixel_auroc"] > 0.9
    protocol = metrics["protocol"]
    assert protocol["subjects"] == list(TEST)
    assert protocol["split_hash"] == trained["training"]["split_hash"]
    assert protocol["region"] == "brain"
    assert protocol["seed"] == 0
    assert "0.3" in protocol["aupro"]
    assert protocol["calibration"]["threshold"] == trained["calibration"]["threshold"]
    baseline = protocol["baseline"]
    assert baseline["recipe"]["channels"] == ["flair"]
    assert baseline["calibrated_on_the_models_subjects"] is True
    card = (evaluated / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"{metrics['pixel_ap']:.3f}" in card
    assert "2 test inputs" in card
    for key in ("subjects", "target_fpr", "slices", "voxels"):  # the same slices, then
        assert baseline["calibration"][key] == trained["calibration"][key], key
    rows = json.loads((evaluated / "subjects.json").read_text(encoding="utf-8"))
    assert [row["subject"] for row in rows] == list(TEST)
    assert sorted(p.name for p in evaluated.iterdir()) == [
        "MODEL_CARD.md",
        "metrics.json",
        "subjects.json",
        "units",
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_split_that_puts_seen_subjects_into_the_test_is_exit_2(
    medrd: Medrd, tiny_run: Path, tiny_yaml: Path, tmp_path: Path, seed: int
) -> None:
    refused = medrd(
        "evaluate", tiny_run, tiny_yaml, "--out", tmp_path / "out", "--set", f"seed={seed}"
    )
    assert refused.code == 2
    assert "seed was 0" in refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("seen", "stored"), [("tiny_1", "copied"), ("tiny_2", "uncompressed"), ("tiny_1", "turned")]
)
def test_a_scan_that_was_seen_under_another_name_is_leakage(
    tiny_run: Path, tiny_raw: dict[str, Any], cohort: Path, tmp_path: Path, seen: str, stored: str
) -> None:
    for kind in ("flair", "seg"):
        (cohort / "tiny_0" / f"tiny_0_{kind}.nii.gz").unlink()
        image = nib.load(cohort / seen / f"{seen}_{kind}.nii.gz")
        if stored == "turned":
            image = nib.as_closest_canonical(image)  # flips two axes
        ending = ".nii" if stored == "uncompressed" else ".nii.gz"
        nib.save(image, cohort / "tiny_0" / f"tiny_0_{kind}{ending}")
    tiny_raw["data"]["root"] = str(cohort)
    with pytest.raises(LeakageError, match=rf"tiny_0: .*as {seen}"):
        evaluate(tiny_run, make_config(tiny_raw), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_another_scan_of_a_person_that_was_trained_on_is_leakage(
    tiny_run: Path, tiny_raw: dict[str, Any], tmp_path: Path
) -> None:
    seen = load_model(tiny_run).training["subjects"]
    other = min(seen)
    tiny_raw["data"] |= {
        "split": {"train": 0, "calibration": 0, "test": ["tiny_0"]},
        "subject_pattern": f"(tiny)_(?:0|{other[-1]})",
    }
    with pytest.raises(LeakageError, match=rf"tiny_0: .*as {other}, of the same person"):
        evaluate(tiny_run, make_config(tiny_raw), tmp_path / "out")


@pytest.mark.parametrize(
    "fault", ["cut scan", "no label", "no label, said to be healthy", "label on another grid"]
)
def test_a_subject_that_fails_is_listed_and_the_other_evaluated(
    medrd: Medrd, tiny_run: Path, tiny_yaml: Path, cohort: Path, tmp_path: Path, fault: str
) -> None:
    scan, label = (cohort / "tiny_0" / f"tiny_0_{s}.nii.gz" for s in ("flair", "seg"))
    if fault == "cut scan":
        scan.write_bytes(scan.read_bytes()[:-2000])
    elif fault == "label on another grid":
        nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), label)
    else:
        label.unlink()
    out = tmp_path / "out"
    settings = ["--set", f"data.root={cohort}"]
    settings += ["--set", f"data.healthy={str('healthy' in fault).lower()}"]
    done = medrd("evaluate", tiny_run, tiny_yaml, "--out", out, *settings)
    assert done.code == 3
    assert "Traceback" not in done.stderr
    (error,) = json.loads((out / "errors.json").read_text(encoding="utf-8"))
    assert "tiny_0" in error["where"]
    metrics = read(out / "metrics.json")
    assert metrics["protocol"]["subjects"] == ["tiny_4"]
    assert metrics["counts"]["subjects_failed"] == 1
    assert metrics["pixel_auroc"] is not None


def test_if_all_subjects_fail_each_is_listed(
    medrd: Medrd, tiny_run: Path, tiny_yaml: Path, cohort: Path, tmp_path: Path
) -> None:
    for subject in TEST:
        (cohort / subject / f"{subject}_flair.nii.gz").write_text("no scan")
    out = tmp_path / "out"
    done = medrd("evaluate", tiny_run, tiny_yaml, "--out", out, "--set", f"data.root={cohort}")
    assert done.code == 3
    assert len(json.loads((out / "errors.json").read_text(encoding="utf-8"))) == 2
    assert not (out / "metrics.json").exists()


def test_an_empty_class_gives_null_and_never_nan(
    tiny_run: Path, tiny_raw: dict[str, Any], cohort: Path, tmp_path: Path
) -> None:
    for subject in TEST:
        path = cohort / subject / f"{subject}_seg.nii.gz"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    tiny_raw["data"]["root"] = str(cohort)
    path = evaluate(tiny_run, make_config(tiny_raw), tmp_path / "out")
    metrics = read(path)
    for row in (metrics, metrics["baseline"]["intensity"]):
        defined = {key for key in KEYS if row[key] is not None}
        assert defined == {"false_positives_per_scan"}
    assert metrics["counts"]["lesion_voxels"] == 0


@pytest.mark.parametrize("faults", [("no scan",), ("no scan", "no scan"), ("no label",)])
def test_a_bad_calibration_subject_costs_the_baselines_threshold_alone(
    tiny_run: Path,
    tiny_raw: dict[str, Any],
    cohort: Path,
    evaluated: Path,
    tmp_path: Path,
    faults: tuple[str, ...],
) -> None:
    bad = []
    for subject, fault in zip(("tiny_2", "tiny_5"), faults, strict=False):
        scan, label = (cohort / subject / f"{subject}_{s}.nii.gz" for s in ("flair", "seg"))
        if fault == "no scan":
            scan.write_text("no scan")
            bad.append(str(scan))
        else:
            label.unlink()
            bad.append(str(scan.parent))
    tiny_raw["data"]["root"] = str(cohort)
    metrics = read(evaluate(tiny_run, make_config(tiny_raw), tmp_path / "out"))
    expected = read(evaluated / "metrics.json")
    # Not to the last bit: two processes may sum in another order.
    assert [metrics[key] for key in KEYS] == pytest.approx([expected[key] for key in KEYS])
    assert metrics["counts"] == expected["counts"]
    baseline = metrics["baseline"]["intensity"]
    assert baseline["pixel_auroc"] == expected["baseline"]["intensity"]["pixel_auroc"]
    assert baseline["pixel_dice"] is None
    assert metrics["protocol"]["baseline"] == {
        "recipe": expected["protocol"]["baseline"]["recipe"],
        "calibration": None,
        "calibrated_on_the_models_subjects": False,
    }
    errors = json.loads((tmp_path / "out" / "errors.json").read_text(encoding="utf-8"))
    assert [error["where"] for error in errors] == bad


def test_the_baseline_looks_at_flair_or_else_at_the_first_channel() -> None:
    for given, expected in ((("t1", "flair", "t2"), "flair"), (("t2",), "t2")):
        config = baseline_config(make_config({"recipe": {"channels": given, "size": 64}}))
        assert config.recipe.channels == (expected,)
        assert (config.recipe.normalise, config.recipe.size) == ("rank", 64)
        assert config.model.name == "intensity"


def test_a_small_lesion_at_original_resolution_makes_its_slice_anomalous(
    tiny_run: Path, tiny_raw: dict[str, Any], cohort: Path, tmp_path: Path
) -> None:
    """One voxel: it would vanish from a label that is resized before it is looked at."""
    expected = 0
    for subject in TEST:
        path = cohort / subject / f"{subject}_seg.nii.gz"
        image = nib.load(path)
        label = np.zeros(image.shape, np.uint8)
        label[23, 23, [9, 12]] = 1
        expected += 2
        nib.save(nib.Nifti1Image(label, image.affine), path)
    tiny_raw["data"]["root"] = str(cohort)
    path = evaluate(tiny_run, make_config(tiny_raw), tmp_path / "out", baseline=False)
    assert read(path)["counts"]["images_with_lesion"] == expected


def test_neither_scans_nor_scores_pile_up_in_memory(
    tiny_run: Path,
    tiny_raw: dict[str, Any],
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    added = [f"more_{i}" for i in range(4)]
    for i, name in enumerate(added):
        for suffix in ("flair", "seg"):
            image = nib.load(cohort / "tiny_0" / f"tiny_0_{suffix}.nii.gz")
            array = np.asarray(image.dataobj)
            if suffix == "flair":
                array = np.where(array, array + i + 1, 0)
            (cohort / name).mkdir(exist_ok=True)
            nib.save(
                nib.Nifti1Image(array, image.affine), cohort / name / f"{name}_{suffix}.nii.gz"
            )
    tiny_raw["data"] |= {
        "root": str(cohort),
        "split": {"train": 0, "calibration": 0, "test": [*TEST, *added]},
    }
    prepare_slices, make_units = brains.prepare_slices, summary.make_units
    alive: list[weakref.ref[PreparedVolume]] = []
    counts: list[int] = []

    def counting(*args: Any, **kwargs: Any) -> PreparedVolume:
        prepared = prepare_slices(*args, **kwargs)
        alive.append(weakref.ref(prepared))
        gc.collect()
        counts.append(sum(ref() is not None for ref in alive))
        return prepared

    def looking(ids: list[str], histograms: list[Any], **rest: Any) -> Any:
        assert len(histograms) == 6
        assert all(each.keys.size <= 100 for each in histograms)
        return make_units(ids, histograms, **rest)

    monkeypatch.setattr(brains, "prepare_slices", counting)
    monkeypatch.setattr(summary, "make_units", looking)
    monkeypatch.setattr(summary, "bins_each", lambda subjects: 600 // subjects)
    evaluate(tiny_run, make_config(tiny_raw), tmp_path / "out", baseline=False)
    assert len(counts) == 6
    assert max(counts) <= 3


def test_sigterm_leaves_no_numbers_and_no_scratch(
    medrd: Medrd, tiny_run: Path, tiny_yaml: Path, tmp_path: Path
) -> None:
    stop = """
import os, signal
from medrd.evaluation.summary import MetricsAccumulator
original = MetricsAccumulator.add
def patched(*args):
    os.kill(os.getpid(), signal.SIGTERM)
    return original(*args)
MetricsAccumulator.add = patched
"""
    (tmp_path / "out").mkdir()
    for name in ("metrics.json", "subjects.json", "errors.json"):  # of an earlier evaluation
        (tmp_path / "out" / name).write_text("{}")
    stopped = medrd("evaluate", tiny_run, tiny_yaml, "--out", tmp_path / "out", prelude=stop)
    assert stopped.code == 130
    assert "nothing was written" in stopped.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_the_models_own_protocol_holds_whatever_the_config_says(
    tiny_run: Path,
    tiny_yaml: Path,
    evaluated: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The baseline is calibrated with the same slices and target rate too."""
    raw = yaml.safe_load(tiny_yaml.read_text(encoding="utf-8"))
    raw["recipe"] = {"size": 128, "normalise": "rank"}
    raw["scoring"] = {"sigma_px": 0, "image_score": "mean"}
    raw["calibration"] = {"voxel_fpr": 0.3}
    raw["data"]["healthy_margin"] = 4
    path = evaluate(tiny_run, make_config(raw), tmp_path / "out", device="cpu")
    expected, found = read(evaluated / "metrics.json"), read(path)
    for key in KEYS:
        assert found[key] == pytest.approx(expected[key], abs=1e-6), key
    assert found["protocol"]["baseline"] == expected["protocol"]["baseline"]
    assert found["baseline"] == {"intensity": pytest.approx(expected["baseline"]["intensity"])}
    for section in ("recipe", "scoring"):
        assert f"the config's {section} differs from the model's" in caplog.text


def test_another_models_config_may_name_the_data() -> None:
    own = make_config({"model": {"name": "rdseg"}, "recipe": {"place": True}})
    data = {"root": "brains", "healthy_margin": 7}
    config = make_config({"model": {"name": "rd4ad"}, "data": data, "seed": 3})
    found = with_models_own(config, cast(Model, SimpleNamespace(config=own)))
    assert found.recipe == own.recipe
    assert found.model == own.model
    assert found.data == config.data
    assert found.seed == 3


def test_a_model_without_threshold_has_no_calibrated_numbers(
    tiny_run: Path, tiny_yaml: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    from medrd.run.model_folder import load_model

    model = replace(load_model(tiny_run), calibration=None)
    metrics = read(evaluate(model, load_config(tiny_yaml), tmp_path / "out", baseline=False))
    missing = {key for key in KEYS if metrics[key] is None}
    assert missing == {metric.key for metric in METRICS if "threshold" in metric.needs}


def test_an_out_that_cannot_be_a_folder_and_a_test_side_without_subjects(
    tiny_run: Path, tiny_raw: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        evaluate(tiny_run, make_config(tiny_raw), tmp_path / "file" / "out")
    tiny_raw["data"]["split"]["test"] = 0
    with pytest.raises(ConfigError, match=r"data\.split\.test"):
        evaluate(tiny_run, make_config(tiny_raw), tmp_path / "out")


def test_without_a_split_every_subject_tests_the_built_in_model(
    tiny_root: Path, tiny_raw: dict[str, Any], tmp_path: Path
) -> None:
    """It has seen none of them; a single subject would otherwise be given to the training."""
    shutil.copytree(tiny_root / "tiny_0", tmp_path / "one" / "tiny_0")
    del tiny_raw["data"]["split"]
    tiny_raw["data"]["root"] = str(tmp_path / "one")
    evaluate(None, make_config(tiny_raw), tmp_path / "out", baseline=False)
    assert [row["subject"] for row in read(tmp_path / "out" / "subjects.json")] == ["tiny_0"]
