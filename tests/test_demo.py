"""``medrd demo``, with and without ``--train``, on the tiny cohort instead of phantoms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medrd import demo
from medrd.config import Config, load_config
from medrd.demo import demo_config, run_demo, train_demo
from medrd.run.model_folder import load_model

SMALLEST = 4
"""The values that ``--subjects`` allows."""


@pytest.mark.parametrize("subjects", [SMALLEST, 5, 8, 40])
def test_every_side_has_subjects_and_all_are_used(subjects: int) -> None:
    split = demo_config(Path("out"), subjects=subjects, epochs=1).data.split
    sides = [split.train, split.calibration, split.test]
    assert all(isinstance(side, int) and side >= 1 for side in sides)
    assert sum(side for side in sides if isinstance(side, int)) == subjects


def test_its_settings_are_those_of_the_config_for_real_scans() -> None:
    path = Path(__file__).resolve().parents[1] / "configs" / "brats" / "rdseg.yaml"
    ours, theirs = demo_config(Path("out"), subjects=8, epochs=12), load_config(path)
    assert ours.to_dict() | {"data": None} == theirs.to_dict() | {"data": None}


def test_a_patient_is_predicted_with_the_built_in_model(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_one(out: Path, subjects: int, *, seed: int) -> list[Path]:
        return [Path(shutil.copytree(tiny_root / "tiny_0", out / "tiny_0", dirs_exist_ok=True))]

    monkeypatch.setattr(demo, "make_phantoms", copy_one)
    said = run_demo(tmp_path)
    endings = ("_anomaly.nii.gz", "_mask.nii.gz", ".png", ".json")
    results = [tmp_path / "maps" / f"tiny_0{ending}" for ending in endings]
    for path in (*results, tmp_path / "maps" / "report.html"):
        assert str(path) in said
        assert path.exists()
    label, marked = (
        np.asarray(nib.load(path).dataobj) > 0
        for path in (tiny_root / "tiny_0" / "tiny_0_seg.nii.gz", results[1])
    )
    dice = 2 * (label & marked).sum() / (label.sum() + marked.sum())
    assert f"a tumour of {label.sum() * 4**3 / 1000:.1f} ml" in said
    assert f"Dice with the tumour {dice:.2f}" in said
    record = json.loads(results[-1].read_text(encoding="utf-8"))
    rows = [line for line in said.splitlines() if line.startswith("|")][2:]
    assert len(rows) == min(5, len(record["findings"]))
    assert f"Findings: {len(record['findings'])}" in said
    assert record["model"]["hash"] == load_model(None).hash
    assert run_demo(tmp_path) == said


def test_the_smallest_training_ends_with_maps_and_numbers_and_can_be_run_again(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_cohort(out: Path, subjects: int) -> None:
        for i in range(subjects):
            if not (out / f"tiny_{i}").exists():
                shutil.copytree(tiny_root / f"tiny_{i}", out / f"tiny_{i}")

    def small_config(out: Path, *, subjects: int, epochs: int) -> Config:
        config = demo_config(out, subjects=subjects, epochs=epochs)
        recipe = config.recipe.model_copy(update={"size": 64})
        return config.model_copy(update={"recipe": recipe})

    monkeypatch.setattr(demo, "make_phantoms", copy_cohort)
    monkeypatch.setattr(demo, "demo_config", small_config)
    out = tmp_path / "demo"

    said = train_demo(out, subjects=SMALLEST, epochs=1)

    assert "1 simulated brains" in said
    assert "| rdseg " in said
    assert "| intensity " in said
    (map_path,) = (out / "maps").glob("*_anomaly.nii.gz")
    for path in (map_path, out / "maps" / "report.html", out / "run" / "model"):
        assert str(path) in said
        assert path.exists()
    assert not list(out.rglob("errors.json"))

    kept = [out / "run", out / "maps"]
    before = {p: p.stat().st_mtime_ns for folder in kept for p in folder.rglob("*")}
    assert train_demo(out, subjects=SMALLEST, epochs=1) == said
    assert {p: p.stat().st_mtime_ns for folder in kept for p in folder.rglob("*")} == before
