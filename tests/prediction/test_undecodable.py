"""File names that are no text: a run is trained on them, and predicts, evaluates and shows them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medrd.config import load_config, make_config
from medrd.evaluation.evaluate import evaluate
from medrd.prediction.predict import predict
from medrd.run.model_folder import Model
from medrd.run.record import PredictionRecord
from medrd.training.train import train
from tiny import write_tiny_subject

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names are any bytes on Linux only")

MUELLER = os.fsdecode(b"M\xfcller")


def test_such_a_scan_is_done_with_its_report_and_so_are_the_others(
    quick: Model, scan: Path, tmp_path: Path
) -> None:
    shutil.copy(scan, scan.with_name(f"{MUELLER}.nii.gz"))
    out = tmp_path / "out"
    result = predict(quick, [scan.parent], out, report=True)
    assert result.errors == []
    assert len(result.done) == 2
    record = PredictionRecord.read(out / f"{MUELLER}.json")
    assert record is not None
    assert record.inputs == {"flair": str(scan.with_name(f"{MUELLER}.nii.gz"))}
    json.loads((out / f"{MUELLER}.json").read_bytes().decode("utf-8"))
    assert (out / "report" / f"{MUELLER}.html").is_file()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'href="report/M%FCller.html"' in page
    assert "M\N{REPLACEMENT CHARACTER}ller" in page
    # A second call knows what is done.
    assert len(predict(quick, [scan.parent], out).skipped) == 2


def test_such_a_scan_that_fails_is_listed(quick: Model, scan: Path, tmp_path: Path) -> None:
    broken = scan.with_name(f"{MUELLER}.nii.gz")
    broken.write_bytes(b"")
    result = predict(quick, [scan.parent], tmp_path / "out", picture=False)
    assert len(result.done) == 1
    (entry,) = json.loads((tmp_path / "out" / "errors.json").read_text(encoding="utf-8"))
    assert entry["input"] == str(broken)


def test_a_cohort_is_trained_and_evaluated_on_in_such_folders(tmp_path: Path) -> None:
    root = tmp_path / MUELLER
    for i in range(4):
        write_tiny_subject(root / f"{MUELLER}{i}", f"{MUELLER}{i}", seed=i)
    raw: dict[str, Any] = {
        "data": {
            "root": str(root),
            "cache": str(tmp_path / "cache"),
            "healthy_margin": 1,
            "split": {"train": 2, "calibration": 1, "test": 1},
        },
        "recipe": {"size": 32, "min_brain_mm2": 2000},
        "model": {"name": "intensity"},
    }
    run = train(make_config(raw), tmp_path / f"run {MUELLER}")
    config = load_config(run / "config.yaml")
    assert config.data.root == root
    metrics = json.loads(evaluate(run, config, tmp_path / "out", report=True).read_text("utf-8"))
    assert metrics["complete"]
    assert metrics["protocol"]["subjects"][0].startswith(MUELLER)


def test_pictures_too(texture_root: Path, picture_raw: dict[str, Any], tmp_path: Path) -> None:
    picture_raw["model"] = {"name": "intensity"}
    run = train(make_config(picture_raw), tmp_path / "run")
    source = next((texture_root / "weave" / "test" / "good").glob("*.png"))
    (tmp_path / "in").mkdir()
    Image.open(source).save(tmp_path / "in" / "z.png")
    os.link(tmp_path / "in" / "z.png", tmp_path / "in" / f"{MUELLER}.png")
    result = predict(run, [tmp_path / "in"], tmp_path / "out", report=True)
    assert result.errors == []
    assert {path.name for path in result.done} == {"z.json", f"{MUELLER}.json"}
