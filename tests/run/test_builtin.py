"""The model that comes with medrd: it is the one that its card describes, and it is packaged."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hatchling.builders.wheel import WheelBuilder

from medrd.data.brains.prepare import PreparedVolume
from medrd.files import file_hash
from medrd.images.volume import volume_from_array
from medrd.phantom.varied import make_varied
from medrd.prediction.api import load, read
from medrd.prediction.guard import compare_with_training
from medrd.run.builtin import DEFAULT, HOME, LIMIT, POPULATION, list_builtin
from medrd.run.card import CARD_NAME, section
from medrd.run.model_folder import load_model

ROOT = HOME.parents[1]
WEIGHTS = DEFAULT / "model.safetensors"
LARGEST_BYTES = 16_000_000


def test_card_makefile_and_description_have_the_hashes_of_what_ships() -> None:
    weights, card = file_hash(WEIGHTS), (DEFAULT / CARD_NAME).read_text(encoding="utf-8")
    assert WEIGHTS.stat().st_size <= LARGEST_BYTES
    assert f"BUILTIN_SHA256 := {weights}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert weights in card
    assert load_model(None).hash in card


def test_its_card_says_how_it_was_made_and_measured() -> None:
    card = (DEFAULT / CARD_NAME).read_text(encoding="utf-8")
    for heading in ("Data", "Reproduction", "Metrics", "Limits"):
        assert section(card, heading), heading


def test_models_lists_it_with_the_numbers_of_its_card() -> None:
    said = list_builtin()
    assert str(DEFAULT) in said
    assert re.search(r"\|.*\d\.\d", section((DEFAULT / CARD_NAME).read_text("utf-8"), "Metrics"))
    assert section((DEFAULT / CARD_NAME).read_text("utf-8"), "Metrics") in said


@pytest.mark.parametrize("modality", ["flair", "t1", "t2"])
def test_its_guard_tells_other_sequences_of_a_simulated_person(modality: str) -> None:
    model = load_model(None)
    person = make_varied(3, seed=9, healthy=True, voxel_mm=2.0, modality=modality)
    prepared = model.kind.prepare_slices(volume_from_array(person.image, person.affine))
    found = compare_with_training(prepared, model, {}).differences
    if modality == "flair":
        assert found == ()
    else:
        assert found == (f"flair: its contrast is that of a {modality.upper()} scan",)


def test_its_guard_names_no_sequence_of_a_head_nor_two_of_one_scan() -> None:
    model = load_model(None)
    assert model.profile is not None
    person = make_varied(3, seed=9, healthy=True, voxel_mm=2.0, modality="t2")
    prepared = model.kind.prepare_slices(volume_from_array(person.image, person.affine))
    assert isinstance(prepared, PreparedVolume)
    assert prepared.traits is not None
    head = replace(prepared, traits=replace(prepared.traits, brain_ml=2909.0))
    (said,) = compare_with_training(head, model, {}).differences
    assert "a head with its skull" in said
    assert said.endswith("(its contrast was not judged)")

    flair = model.profile.channels["flair"]
    either = replace(flair, others=tuple(replace(rule, limit=-np.inf) for rule in flair.others))
    model = replace(model, profile=replace(model.profile, channels={"flair": either}))
    found = compare_with_training(prepared, model, {}).differences
    assert found == ("flair: its contrast is not that of a FLAIR scan",)


def test_scans_alone_are_predicted_with_it_and_the_log_says_so(
    medrd: Callable[..., Any], scan: Path, tmp_path: Path
) -> None:
    done = medrd("predict", scan, "--out", tmp_path / "out")
    assert done.code == 0, done.stderr
    assert (
        "the built-in model: flair, trained and calibrated on simulated brains only" in done.stderr
    )
    record = json.loads((tmp_path / "out" / "scan.json").read_text(encoding="utf-8"))
    assert record["model"]["hash"] == load_model(None).hash
    assert "simulated brains" in record["model"]["name"]
    assert record["scan_score"] == pytest.approx(load().predict(read(scan)).scan_score, rel=1e-3)


def test_every_output_says_whom_it_was_calibrated_on_and_that_it_misses_lesions(
    medrd: Callable[..., Any], scan: Path, tmp_path: Path
) -> None:
    done = medrd("predict", scan, "--out", tmp_path, "--report")
    assert LIMIT in done.stderr
    record = json.loads((tmp_path / "scan.json").read_text(encoding="utf-8"))
    assert record["notice"].endswith(LIMIT)
    assert record["model"]["calibrated_on"] == POPULATION
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert LIMIT in page
    assert f"of {record['healthy_scans']} {POPULATION}" in page
    assert "simulated brains" in repr(load())


def test_the_wheel_holds_all_of_its_files() -> None:
    packed = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    files = {path.relative_to(ROOT).as_posix() for path in DEFAULT.iterdir()}
    assert {WEIGHTS.relative_to(ROOT).as_posix()} < files <= packed


def test_no_scan_or_path_of_where_it_was_made_is_in_it() -> None:
    content = json.loads((DEFAULT / "model.json").read_text(encoding="utf-8"))
    assert content["config"]["data"]["root"] is None
    assert not re.search(r'"/\w', json.dumps(content))


@pytest.mark.parametrize("change", ["", "other weights", "changed"])
def test_check_tree_lets_these_weights_pass_and_no_others(tmp_path: Path, change: str) -> None:
    copy = tmp_path / WEIGHTS.relative_to(ROOT)
    copy.parent.mkdir(parents=True)
    shutil.copy(WEIGHTS, copy)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    if change == "other weights":
        copy.with_name("second.safetensors").touch()
    elif change:
        copy.write_bytes(copy.read_bytes()[:-1] + b"x")
    for command in (["git", "init", "-q"], ["git", "add", "."]):
        subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(["make", "check-tree"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) == (not change), done.stdout + done.stderr
