"""``medrd predict --shard K/N``: several calls share the inputs of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from folders import contents
from medrd.cli import app
from medrd.run.model_folder import Model
from tiny import brighter_copies


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_shards_together_leave_what_one_call_leaves(
    quick: Model, scan: Path, tmp_path: Path
) -> None:
    """Whatever their order, and whatever is done already. Two inputs cannot be read."""
    brighter_copies(scan, 4)
    for name in ("a", "d"):
        (scan.parent / f"{name}.nii.gz").write_text("no scan")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run("predict", quick.folder, scan.parent, "--out", whole).exit_code == 3

    written = []
    for number in (3, 1, 2):
        done = run("predict", quick.folder, scan.parent, "--out", out, "--shard", f"{number}/3")
        written.append([Path(line).stem for line in done.stdout.splitlines()])
        assert done.exit_code == (0 if number == 2 else 3), done.output
    # Of a, copy_0, copy_1, copy_2, copy_3, d, scan: every third.
    assert written == [["copy_1"], ["copy_2", "scan"], ["copy_0", "copy_3"]]
    (out / ".medrd.lock").unlink()
    left = contents(out)
    listed = sorted(json.loads(left.pop("errors.json")), key=lambda entry: entry["input"])
    expected = contents(whole)
    assert listed == json.loads(expected.pop("errors.json"))
    assert left == expected

    again = run("predict", quick.folder, scan.parent, "--out", out, "--shard", "2/3")
    assert "0 predicted, 2 already there, 0 failed" in again.stderr


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "a/b", "1/0"])
def test_what_is_no_shard_is_refused(quick: Model, scan: Path, tmp_path: Path, shard: str) -> None:
    done = run("predict", quick.folder, scan, "--out", tmp_path / "out", "--shard", shard)
    assert f"--shard: expected K/N with K from 1 to N; found {shard}" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_report_is_for_all_shards_together(quick: Model, scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("predict", quick.folder, scan, "--out", out, "--shard", "1/2", "--report")
    assert "run medrd report when all shards are done" in str(done.exception)
