"""Training: what it sees, what it refuses, and what a run leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from medrd.config import load_config, make_config
from medrd.errors import ConfigError, InputError, LeakageError, ModelError
from medrd.models.detector import Step
from medrd.training.train import train
from runs import WEIGHTS, assert_same_result, assert_seconds_are_those_of_all_epochs, logged

Medrd = Callable[..., Any]


def copy_cohort(root: Path, to: Path) -> Path:
    return Path(shutil.copytree(root, to))


def relabel(root: Path, subject: str, *, fill: int) -> None:
    path = root / subject / f"{subject}_seg.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(image.shape, fill, np.uint8), image.affine), path)


def test_test_labels_change_neither_weights_nor_thresholds(
    medrd: Medrd, tiny_yaml: Path, tiny_root: Path, tiny_run: Path, tmp_path: Path
) -> None:
    root = copy_cohort(tiny_root, tmp_path / "cohort")
    for subject in ("tiny_0", "tiny_4"):
        relabel(root, subject, fill=1)
        (root / subject / f"{subject}_flair.nii.gz").write_text("not even a scan")
    seen = json.loads((tiny_run / "model" / "model.json").read_text(encoding="utf-8"))["training"]
    assert not {"tiny_0", "tiny_4"} & {*seen["subjects"], *seen["calibration_subjects"]}
    out = tmp_path / "run"
    done = medrd("train", tiny_yaml, "--out", out, "--set", f"data.root={root}")
    assert done.code == 0, done.stderr
    assert_same_result(out, tiny_run)


def test_slices_near_a_lesion_are_not_trained_on(
    tiny_root: Path, tmp_path: Path, tiny_raw: dict[str, Any]
) -> None:
    """A training subject that is all lesion leaves the others' slices only."""
    root = copy_cohort(tiny_root, tmp_path / "cohort")
    for subject in ("tiny_1", "tiny_3"):
        relabel(root, subject, fill=1)
    tiny_raw["data"]["root"] = str(root)
    with pytest.raises(ConfigError, match="healthy slices"):
        train(make_config(tiny_raw), tmp_path / "run")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_one_scan_under_two_names_on_two_sides_is_leakage(
    tiny_root: Path, tmp_path: Path, tiny_raw: dict[str, Any], ending: str
) -> None:
    root = copy_cohort(tiny_root, tmp_path / "cohort")
    (root / "tiny_2" / "tiny_2_flair.nii.gz").unlink()
    scan = nib.load(root / "tiny_1" / "tiny_1_flair.nii.gz")
    nib.save(scan, root / "tiny_2" / f"tiny_2_flair{ending}")
    tiny_raw["data"] |= {
        "root": str(root),
        "split": {"train": ["tiny_1"], "calibration": ["tiny_2"], "test": 1},
    }
    with pytest.raises(LeakageError, match="tiny_1"):
        train(make_config(tiny_raw), tmp_path / "run")


def test_a_missing_label_is_an_error_unless_all_are_declared_healthy(
    tiny_root: Path, tiny_run: Path, tmp_path: Path, tiny_raw: dict[str, Any]
) -> None:
    root = copy_cohort(tiny_root, tmp_path / "cohort")
    (root / "tiny_3" / "tiny_3_seg.nii.gz").unlink()
    tiny_raw["data"]["root"] = str(root)
    tiny_raw["model"] = {"name": "intensity"}
    with pytest.raises(ConfigError, match="tiny_3"):
        train(make_config(tiny_raw), tmp_path / "run")
    tiny_raw["data"]["healthy"] = True
    run = train(make_config(tiny_raw), tmp_path / "healthy")
    slices = [
        json.loads((r / "run.json").read_text(encoding="utf-8"))["slices"] for r in (run, tiny_run)
    ]
    assert slices[0] > slices[1]  # all of tiny_3's, not those away from its lesion alone


def test_all_subjects_that_fail_are_listed_and_mended_in_one_go(
    tiny_root: Path, tmp_path: Path, tiny_raw: dict[str, Any]
) -> None:
    root, out = copy_cohort(tiny_root, tmp_path / "cohort"), tmp_path / "run"
    scans = [root / s / f"{s}_flair.nii.gz" for s in ("tiny_1", "tiny_2")]  # one of each side
    for scan in scans:
        scan.write_text("no scan")
    tiny_raw["data"]["root"] = str(root)
    tiny_raw["model"] = {"name": "intensity"}
    config = make_config(tiny_raw)
    with pytest.raises(InputError, match=r"errors\.json.*2 that cannot"):
        train(config, out)
    listed = json.loads((out / "errors.json").read_text(encoding="utf-8"))
    assert [error["where"] for error in listed] == [str(scan) for scan in scans]

    shutil.copy(tiny_root / "tiny_1" / "tiny_1_flair.nii.gz", scans[0])
    with pytest.raises(InputError, match=r"tiny_2_flair"):  # one alone speaks for itself
        train(config, out, resume=True)
    shutil.copy(tiny_root / "tiny_2" / "tiny_2_flair.nii.gz", scans[1])
    train(config, out, resume=True)
    assert (out / "run.json").is_file()
    assert not (out / "errors.json").exists()


def test_a_loss_that_is_not_finite_stops_with_a_typed_error(
    tmp_path: Path, tiny_raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medrd.models.rd4ad import RD4AD

    steps = RD4AD.steps

    def diverging(self: RD4AD) -> list[Step]:
        (step,) = steps(self)

        def loss(batch: Any) -> Tensor:
            return step.loss(batch) * float("nan")

        return [Step(step.name, step.groups, step.optimizer, loss)]

    monkeypatch.setattr(RD4AD, "steps", diverging)
    with pytest.raises(ModelError, match=r"epoch 1, batch 1.*learning rate"):
        train(make_config(tiny_raw), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("recipe.size", 80, "recipe.size=96|recipe.size=64"),
        ("model.teacher", {"name": "no_such_net", "weights": "random"}, "no_such_net"),
        ("train.device", "cuda:99", "train.device"),
        ("train.device", "meta", "found meta"),
        ("data.root", None, "data.root"),
    ],
)
def test_a_config_that_cannot_be_run_is_a_config_error(
    tmp_path: Path, tiny_raw: dict[str, Any], key: str, value: Any, said: str
) -> None:
    section, _, name = key.partition(".")
    tiny_raw.setdefault(section, {})[name] = value
    with pytest.raises(ConfigError, match=said):
        train(make_config(tiny_raw), tmp_path / "run")


# --- What a run leaves ---


def test_a_run_folder_is_complete(tiny_run: Path, tiny_yaml: Path) -> None:
    assert load_config(tiny_run / "config.yaml") == load_config(tiny_yaml)
    resolved = yaml.safe_load((tiny_run / "config.yaml").read_text(encoding="utf-8"))
    assert resolved["model"]["lr"] == 0.005  # defaults are written out
    content = json.loads((tiny_run / "run.json").read_text(encoding="utf-8"))
    assert content["seed"] == 0
    assert content["device"] == "cpu"
    assert content["precision"] == "fp32"
    assert content["epochs"] == 2
    assert_seconds_are_those_of_all_epochs(tiny_run)
    assert content["session_seconds"] > content["training_seconds"]
    assert content["peak_memory_mib"] > 100
    assert torch.__version__.startswith(content["versions"]["torch"].split("+")[0])
    assert content["parameters"]["all"] > content["parameters"]["trained"] > 0
    weights = load_file(tiny_run / WEIGHTS)
    trained = sum(
        v.numel()
        for k, v in weights.items()
        if not k.startswith("teacher.") and v.is_floating_point()
    )
    assert trained > content["parameters"]["trained"]  # and BatchNorm statistics
    for line in (tiny_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        report = json.loads(line)
        assert report["losses"] == {"distil": report["loss"]}
        assert 0 <= report["wait_share"] < 1
        assert report["slices_per_s"] > 0


def test_two_epochs_on_the_tiny_cohort_lower_the_loss(tiny_run: Path) -> None:
    first, second = logged(tiny_run, "loss")
    assert second < first


def test_another_seed_gives_another_split(
    tmp_path: Path, tiny_run: Path, tiny_raw: dict[str, Any]
) -> None:
    tiny_raw["seed"] = 5
    tiny_raw["model"] = {"name": "intensity"}
    run = train(make_config(tiny_raw), tmp_path / "run")
    seen = [
        json.loads((r / "model" / "model.json").read_text(encoding="utf-8"))["training"]
        for r in (run, tiny_run)
    ]
    assert seen[0]["split_hash"] != seen[1]["split_hash"]
    assert [one["seed"] for one in seen] == [5, 0]


def test_without_calibration_subjects_there_is_a_model_without_threshold(
    tmp_path: Path, tiny_raw: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    tiny_raw["model"] = {"name": "intensity"}
    tiny_raw["data"]["split"]["calibration"] = 0
    run = train(make_config(tiny_raw), tmp_path / "run")
    assert "no threshold" in caplog.text
    assert (
        json.loads((run / "model" / "model.json").read_text(encoding="utf-8"))["calibration"]
        is None
    )


def test_a_number_of_epochs_that_has_no_effect_is_said_to_have_none(
    tmp_path: Path, tiny_raw: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    said = "train.epochs is not used: intensity has no optimisation steps"
    tiny_raw["model"] = {"name": "intensity"}
    tiny_raw["train"] = {"epochs": 7}
    with caplog.at_level("INFO", logger="medrd"):
        train(make_config(tiny_raw), tmp_path / "given")
        assert said in caplog.text
        caplog.clear()
        del tiny_raw["train"]
        train(make_config(tiny_raw), tmp_path / "default")
    assert said not in caplog.text
