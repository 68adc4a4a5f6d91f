"""A search's folder: one search for good, and no test subject in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medrd.config import Config, load_config, make_config
from medrd.errors import ConfigError, InputError, LeakageError
from medrd.evaluation.evaluate import evaluate
from medrd.run.model_folder import load_model
from medrd.tuning.config import load_tune
from medrd.tuning.folder import prepare_search
from medrd.tuning.results import write_results
from medrd.tuning.trials import Trial
from searches import POINT, TRIAL, begin, make_search_raw, run_point
from tiny import write_tiny_subject

LABELLED = {"kind": "labelled", "validation": ["tiny_1"]}


def test_test_subjects_cannot_be_asked_for(search_raw: dict[str, Any], tmp_path: Path) -> None:
    search_raw["objective"] = {"kind": "labelled", "validation": ["tiny_1", "tiny_4"]}
    with pytest.raises(LeakageError, match="test subject tiny_4"):
        begin(search_raw, tmp_path / "out")
    search_raw["objective"]["validation"] = ["tiny_9"]
    with pytest.raises(ConfigError, match="tiny_9, which is not there"):
        begin(search_raw, tmp_path / "out")


def test_other_scans_of_validation_subjects_are_neither_trained_nor_tested_on(
    search_raw: dict[str, Any], tmp_path: Path
) -> None:
    search_raw["objective"] = {"kind": "labelled", "validation": ["tiny_1"]}
    data = search_raw["config"]["data"]
    data["subject_pattern"] = "(tiny)_[13]"
    data["split"] = {"train": ["tiny_1", "tiny_3", "tiny_5"], "calibration": 1, "test": 2}
    _, cohort = begin(search_raw, tmp_path / "out")
    assert cohort.split.train == ("tiny_5",)
    data["subject_pattern"] = "(tiny)_[14]"
    data["split"] = {"train": ["tiny_3"], "calibration": ["tiny_5"], "test": ["tiny_4"]}
    with pytest.raises(LeakageError, match="tiny_4, or another scan of that person"):
        begin(search_raw, tmp_path / "out2")


def test_validation_subjects_are_trained_on_no_longer_and_never_tested_on(
    search_raw: dict[str, Any], tmp_path: Path
) -> None:
    begin(search_raw, tmp_path / "a")
    before = json.loads((tmp_path / "a" / "split.json").read_text(encoding="utf-8"))
    search_raw["objective"] = LABELLED
    config, cohort = begin(search_raw, tmp_path / "b")
    split = json.loads((tmp_path / "b" / "split.json").read_text(encoding="utf-8"))
    assert cohort.split.hash == split["hash"] != before["hash"]
    assert "tiny_1" in before["train"]
    assert split["train"] == [id for id in before["train"] if id != "tiny_1"]
    assert split["test"] == before["test"]
    reports = run_point(search_raw, tmp_path / "b")
    run = tmp_path / "b" / TRIAL / "run"
    seen = json.loads((run / "model" / "model.json").read_text(encoding="utf-8"))["training"]
    assert "tiny_1" not in {**seen["subjects"], **seen["calibration_subjects"]}
    assert load_config(run / "config.yaml").data.split.train == tuple(split["train"])  # type: ignore[union-attr]
    # What has chosen the model has seen its labels, whatever the scan is called.
    trial = Trial(TRIAL.name, POINT, "finished", 2, reports[-1].objective)
    write_results(config, [trial], tmp_path / "b")
    best = load_model(tmp_path / "b" / "best")
    assert list(best.training["validation_subjects"]) == ["tiny_1"]
    assert seen.items() < best.training.items()
    card = (tmp_path / "b" / "best" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "chosen on: the labels of 1 further inputs" in card
    for name in ("tiny_1", "renamed"):
        write_tiny_subject(tmp_path / "cohort" / name, name, seed=1)
        with pytest.raises(LeakageError, match=rf"{name}: .*chosen on \(as tiny_1\)"):
            evaluate(
                best, only_test(best.config, tmp_path / "cohort", name), tmp_path, baseline=False
            )


def only_test(config: Config, root: Path, name: str) -> Config:
    split = {"train": [], "calibration": [], "test": [name]}
    data = config.to_dict()["data"] | {"root": str(root), "split": split}
    return make_config(config.to_dict() | {"data": data})


# --- What no trial could succeed with ---

SIDES = {"train": ["tiny_1", "tiny_3"], "calibration": ["tiny_2"], "test": ["tiny_0", "tiny_4"]}


@pytest.fixture
def labelled_raw(search_raw: dict[str, Any], tiny_root: Path, tmp_path: Path) -> dict[str, Any]:
    """Judged by ``tiny_9``, which a test puts into a cohort of its own."""
    root = shutil.copytree(tiny_root, tmp_path / "cohort")
    search_raw["config"]["data"] |= {"root": str(root), "split": SIDES}
    return search_raw | {"objective": {"kind": "labelled", "validation": ["tiny_9"]}}


@pytest.mark.parametrize(
    ("seed", "other"),
    [(1, "training subject tiny_1"), (2, "calibration subject tiny_2"), (4, "test subject tiny_4")],
)
def test_a_validation_scan_is_on_no_other_side_under_another_name(
    labelled_raw: dict[str, Any], tmp_path: Path, seed: int, other: str
) -> None:
    write_tiny_subject(tmp_path / "cohort" / "tiny_9", "tiny_9", seed=seed)
    search = begin(labelled_raw, tmp_path / "out")
    with pytest.raises(LeakageError, match=f"tiny_9: .*the same scan as {other}"):
        prepare_search(*search, tmp_path / "out")


def test_a_validation_scan_of_its_own_is_taken_and_a_damaged_test_scan_left_alone(
    labelled_raw: dict[str, Any], tmp_path: Path
) -> None:
    write_tiny_subject(tmp_path / "cohort" / "tiny_9", "tiny_9", seed=9)
    damage(tmp_path / "cohort" / "tiny_4" / "tiny_4_flair.nii.gz")
    prepare_search(*begin(labelled_raw, tmp_path / "out"), tmp_path / "out")


def damage(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def heal(label: Path) -> None:
    image = nib.load(label)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), label)


@pytest.mark.parametrize(
    ("spoil", "file", "expected", "message"),
    [
        (damage, "flair", InputError, "tiny_9_flair"),
        (damage, "seg", InputError, "tiny_9_seg"),
        (heal, "seg", ConfigError, "outlined anomalies"),
    ],
)
def test_validation_subjects_that_cannot_judge_are_found_before_any_trial(
    labelled_raw: dict[str, Any],
    tmp_path: Path,
    spoil: Callable[[Path], None],
    file: str,
    expected: type[Exception],
    message: str,
) -> None:
    write_tiny_subject(tmp_path / "cohort" / "tiny_9", "tiny_9", seed=9)
    spoil(tmp_path / "cohort" / "tiny_9" / f"tiny_9_{file}.nii.gz")
    search = begin(labelled_raw, tmp_path / "out")
    with pytest.raises(expected, match=message):
        prepare_search(*search, tmp_path / "out")


def test_validation_subjects_have_labels(labelled_raw: dict[str, Any], tmp_path: Path) -> None:
    write_tiny_subject(tmp_path / "cohort" / "tiny_9", "tiny_9", seed=9)
    (tmp_path / "cohort" / "tiny_9" / "tiny_9_seg.nii.gz").unlink()
    with pytest.raises(ConfigError, match="tiny_9, which has no label"):
        begin(labelled_raw, tmp_path / "out")


def test_anomalies_that_nobody_sees_are_found_before_any_trial_and_can_be_mended(
    search_raw: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    unseen = search_raw | {"objective": {"simulation": {"probability": 0}}}
    with pytest.raises(ConfigError, match="visible anomalies"):
        prepare_search(*begin(unseen, out), out)
    prepare_search(*begin(search_raw, out), out)


# --- One search for good ---


@pytest.mark.parametrize("key", ["seed", "data.split.train"])
def test_a_key_that_changes_the_test_subjects_cannot_be_searched(
    search_raw: dict[str, Any], tmp_path: Path, key: str
) -> None:
    search_raw["space"][key] = {"kind": "choice", "values": [1, 2]}
    with pytest.raises(LeakageError, match=f"space.{key}.*same test subjects"):
        begin(search_raw, tmp_path / "out")


def test_seeds_can_be_searched_where_the_split_is_listed(
    search_raw: dict[str, Any], tmp_path: Path
) -> None:
    search_raw["config"]["data"]["split"] = {
        "train": ["tiny_1", "tiny_3"],
        "calibration": ["tiny_2"],
        "test": ["tiny_0"],
    }
    search_raw["space"]["seed"] = {"kind": "integer", "low": 0, "high": 3}
    begin(search_raw, tmp_path / "out")


def test_nothing_held_out_is_nothing_to_judge_by(
    search_raw: dict[str, Any], tmp_path: Path
) -> None:
    search_raw["config"]["data"]["split"]["calibration"] = 0
    with pytest.raises(ConfigError, match="held-out subjects"):
        begin(search_raw, tmp_path / "out")


def test_smoothing_across_slices_is_said_to_be_left_out(
    search_raw: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin(search_raw, tmp_path / "without")
    assert "slice by slice" not in caplog.text
    search_raw["config"]["scoring"] = {"sigma_across_mm": 4}
    begin(search_raw, tmp_path / "with")
    assert "slice by slice, without scoring.sigma_across_mm" in caplog.text
    caplog.clear()
    begin(search_raw | {"objective": LABELLED}, tmp_path / "labelled")
    assert "slice by slice" not in caplog.text


def test_pictures_have_no_labelled_validation(picture_raw: dict[str, Any], tmp_path: Path) -> None:
    raw = make_search_raw(picture_raw)
    raw["objective"] = {"kind": "labelled", "validation": ["weave/train/good/000"]}
    with pytest.raises(ConfigError, match="simulated for pictures"):
        begin(raw, tmp_path / "out")


def test_a_folder_is_one_search_for_good(
    finished_search: Path, search_raw: dict[str, Any], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished_search, tmp_path / "out"))
    with pytest.raises(ConfigError, match="--resume"):
        begin(search_raw, out)
    more = search_raw | {"search": {"samples": 99, "time_budget_s": 5}, "resources": {"cpus": 2}}
    begin(more, out, resume=True)  # how much, and on what, may change
    for change, key in (
        (
            {"space": search_raw["space"] | {"model.lr": search_raw["space"]["model.median"]}},
            r"space\.model\.lr",
        ),
        ({"objective": {"seed": 1}}, r"objective\.copies"),
        ({"config": search_raw["config"] | {"train": {"epochs": 9}}}, r"config\.train\.batch_size"),
        ({"search": {"algorithm": "grid"}}, r"search\.algorithm"),
    ):
        with pytest.raises(ConfigError, match=key):
            begin(search_raw | change, out, resume=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    with pytest.raises(ConfigError, match="found files"):
        begin(search_raw, tmp_path / "thesis", resume=True)


def test_a_search_of_an_earlier_version_is_refused_with_a_way_out(
    finished_search: Path, search_raw: dict[str, Any], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished_search, tmp_path / "out"))
    (out / TRIAL / "trial.json").write_text("{}")
    for resume in (True, False):
        with pytest.raises(ConfigError, match=r"earlier version.*start a new search with another"):
            begin(search_raw, out, resume=resume)


def test_subjects_that_have_changed_sides_end_a_search(
    finished_search: Path, search_raw: dict[str, Any], tiny_root: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished_search, tmp_path / "out"))
    root = Path(shutil.copytree(tiny_root, tmp_path / "cohort"))
    shutil.rmtree(root / "tiny_1")
    search_raw["config"]["data"] = search_raw["config"]["data"] | {
        "root": str(root),
        "split": search_raw["config"]["data"]["split"] | {"train": 1},
    }
    with pytest.raises(ConfigError, match=r"config\.data\.split"):
        begin(search_raw, out, resume=True)
    search_raw["config"]["data"]["split"]["train"] = 2
    search_raw["config"]["data"]["split"]["test"] = 2
    with pytest.raises(ConfigError):
        begin(search_raw, out, resume=True)


def test_paths_of_the_command_line_become_absolute(
    search_raw: dict[str, Any], tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_root.parent)
    search_raw["config"]["data"] = search_raw["config"]["data"] | {"root": tiny_root.name}
    begin(search_raw, tmp_path / "out")
    _, trial = load_tune(tmp_path / "out" / "search.yaml").corners()[0]
    assert trial.data.root == tiny_root
