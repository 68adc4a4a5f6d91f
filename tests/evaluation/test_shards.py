"""``medrd evaluate --shard K/N``: several calls share the test subjects of one evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from folders import contents
from medrd.cli import app
from medrd.config import make_config
from medrd.training.train import train
from tiny import make_tiny_raw, write_tiny_subject

TEST = ["tiny_04", "tiny_05", "tiny_06", "tiny_99"]


@pytest.fixture(scope="module")
def raw(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The intensity model, with three test subjects and one that cannot be read."""
    root = tmp_path_factory.mktemp("cohort")
    for i in range(7):
        write_tiny_subject(root / f"tiny_{i:02}", f"tiny_{i:02}", seed=i)
    (root / "tiny_99").mkdir()
    (root / "tiny_99" / "tiny_99_flair.nii.gz").write_text("not a scan")
    raw = make_tiny_raw(root, tiny_cache) | {
        "recipe": {"size": 32, "min_brain_mm2": 2000},
        "model": {"name": "dae", "base": 4, "depth": 1},
    }
    raw["train"]["epochs"] = 1
    raw["data"]["split"] = {
        "train": ["tiny_00", "tiny_01"],
        "calibration": ["tiny_02", "tiny_03"],
        "test": TEST,
    }
    return raw


@pytest.fixture(scope="module")
def model(raw: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(make_config(raw), tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def path(raw: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def results(out: Path) -> dict[str, Any]:
    """An evaluation's files, but for its shards and for what depends on the clock."""
    found: dict[str, Any] = {
        name: content
        for name, content in contents(out).items()
        if not name.endswith(".md") and not name.startswith("shards")
    }
    found["metrics.json"] = json.loads(found["metrics.json"])
    assert found["metrics.json"].pop("images_per_s") > 0
    return found


def test_the_last_shard_writes_what_one_call_writes(
    model: Path, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run("evaluate", model, path, "--out", whole).exit_code == 3

    evaluate = ("evaluate", model, path, "--out", out, "--shard")
    done = run(*evaluate, "3/3")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "shard 3/3 is done; still missing: 1, 2" in caplog.text
    assert run(*evaluate, "1/3").exit_code == 0
    assert not (out / "metrics.json").exists()

    # A killed shard goes on with what it has not scored: of shard 1, one of its files.
    stored = sorted((out / "shards").glob("*.npz"))
    assert len(stored) == 2 * 3  # tiny_04, tiny_06 and tiny_99, under the model and the baseline
    stored[0].unlink()
    before = {file: file.stat().st_mtime_ns for file in stored[1:]}
    assert run(*evaluate, "2/3").exit_code == 0  # one subject of shard 1 is missing
    assert not (out / "metrics.json").exists()
    last = run(*evaluate, "1/3")
    assert last.exit_code == 3, last.output
    assert "pixel" in last.stdout
    after = {file: file.stat().st_mtime_ns for file in stored[1:]}
    failed = {file for file in before if after[file] != before[file]}
    assert len(failed) == 2  # tiny_99 was tried again, and nothing else
    assert results(out) == results(whole)


def test_shards_of_something_else_are_refused(
    model: Path, path: Path, raw: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run("evaluate", model, path, "--out", out, "--shard", "1/2").exit_code == 0
    for extra in (
        ["--shard", "1/3"],
        ["--shard", "2/2", "--no-baseline"],
        ["--shard", "2/2", "--set", "data.split.test=[tiny_04, tiny_05]"],
    ):
        done = run("evaluate", model, path, "--out", out, *extra)
        assert "expected shards of this evaluation" in str(done.exception), done.output
    other = train(make_config(raw | {"seed": 1}), tmp_path / "other")
    done = run("evaluate", other, path, "--out", out, "--shard", "2/2")
    assert "with model" in str(done.exception)
