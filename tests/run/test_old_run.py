"""Models that an earlier version trained: they load, and predict what they predicted.

``old_run/`` holds a small STFPM and a small RDSeg with random teachers, trained on simulated
ellipsoids by the code of November 2026, and what its ``medrd predict`` wrote for one of them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

import medrd
from medrd.prediction.predict import predict
from medrd.run.engine import Engine
from medrd.run.model_folder import load_model
from tiny import write_tiny_subject

OLD = Path(__file__).parent / "old_run"


@pytest.fixture
def subject(tmp_path: Path) -> Path:
    """The ellipsoid that the old version predicted."""
    folder = tmp_path / "cohort" / "tiny_0"
    write_tiny_subject(folder, "tiny_0", seed=0)
    return folder


def test_its_map_and_mask_are_what_they_were(subject: Path, tmp_path: Path) -> None:
    (record,) = predict(OLD / "run", [subject], tmp_path / "maps").done
    old_map, new_map = (
        nib.load(folder / "tiny_0_anomaly.nii.gz") for folder in (OLD / "maps", tmp_path / "maps")
    )
    old, new = (np.asarray(image.dataobj) for image in (old_map, new_map))
    # Another processor, or PyTorch, rounds otherwise.
    assert np.abs(new - old).max() < 1e-4 * old.max()
    assert np.array_equal(new_map.affine, old_map.affine)
    old_record = json.loads((OLD / "maps" / "tiny_0.json").read_text(encoding="utf-8"))
    new_record = json.loads(record.read_text(encoding="utf-8"))
    # A later version may add keys, but takes none away.
    assert old_record.keys() <= new_record.keys()
    for key in ("threshold", "healthy_scans", "p_value", "slices", "slices_scored", "model"):
        assert new_record[key] == old_record[key], key
    assert new_record["scan_score"] == pytest.approx(old_record["scan_score"], rel=1e-4)


@pytest.mark.parametrize(("engine", "tolerance"), [("torch", 3e-7), ("fused", 1e-6)])
def test_an_rdseg_with_neighbours_and_places_gives_the_map_that_it_gave(
    subject: Path, tmp_path: Path, engine: Engine, tolerance: float
) -> None:
    """Only the last bits move, by two things that the earlier version did otherwise.

    It blurred the mirror image by pooling over 7x7 pixels, in place of adding along one axis and
    then the other: that moves scores by up to 2.2e-7 of the highest. Folding BatchNorm into the
    convolutions moves them by up to 7e-7. The tolerance is wider on other processors and with other
    versions of PyTorch, which round differently. The weights were rounded to bfloat16 before the
    earlier version predicted, to halve the file.
    """
    old_run = OLD / "rdseg"
    predict(old_run / "model", [subject], tmp_path, engine=engine, device="cpu", picture=False)
    old, new = (
        np.asarray(nib.load(folder / "tiny_0_anomaly.nii.gz").dataobj)
        for folder in (old_run / "maps", tmp_path)
    )
    saved = json.loads((old_run / "model" / "model.json").read_text(encoding="utf-8"))
    here = (torch.__version__.partition("+")[0], torch.backends.cpu.get_cpu_capability())
    if here != (saved["versions"]["torch"], "AVX512"):
        tolerance = 1e-4
    assert np.abs(new - old).max() <= tolerance * old.max()


def test_its_config_and_calibration_are_read() -> None:
    model = load_model(OLD / "run")
    assert model.config.model.name == "stfpm"
    assert model.calibration is not None
    config = yaml.safe_load((OLD / "run" / "config.yaml").read_text(encoding="utf-8"))
    again = medrd.load_config(OLD / "run" / "config.yaml").to_dict()
    assert {key: again[key] for key in ("model", "scoring", "seed")} == {
        key: config[key] for key in ("model", "scoring", "seed")
    }
    # A key that came later keeps what the old code did.
    assert again["recipe"] == config["recipe"] | {"shading": "kept"}


def test_its_results_make_a_report(subject: Path, tmp_path: Path) -> None:
    """The record that it wrote is read, whatever a newer one holds."""
    maps = tmp_path / "maps"
    shutil.copytree(OLD / "maps", maps)
    path = maps / "tiny_0.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["inputs"] = {"flair": str(subject / "tiny_0_flair.nii.gz")}
    path.write_text(json.dumps(record), encoding="utf-8")
    assert medrd.write_report(maps).pages == 1
