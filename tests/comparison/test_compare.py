"""``medrd compare``: what runs, what is kept, what a failure costs, and what comes out."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from medrd.comparison import cells as compare_cells
from medrd.comparison.compare import compare, plan
from medrd.comparison.config import load_compare, make_compare, merge
from medrd.comparison.inputs import refuse_changes
from medrd.data.brains.layouts import find_subjects
from medrd.errors import ConfigError, ModelError
from medrd.run.cohort import load_cohort
from medrd.run.folder_lock import lock_folder
from tiny import write_tiny_subject
from training import SMALL

CONFIGS = Path(__file__).parents[2] / "configs" / "compare"
WOOD = {"categories": ["wood"]}
RD4AD = {"name": "rd4ad", "teacher": {"name": SMALL, "weights": "random"}}


def make_raw(tiny_yaml: Path, picture_yaml: Path) -> dict[str, Any]:
    """Two domains, one epoch, the intensity baseline and RD4AD."""
    scans, pictures = (
        yaml.safe_load(path.read_text(encoding="utf-8")) for path in (tiny_yaml, picture_yaml)
    )
    roots = [part["data"].pop("root") for part in (scans, pictures)]
    for part in (scans, pictures):
        part["train"]["epochs"] = 1
    pictures["data"]["category"] = ["grain", "weave"]
    return {
        "name": "tiny",
        "seeds": [0, 1],
        "resamples": 100,
        "data_sets": {
            "scans": {"domain": "brain", "root": roots[0], "config": scans},
            "pictures": {"domain": "industrial", "root": roots[1], "config": pictures},
        },
        "models": {
            "rd4ad": {"config": {"model": RD4AD}},
            "intensity": {
                "config": {"model": {"name": "intensity"}, "scoring": {"sigma_px": 3}},
                "where": {"brain": {"recipe": {"normalise": "rank"}}},
            },
        },
    }


@pytest.fixture
def raw(tiny_yaml: Path, picture_yaml: Path) -> dict[str, Any]:
    return make_raw(tiny_yaml, picture_yaml)


# --- configs ---


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_configs_are_valid_once_data_are_named(path: Path, tmp_path: Path) -> None:
    from medrd.comparison.config import cell_config

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    overrides = [
        f"data_sets.{name}.root={tmp_path}"
        for name, data in content["data_sets"].items()
        if "generate" not in data
    ]
    config = load_compare(path, overrides)
    assert "intensity" in config.models
    domains = {data.domain for data in config.data_sets.values()}
    assert domains <= {"brain", "industrial"}
    for model in config.models:
        for name in config.data_sets:
            cell_config(config, model, name, 0, root=tmp_path)
    if overrides:
        with pytest.raises(ConfigError, match=r"--set data_sets\.\w+\.root=PATH"):
            load_compare(path)


def test_later_parts_of_a_cells_config_win(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["base"] = {"scoring": {"sigma_px": 1}, "train": {"epochs": 7, "batch_size": 3}}
    raw["data_sets"]["scans"]["config"]["scoring"] = {"sigma_px": 2, "image_score": "mean"}
    raw["models"]["intensity"]["where"]["scans"] = {"scoring": {"sigma_px": 5}}
    raw["data_sets"]["pictures"]["categories"] = "together"
    cells = {(c.model, c.data_set): c.config for c in plan(make_compare(raw), tmp_path)}
    assert cells["rd4ad", "pictures"].scoring.sigma_px == 1
    assert cells["rd4ad", "scans"].scoring.sigma_px == 2
    assert cells["intensity", "pictures"].scoring.sigma_px == 3
    assert cells["intensity", "scans"].scoring.sigma_px == 5
    assert cells["intensity", "scans"].scoring.image_score == "mean"
    assert cells["intensity", "scans"].recipe.normalise == "rank"  # type: ignore[union-attr]
    assert (cells["rd4ad", "scans"].train.epochs, cells["rd4ad", "scans"].train.batch_size) == (
        1,
        4,
    )
    assert merge({"a": [1, 2]}, {"a": [3]}) == {"a": [3]}


def test_models_share_a_teacher_by_its_name(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["teachers"] = {"small": {"name": SMALL, "weights": "random"}}
    raw["models"]["rd4ad"]["config"]["model"] = {"name": "rd4ad", "teacher": "small"}
    models = {c.model: c.config.model for c in plan(make_compare(raw), tmp_path)}
    assert models["rd4ad"].teacher.name == SMALL  # type: ignore[union-attr]
    raw["models"]["rd4ad"]["config"]["model"]["teacher"] = "smal"
    with pytest.raises(ConfigError, match=r"rd4ad on scans.*teachers: small; found smal"):
        plan(make_compare(raw), tmp_path)


def test_folds_test_every_subject_once_and_are_the_same_for_every_seed(
    raw: dict[str, Any], tmp_path: Path
) -> None:
    raw["data_sets"]["scans"] |= {"folds": 2}
    raw["data_sets"]["scans"]["config"]["data"]["split"] = {"train": 0.7, "calibration": 1}
    del raw["data_sets"]["pictures"]
    cells = plan(make_compare(raw), tmp_path)
    assert len(cells) == 2 * 2 * 2  # seeds, folds, models
    assert {cell.folder.parts[2] for cell in cells} == {"fold1", "fold2"}
    splits = {}
    for cell in cells:
        split = load_cohort(cell.config).split
        splits[cell.seed, cell.category, cell.model] = split.test
        assert not set(split.test) & {*split.train, *split.calibration}
        assert split.train
    root = Path(raw["data_sets"]["scans"]["root"])
    everyone = [s.id for s in find_subjects(root, layout="auto", channels=["flair"])]
    first = splits[0, "fold1", "rd4ad"]
    assert sorted(first + splits[0, "fold2", "rd4ad"]) == sorted(everyone)
    assert {splits[seed, "fold1", model] for seed, _, model in splits} == {first}
    # As listed.
    raw["data_sets"]["scans"]["folds"] = [[first[0]], [first[1]]]
    listed = plan(make_compare(raw), tmp_path)
    assert [c.config.data.split.test for c in listed[::2]] == 2 * [(first[0],), (first[1],)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        (1, "two folds or more; found 1"),
        ([], "two folds or more"),
        ([[1], [2]], "in quotes if an id looks like a number"),
        ([["a"], []], "an empty fold"),
        ([["a"], ["a"]], "a subject in two folds"),
        (40, "fewer folds"),
    ],
)
def test_folds_that_cannot_be_are_refused(
    raw: dict[str, Any], folds: Any, message: str, tmp_path: Path
) -> None:
    raw["data_sets"]["scans"]["folds"] = folds
    with pytest.raises(ConfigError, match=message):
        plan(make_compare(raw), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {}}, "unknown key model"),
        ({"train": {}}, r"Did you mean base\.train\?"),
        ({"base": {"seed": 1, "calibration": {"voxel_fpr": 2}}}, "voxel_fpr.*Set it under base"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"data_sets": {"tyre": {"root": "x"}, "tire": {"domain": "a"}}}, "tyre misspelt.*tire"),
        ({"models": {"a/b": {}}}, "names a folder"),
        (
            {"data_sets": {"t": {"domain": "a", "generate": {"kind": "textures"} | WOOD}}},
            "categories.*weave",
        ),
        ({"models": {"x": {"where": {"brian": {}}}}}, "brian"),
        (
            {"models": {"x": {"config": {"model": {"nam": 1}}}}},
            r"x on scans.*unknown key model\.nam",
        ),
    ],
)
def test_mistakes_are_named_before_anything_starts(
    raw: dict[str, Any], change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(make_compare(raw | change), tmp_path / "out")
    assert not list(tmp_path.glob("out/cells/**/*"))


def test_a_root_that_is_not_there_is_named(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["data_sets"]["pictures"]["root"] = str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"nowhere.*--set data_sets\.pictures\.root"):
        plan(make_compare(raw), tmp_path / "out")


def test_skipped_models_have_no_cells(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["models"]["intensity"]["skip"] = ["industrial"]
    places = {(c.model, c.data_set, c.category) for c in plan(make_compare(raw), tmp_path)}
    assert places == {
        ("rd4ad", "scans", None),
        ("intensity", "scans", None),
        ("rd4ad", "pictures", "grain"),
        ("rd4ad", "pictures", "weave"),
    }


# --- the whole of it ---


# Killed as the third cell is about to be evaluated: two are done, one is trained.
KILL = """
import os, signal
import medrd.comparison.cells as module
original, calls = module.evaluate, []
def patched(*args, **kwargs):
    calls.append(args)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
module.evaluate = patched
"""


@dataclass(frozen=True)
class Story:
    """A comparison that was killed, with a broken model in it, and run again to its end."""

    out: Path
    code: int
    stdout: str
    stamps: dict[Path, int]


@pytest.fixture(scope="module")
def story(
    medrd: Any, tiny_yaml: Path, picture_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Story:
    folder = tmp_path_factory.mktemp("story")
    raw = make_raw(tiny_yaml, picture_yaml)
    broken = {"name": "rd4ad", "teacher": {"weights": "file", "file": str(folder / "gone.pth")}}
    raw["models"]["broken"] = {"config": {"model": broken}, "skip": ["scans"]}
    (folder / "c.yaml").write_text(yaml.safe_dump(raw))
    killed = medrd("compare", folder / "c.yaml", "--out", folder / "out", prelude=KILL)
    assert killed.code == -9
    assert not (folder / "out" / "results.csv").exists()
    done = [path.parent.parent for path in folder.rglob("evaluation/metrics.json")]
    assert len(done) == 2
    stamps = {
        path: path.stat().st_mtime_ns
        for run in done
        for path in run.rglob("*")
        if path.is_file() and path.name != "inputs.json"
    }
    again = medrd("compare", folder / "c.yaml", "--out", folder / "out")
    return Story(folder / "out", again.code, again.stdout, stamps)


def rows(out: Path) -> dict[tuple[str, str, str, str], dict[str, str]]:
    with (out / "results.csv").open() as file:
        return {
            (r["model"], r["data_set"], r["category"], r["seed"]): r for r in csv.DictReader(file)
        }


def test_a_killed_comparison_goes_on_and_keeps_what_is_done(story: Story) -> None:
    assert len(story.stamps) > 8
    for path, stamp in story.stamps.items():
        assert path.stat().st_mtime_ns == stamp, path
    found = rows(story.out)
    assert len(found) == 2 * 2 + 2 * 2 * 3
    for (model, *_), row in found.items():
        assert row["status"] == ("failed" if model == "broken" else "done")


def test_a_failed_cell_is_reported_and_costs_no_other(story: Story) -> None:
    assert story.code == 3
    for key, row in rows(story.out).items():
        assert ("gone.pth" in row["error"]) is (key[0] == "broken")
        assert bool(row["image_auroc"]) is (key[0] != "broken")
    assert "gone.pth" in (story.out / "results.md").read_text(encoding="utf-8")
    reports = list((story.out / "cells").rglob("seed*.error.json"))
    assert len(reports) == 4
    assert json.loads(reports[0].read_text(encoding="utf-8"))["error"] == "ModelError"


def test_a_cell_is_an_ordinary_run(story: Story, medrd: Any, tiny_root: Path) -> None:
    run = story.out / "cells" / "scans" / "rd4ad" / "seed0"
    predicted = medrd("predict", run, tiny_root / "tiny_0", "--out", story.out / "maps")
    assert predicted.code == 0, predicted.stderr
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    row = rows(story.out)["rd4ad", "scans", "", "0"]
    assert float(row["pixel_ap"]) == metrics["pixel_ap"]


def test_results_put_seeds_and_categories_together(story: Story) -> None:
    document = json.loads((story.out / "results.json").read_text(encoding="utf-8"))
    found = rows(story.out)
    means = [
        np.mean([float(found["rd4ad", "pictures", c, s]["pixel_ap"]) for c in ("grain", "weave")])
        for s in "01"
    ]
    [entry] = [
        a
        for a in document["aggregates"]
        if (a["model"], a["data_set"], a["category"]) == ("rd4ad", "pictures", None)
    ]
    assert entry["metrics"]["pixel_ap"]["mean"] == pytest.approx(np.mean(means))
    assert entry["metrics"]["pixel_ap"]["spread"] == pytest.approx(np.std(means, ddof=1))
    interval = entry["metrics"]["pixel_ap"]["interval"]
    assert interval["low"] < np.mean(means) < interval["high"]
    differences = {(d["data_set"], d["metric"]): d for d in document["differences"]}
    assert set(differences) == {
        (data_set, metric)
        for data_set in ("scans", "pictures")
        for metric in ("image_auroc", "pixel_ap", "aupro")
    }
    page = (story.out / "results.md").read_text(encoding="utf-8")
    assert "| intensity" in page
    assert (story.out / "results.png").stat().st_size > 10_000


def test_another_config_in_the_same_folder_is_refused_and_nothing_is_lost(
    story: Story, raw: dict[str, Any]
) -> None:
    raw["models"] = {"rd4ad": {"config": {"model": RD4AD | {"lr": 0.1}}}}
    raw["seeds"] = [0]
    before = (story.out / "results.csv").read_bytes()
    with pytest.raises(
        ConfigError, match=r"model\.lr: 0\.1, as.*found a run with model\.lr: 0\.005"
    ):
        compare(make_compare(raw), story.out)
    assert (story.out / "results.csv").read_bytes() == before


def test_a_bug_in_a_model_is_kept_with_its_traceback(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def buggy(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(compare_cells, "train", buggy)
    [cell, *_] = plan(make_compare(raw), tmp_path)
    [result] = [each.result for each in compare_cells.run_cell(cell, tmp_path, {})]
    assert result.error == "ZeroDivisionError: oh"
    [report] = tmp_path.rglob("seed*.error.json")
    assert "in buggy" in json.loads(report.read_text(encoding="utf-8"))["traceback"]


# --- further data sets ---


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Two subjects that are not in the tiny cohort."""
    for i in (0, 1):
        write_tiny_subject(tmp_path / "else" / f"else_{i}", f"else_{i}", seed=60 + i)
    return tmp_path / "else"


def test_models_are_also_tested_elsewhere(
    raw: dict[str, Any], elsewhere: Path, tmp_path: Path
) -> None:
    del raw["data_sets"]["pictures"], raw["models"]["rd4ad"]
    raw["seeds"] = [0]
    out = tmp_path / "out"
    compare(make_compare(raw), out)  # the data set that comes later finds trained models
    trained = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    raw["data_sets"]["scans"]["also_test"] = {"other_site": str(elsewhere)}
    comparison = compare(make_compare(raw), out)
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    assert [(c.data_set, c.status) for c in comparison.cells] == [
        ("scans", "done"),
        ("other_site", "done"),
    ]
    first = out / "cells" / "scans" / "intensity" / "seed0"
    folder = first / "also_test" / "other_site" / "evaluation"
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["protocol"]["subjects"] == ["else_0", "else_1"]
    assert comparison.cells[1].value("pixel_ap") == metrics["pixel_ap"]
    assert "## other_site (brain)" in (out / "results.md").read_text(encoding="utf-8")
    # Another file there is another test.
    write_tiny_subject(elsewhere / "else_1", "else_1", seed=70)
    with pytest.raises(ConfigError, match="else_1 and 0 more have changed"):
        compare(make_compare(raw), out)


def test_a_model_that_was_not_trained_fails_on_every_data_set(
    raw: dict[str, Any], elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw["data_sets"]["scans"]["also_test"] = {"other_site": str(elsewhere)}
    calls = []

    def broken(*args: Any, **kwargs: Any) -> None:
        calls.append(args)
        raise ModelError("model", expected="a", found="b", remedy="c")

    monkeypatch.setattr(compare_cells, "train", broken)
    [cell, *_] = plan(make_compare(raw), tmp_path)
    results = [each.result for each in compare_cells.run_cell(cell, tmp_path, {})]
    assert [(r.data_set, r.status) for r in results] == [
        ("scans", "failed"),
        ("other_site", "failed"),
    ]
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("data_set", "name", "message"),
    [
        ("scans", "nowhere", r"nowhere.*--set data_sets\.scans\.also_test\.nowhere=PATH"),
        ("scans", "pictures", "a data set that there is already: pictures"),
        ("pictures", "other_site", "scans.*Remove also_test"),
    ],
)
def test_further_data_sets_that_cannot_be_are_refused(
    raw: dict[str, Any], elsewhere: Path, data_set: str, name: str, message: str, tmp_path: Path
) -> None:
    root = tmp_path / "nowhere" if name == "nowhere" else elsewhere
    raw["data_sets"][data_set]["also_test"] = {name: str(root)}
    with pytest.raises(ConfigError, match=message):
        plan(make_compare(raw), tmp_path)


def small(raw: dict[str, Any], root: Path) -> dict[str, Any]:
    """The baseline alone on one category: seconds."""
    del raw["data_sets"]["scans"], raw["models"]["rd4ad"]
    raw["models"]["intensity"]["where"] = {}
    raw["data_sets"]["pictures"]["root"] = str(root)
    raw["data_sets"]["pictures"]["config"]["data"]["category"] = "weave"
    return raw | {"seeds": [0]}


@pytest.fixture
def copy(texture_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(texture_root, tmp_path / "textures"))


def test_results_of_other_data_are_refused(raw: dict[str, Any], copy: Path, tmp_path: Path) -> None:
    config = make_compare(small(raw, copy))
    compare(config, tmp_path / "out")
    before = (tmp_path / "out" / "results.csv").read_bytes()
    mask = next((copy / "weave" / "ground_truth").rglob("*.png"))
    content = mask.read_bytes()
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    with pytest.raises(ConfigError, match=r"weave/test/\w+/000 and 0 more have changed"):
        compare(config, tmp_path / "out")
    assert (tmp_path / "out" / "results.csv").read_bytes() == before
    mask.write_bytes(content)
    (copy / "weave" / "train" / "good" / "009.png").unlink()
    with pytest.raises(ConfigError, match="weave/train/good/009"):
        compare(config, tmp_path / "out")


def test_a_cell_is_held_against_the_files_that_its_own_model_reads(
    raw: dict[str, Any], tiny_root: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(tiny_root, tmp_path / "scans"))
    for flair in root.rglob("*_flair.nii.gz"):
        shutil.copy(flair, flair.with_name(flair.name.replace("flair", "t1")))
    del raw["data_sets"]["pictures"]
    raw["data_sets"]["scans"]["root"] = str(root)
    rdseg = {"config": {"model": {"name": "rdseg"}, "recipe": {"channels": ["flair"]}}}
    both = {"config": {"model": {"name": "rdseg"}, "recipe": {"channels": ["flair", "t1"]}}}
    raw |= {"models": {"flair": rdseg, "both": both}, "seeds": [0]}
    cells = plan(make_compare(raw), tmp_path)
    before = refuse_changes(cells, tmp_path)
    assert refuse_changes(cells[::-1], tmp_path) == before

    (root / "tiny_1" / "tiny_1_t1.nii.gz").write_bytes(b"another scan")
    changed = {
        (folder.parent.name, subject)
        for folder, hashes in refuse_changes(cells, tmp_path).items()
        for subject in hashes
        if hashes[subject] != before[folder][subject]
    }
    assert changed == {("both", "tiny_1")}


def test_test_pictures_that_were_mended_are_evaluated_again(
    raw: dict[str, Any], copy: Path, tmp_path: Path
) -> None:
    config = make_compare(small(raw, copy))
    picture = copy / "weave" / "test" / "good" / "000.png"
    content = picture.read_bytes()
    picture.write_bytes(content[:99])
    [cell] = compare(config, tmp_path / "out").cells
    assert (cell.status, cell.facts["test_units"]) == ("incomplete", 11)
    assert "†" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    picture.write_bytes(content)
    [cell] = compare(config, tmp_path / "out").cells
    assert (cell.status, cell.facts["test_units"]) == ("done", 12)


def test_results_that_are_lost_or_damaged_are_made_again(
    raw: dict[str, Any], copy: Path, tmp_path: Path
) -> None:
    config = make_compare(small(raw, copy))
    first = compare(config, tmp_path / "out")
    [evaluation] = (tmp_path / "out").rglob("evaluation")
    for name in ("metrics.json", "units/weave.npz", "units"):
        damaged = evaluation / name
        if damaged.is_dir():
            shutil.rmtree(damaged)
        else:
            damaged.write_bytes(damaged.read_bytes()[:50])
        again = compare(config, tmp_path / "out")
        assert again.cells[0].metrics == first.cells[0].metrics, name
        assert again.intervals == first.intervals, name


def test_a_damaged_run_fails_alone(raw: dict[str, Any], copy: Path, tmp_path: Path) -> None:
    raw = small(raw, copy) | {"seeds": [0, 1]}
    compare(make_compare(raw), tmp_path / "out")
    [damaged] = (tmp_path / "out").rglob("seed0/run.json")
    damaged.write_text("{")
    found = {c.seed: c.status for c in compare(make_compare(raw), tmp_path / "out").cells}
    assert found[1] == "done"


def test_two_comparisons_do_not_share_a_folder(
    raw: dict[str, Any], copy: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    with (
        lock_folder(tmp_path / "out", "comparison"),
        pytest.raises(ConfigError, match="other comparison"),
    ):
        compare(make_compare(small(raw, copy)), tmp_path / "out")


def test_generated_data_need_no_root(raw: dict[str, Any], tmp_path: Path) -> None:
    del raw["data_sets"]["scans"], raw["models"]["intensity"]["where"]
    data = raw["data_sets"]["pictures"]
    data |= {"root": None, "generate": {"kind": "textures", "train": 4, "size": 64}}
    cells = plan(make_compare(raw), tmp_path)
    assert {cell.category for cell in cells} == {"grain", "weave"}
    assert len(list((tmp_path / "data" / "pictures").rglob("train/good/*.png"))) == 8
