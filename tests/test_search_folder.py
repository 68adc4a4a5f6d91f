"""A search's folder: one search for good, and no test subject in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from medrd.config import load_config
from medrd.config.tune import load_tune
from medrd.errors import ConfigError, LeakageError
from medrd.workflows.trial import (
    run_trial,
    trial_folder,
)
from searches import POINT, begin, make_search_raw

LABELLED = {"kind": "labelled", "validation": ["tiny_1"]}


def test_test_subjects_cannot_be_asked_for(search_raw: dict[str, Any], tmp_path: Path) -> None:
    search_raw["objective"] = {"kind": "labelled", "validation": ["tiny_1", "tiny_4"]}
    with pytest.raises(LeakageError, match="test subject tiny_4"):
        begin(search_raw, tmp_path / "out")
    search_raw["objective"]["validation"] = ["tiny_9"]
    with pytest.raises(ConfigError, match="tiny_9, which is not there"):
        begin(search_raw, tmp_path / "out")


def test_validation_subjects_are_trained_on_no_longer(
    search_raw: dict[str, Any], tmp_path: Path
) -> None:
    before = json.loads(
        (begin(search_raw, tmp_path / "a"), tmp_path / "a" / "split.json")[1].read_text(
            encoding="utf-8"
        )
    )
    search_raw["objective"] = LABELLED
    begin(search_raw, tmp_path / "b")
    split = json.loads((tmp_path / "b" / "split.json").read_text(encoding="utf-8"))
    assert "tiny_1" in before["train"]
    assert split["train"] == [id for id in before["train"] if id != "tiny_1"]
    assert split["test"] == before["test"]
    run_trial(tmp_path / "b", POINT, lambda report: None)
    run = trial_folder(tmp_path / "b", POINT) / "run"
    seen = json.loads((run / "model" / "model.json").read_text(encoding="utf-8"))["training"]
    assert "tiny_1" not in {**seen["subjects"], **seen["calibration_subjects"]}
    assert load_config(run / "config.yaml").data.split.train == tuple(split["train"])  # type: ignore[union-attr]


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
