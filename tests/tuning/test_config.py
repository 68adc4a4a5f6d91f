"""Searches as files: grids, a trial's config, and what is refused before anything starts."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest

from medrd.errors import ConfigError
from medrd.tuning.config import load_tune, make_tune
from medrd.tuning.space import (
    Choice,
    Dimension,
    Integer,
    Uniform,
    corner_points,
    grid_points,
)

CONFIGS = Path(__file__).parents[2] / "configs" / "tune"
SPACE: dict[str, Dimension] = {
    "model.lr": Uniform(kind="log_uniform", low=1e-4, high=1e-2),
    "scoring.sigma_px": Uniform(kind="uniform", low=0, high=8, points=2),
    "train.epochs": Integer(kind="integer", low=5, high=20, step=5),
    "model.betas": Choice(kind="choice", values=([0.5, 0.9], [0.9, 0.99])),
}
RAW: dict[str, Any] = {
    "config": {"model": {"name": "rd4ad"}},
    "space": {
        "model.lr": {"kind": "log_uniform", "low": 1e-4, "high": 1e-2},
        "train.batch_size": {"kind": "choice", "values": [8, 16]},
    },
}

LABELLED = {"kind": "labelled", "validation": ["a"]}


@pytest.fixture
def raw() -> dict[str, Any]:
    return copy.deepcopy(RAW)


# --- Points ---


def test_a_grid_holds_every_combination_and_both_ends() -> None:
    points = grid_points(SPACE)
    assert len(points) == 3 * 2 * 4 * 2
    assert len({str(point) for point in points}) == len(points)
    rates = sorted({point["model.lr"] for point in points})
    assert (rates[0], rates[2]) == (1e-4, 1e-2)
    assert math.isclose(rates[1], 1e-3)


def test_corners_name_their_key_and_move_it_alone() -> None:
    corners = list(corner_points(SPACE))
    first = {key: dimension.ends()[0] for key, dimension in SPACE.items()}
    assert [key for key, _ in corners].count("model.betas") == 2
    for key, point in corners:
        assert {k for k in point if point[k] != first[k]} <= {key}


def test_samples_are_the_trials_of_a_grid_too(raw: dict[str, Any]) -> None:
    for algorithm, samples, trials in (
        ("grid", None, 6),
        ("grid", 2, 2),
        ("grid", 99, 6),
        ("optuna", None, 16),
        ("random", 3, 3),
    ):
        search = {"algorithm": algorithm, "samples": samples}
        assert make_tune(raw | {"search": search}).trials == trials


# --- A trial's config ---


def test_a_trials_config_is_the_shared_one_with_the_points_keys_set(raw: dict[str, Any]) -> None:
    config = make_tune(raw)
    trial = config.trial_config({"model.lr": 0.003, "train.batch_size": 8})
    assert (trial.model.lr, trial.train.batch_size) == (0.003, 8)  # type: ignore[union-attr]
    assert config.config == raw["config"]  # and what is shared is left as it was


def test_a_section_is_set_before_the_keys_inside_it(raw: dict[str, Any]) -> None:
    raw["space"]["model"] = {
        "kind": "choice",
        "values": [{"name": "rd4ad", "loss": "pixel"}, {"name": "stfpm"}],
    }
    trial = make_tune(raw).trial_config(
        {"model.lr": 0.003, "model": {"name": "stfpm"}, "train.batch_size": 8}
    )
    assert (trial.model.name, trial.model.lr) == ("stfpm", 0.003)  # type: ignore[union-attr]


def test_a_search_survives_its_own_yaml(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["objective"] = {"kind": "labelled", "validation": ["a", "b"]}
    config = make_tune(raw)
    (tmp_path / "search.yaml").write_text(config.to_yaml())
    assert load_tune(tmp_path / "search.yaml") == config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_configs_are_valid(path: Path) -> None:
    config = load_tune(path, ["data.root=/data"])
    assert all(str(trial.data.root) == "/data" for _, trial in config.corners())
    assert config.objective.kind == "simulated"


# --- Overrides ---


def test_overrides_reach_the_shared_config_the_search_and_the_space(tmp_path: Path) -> None:
    config = load_tune(
        CONFIGS / "rd4ad.yaml",
        [
            "data.root=/data",
            "config.train.epochs=7",
            "search.samples=3",
            "space.model.lr.high=1e-1",
            "space.train.batch_size={kind: integer, low: 2, high: 4}",
            "space.recipe.size={kind: choice, values: [128]}",
        ],
    )
    _, trial = config.corners()[0]
    assert (str(trial.data.root), trial.train.epochs, config.search.samples) == ("/data", 7, 3)
    assert config.space["model.lr"].ends() == [5e-4, 0.1]
    assert config.space["train.batch_size"].ends() == [2, 4]
    assert trial.recipe.size == 128


# --- What is refused ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spcae": {}}, "unknown key spcae"),
        ({"space": {}}, "space"),
        ({"space": {"model.lr": {"kind": "uniform", "low": 2, "high": 1}}}, r"model\.lr.*below"),
        ({"space": {"model.lr": {"kind": "log_uniform", "low": 0, "high": 1}}}, "above 0"),
        ({"space": {"model.lr": {"kind": "normal", "low": 0, "high": 1}}}, r"space\.model\.lr"),
        (
            {"space": {"train.epochs": {"kind": "integer", "low": 1, "high": 4, "step": 2}}},
            "no steps of 2",
        ),
        (
            {"space": {"model.los": {"kind": "uniform", "low": 0, "high": 1}}},
            r"space\.model\.los.*Did you mean loss",
        ),
        (
            {"space": {"train.batch_size": {"kind": "integer", "low": 0, "high": 4}}},
            r"space\.train\.batch_size.*greater than or equal to 1",
        ),
        (
            {"space": {"model.loss": {"kind": "choice", "values": ["global", "locale"]}}},
            r"space\.model\.loss.*locale",
        ),
        (
            {"config": {"model": {"nosuch": 1}}},
            r"search: config: expected known keys; found unknown key model\.nosuch",
        ),
        ({"space": {"seed.x": {"kind": "choice", "values": [1]}}, "config": {"seed": 1}}, "seed"),
        ({"objective": {"kind": "test"}}, "objective"),
        ({"objective": {"simulation": {"contents": ["glioma"]}}}, "contents"),
        ({"search": {"samples": 0}}, r"search\.samples"),
        ({"train": {"epochs": 1}}, r"unknown key train\. Did you mean config\.train\?"),
        ({"space": {"model.lr": {"kind": "choice", "values": [1, 2, 1]}}}, "values must differ"),
        (
            {
                "search": {"algorithm": "grid"},
                "space": {"train.epochs": {"kind": "integer", "low": 1, "high": 10**9}},
            },
            "a grid of 1000000000 points",
        ),
        ({"resources": {"gpus": -1}}, r"resources\.gpus"),
    ],
)
def test_mistakes_are_named_before_anything_starts(
    raw: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_tune(raw | change)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("recipe.size", [128, 256]),
        ("recipe", [{}, {"normalise": "median"}]),
        ("data.healthy_margin", [0, 2]),
    ],
)
def test_trials_are_judged_on_the_same_slices(
    raw: dict[str, Any], key: str, values: list[Any]
) -> None:
    raw["space"][key] = {"kind": "choice", "values": values}
    with pytest.raises(ConfigError, match=rf"space\.{key}: expected trials .* same slices"):
        make_tune(raw)
    make_tune(raw | {"objective": LABELLED})  # on the scan's grid
    raw["space"][key]["values"] = values[:1]
    make_tune(raw)


@pytest.mark.parametrize(
    ("key", "values", "seen_with_labels"),
    [
        ("scoring.sigma_across_mm", [0, 4], True),
        ("scoring.image_score", ["max", "top"], False),
        ("scoring.top_fraction", [0.01, 0.1], False),
        ("calibration.voxel_fpr", [0.01, 0.05], False),
        (
            "scoring",
            [{"sigma_px": 2}, {"sigma_px": 4}, {"sigma_px": 4, "image_score": "mean"}],
            False,
        ),
    ],
)
def test_what_the_objective_does_not_see_cannot_be_searched(
    raw: dict[str, Any], key: str, values: list[Any], seen_with_labels: bool
) -> None:
    raw["space"][key] = {"kind": "choice", "values": values}
    with pytest.raises(ConfigError, match=rf"space\.{key}: .*simulated.*single slices.*{key}"):
        make_tune(raw)
    if seen_with_labels:
        make_tune(raw | {"objective": LABELLED})
    else:
        with pytest.raises(ConfigError, match=rf"space\.{key}: .*labelled.*whole scans.*{key}"):
            make_tune(raw | {"objective": LABELLED})
    raw["space"][key]["values"] = values[:2] if key == "scoring" else values[:1]
    make_tune(raw)  # all trials alike, or seen


def test_a_model_is_not_judged_on_what_it_trains_on(raw: dict[str, Any]) -> None:
    raw["config"]["model"] = {"name": "rd_expert"}
    raw["space"] = {"model.gating": {"kind": "choice", "values": [True, False]}}
    with pytest.raises(ConfigError, match=r"slice, brighter.*objective\.simulation\.contents"):
        make_tune(raw)
    raw["config"]["model"]["simulation"] = {"contents": ["slice", "texture"]}
    raw["objective"] = {"simulation": {"contents": ["brighter"]}}
    make_tune(raw)
    # Nor where the search itself would lead there.
    both = [["slice"], ["slice", "brighter"]]
    raw["space"]["model.simulation.contents"] = {"kind": "choice", "values": both}
    with pytest.raises(ConfigError, match=r"space\.model\.simulation\.contents.*brighter"):
        make_tune(raw)
