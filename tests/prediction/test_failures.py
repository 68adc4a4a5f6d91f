"""``errors.json`` of several calls of ``medrd predict`` on one ``--out``."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from medrd.prediction.predict import predict
from medrd.run.model_folder import Model


def listed(out: Path) -> list[str]:
    """Names of the inputs that ``errors.json`` lists."""
    entries = json.loads((out / "errors.json").read_text(encoding="utf-8"))
    return [Path(entry["input"]).name for entry in entries]


def test_a_failure_is_listed_until_its_input_is_predicted_or_gone(
    quick: Model, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, folder = tmp_path / "out", scan.parent
    (tmp_path / "empty").mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.nii.gz").write_text("no scan")
    monkeypatch.chdir(folder)
    given = [Path("a.nii.gz"), folder / "b.nii.gz", folder / "typo.nii.gz", tmp_path / "empty"]
    predict(quick, given, out)
    assert listed(out) == ["empty", "a.nii.gz", "b.nii.gz", "typo.nii.gz"]

    monkeypatch.chdir(tmp_path)
    report = predict(quick, [scan], out, report=True)
    assert report.errors == []
    assert listed(out) == ["empty", "a.nii.gz", "b.nii.gz"]
    page = out / "report.html"  # of the only scan; with two there is an index, which lists failures

    shutil.copy(scan, folder / "a.nii.gz")
    shutil.copy(scan, tmp_path / "empty" / "c.nii.gz")
    again = predict(quick, [Path("in/a.nii.gz"), tmp_path / "empty"], out, report=True)
    assert (len(again.done), again.errors) == (2, [])
    assert listed(out) == ["b.nii.gz"]
    assert "b.nii.gz: expected" in page.read_text(encoding="utf-8")

    (folder / "b.nii.gz").unlink()
    predict(quick, [scan], out)
    assert not (out / "errors.json").exists()


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[{"input": 1}]', '[{"error": "older"}]'])
def test_what_is_no_list_of_failures_is_passed_over(
    quick: Model, scan: Path, tmp_path: Path, content: str
) -> None:
    (tmp_path / "errors.json").write_text(content)
    predict(quick, [scan.parent / "typo.nii.gz"], tmp_path)
    assert listed(tmp_path) == ["typo.nii.gz"]


def test_a_path_that_cannot_be_read_or_named_costs_only_itself(
    quick: Model, scan: Path, tmp_path: Path
) -> None:
    folder = scan.parent
    (folder / "loop.nii.gz").symlink_to("loop.nii.gz")
    os.mkfifo(folder / "pipe.nii.gz")  # opening one would wait for ever
    shutil.copy(scan, folder / f"{'long' * 62}.nii.gz")  # 255 bytes, more with _anomaly
    report = predict(quick, [folder], tmp_path / "out")
    assert len(report.done) == 1
    found = {Path(error.where).name[:4]: error.found for error in report.errors}
    assert found == {
        "loop": "Too many levels of symbolic links",
        "pipe": "a device or a pipe",
        "long": "263",
    }
