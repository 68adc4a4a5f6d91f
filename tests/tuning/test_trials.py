"""The trials of a search as tables, and the files that a search leaves."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from medrd.config import load_config
from medrd.tuning.config import load_tune, make_tune
from medrd.tuning.figures import save_figures, study_of
from medrd.tuning.results import write_results
from medrd.tuning.trials import Trial, best_of, news_of, trials_csv, trials_of, trials_table
from searches import POINT, TRIAL


def made_up(number: int, objective: float | None, status: str = "finished", **more: Any) -> Trial:
    point = {
        "model.lr": 10.0 ** -(1 + number % 4),
        "model.betas": [[0.5, 0.9], [0.9, 0.99]][number % 2],
    }
    return Trial(f"t{number}", point, status, 3, objective, 0.5, 1.0, **more)  # type: ignore[arg-type]


# --- Rows ---


def of_ray(number: int, status: str, error: Exception | None = None, **result: Any) -> Any:
    """The parts of a trial of Ray Tune that are read."""
    return SimpleNamespace(
        trial_id=f"id{number}",
        experiment_tag=f"{number}_lr={number}",
        config={"model.lr": number},
        status=status,
        last_result=result,
        get_pickled_error=lambda: error,
    )


def test_rays_trials_become_rows_in_the_order_of_their_draws() -> None:
    report = {"epoch": 3, "objective": 0.5, "loss": None, "seconds": 2.5, "last": False}
    rows = trials_of(
        [
            of_ray(10, "RUNNING", **report, done=False),
            of_ray(2, "TERMINATED", **report, done=True),
            of_ray(1, "TERMINATED", **report | {"last": True}, done=True),
            of_ray(3, "TERMINATED", **report | {"objective": 0, "failed": "ValueError: x"}),
            of_ray(4, "ERROR", OSError("the node died\nof old age"), **report),
            of_ray(5, "PENDING"),
            of_ray(6, "TERMINATED", **report, done=False),  # as a search that is cut off leaves it
        ]
    )
    assert [(row.name, row.status) for row in rows] == [
        ("id1", "finished"),
        ("id2", "stopped"),
        ("id3", "failed"),
        ("id4", "unfinished"),
        ("id5", "unfinished"),
        ("id6", "unfinished"),
        ("id10", "unfinished"),
    ]
    assert [row.reason for row in rows if row.reason] == ["ValueError: x", "OSError: the node died"]
    assert (rows[1].epochs, rows[1].objective, rows[1].seconds) == (3, 0.5, 2.5)
    assert (rows[2].objective, rows[4].objective) == (None, None)
    assert news_of(rows[3], rows, 9) == (
        "trial id4: died, epoch 3, objective 0.5000, best 0.5000, OSError: the node died "
        "(3 of 9 trials done)"
    )


def test_only_a_finished_trial_can_be_the_best() -> None:
    trials = [
        made_up(0, 0.4),
        made_up(1, 0.9, "stopped"),
        made_up(2, 0.6),
        made_up(3, 0.95, "unfinished"),
        made_up(4, 0.6),
        made_up(5, None, "failed"),
    ]
    best = best_of(trials)
    assert best is not None
    assert best.name == "t2"
    assert best_of(trials[1:2]) is None
    assert trials_table(trials).count("| t") == 1 + 3
    assert "1 stopped" in trials_table(trials)
    assert "no trials" in trials_table([])


def test_the_csv_holds_every_trial_with_its_values_and_reason() -> None:
    rows = list(
        csv.DictReader(
            trials_csv([made_up(0, 0.4), made_up(1, None, "failed", reason="a, b")]).splitlines()
        )
    )
    assert rows[0]["objective"] == "0.4"
    assert json.loads(rows[1]["model.betas"]) == [0.9, 0.99]
    assert (rows[1]["status"], rows[1]["reason"], rows[1]["objective"]) == ("failed", "a, b", "")


# --- Files ---


def test_results_are_written_and_name_the_best(finished_search: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished_search, tmp_path / "out"))
    trials = [
        Trial(TRIAL.name, POINT, "finished", 2, 0.5),
        Trial("other", POINT | {"model.lr": 0.001}, "stopped", 1, 0.9),
    ]
    write_results(load_tune(out / "search.yaml"), trials, out)
    run = out / TRIAL / "run"
    assert load_config(out / "best.yaml") == load_config(run / "config.yaml")
    weights = Path("model.safetensors")
    assert (out / "best" / weights).read_bytes() == (run / "model" / weights).read_bytes()
    from medrd.run.model_folder import load_model

    assert load_model(out / "best").config.model.name == "dae"
    assert len((out / "trials.csv").read_text(encoding="utf-8").splitlines()) == 3
    assert (out / "search-history.png").read_bytes().startswith(b"\x89PNG")


SPACE = make_tune(
    {
        "space": {
            "model.lr": {"kind": "log_uniform", "low": 1e-4, "high": 1e-1, "unit": "a step"},
            "model.betas": {"kind": "choice", "values": [[0.5, 0.9], [0.9, 0.99]]},
            "model": {
                "kind": "choice",
                "values": [{"name": "rd4ad"}, {"name": "rd4ad", "loss": "pixel"}],
            },
        }
    }
).space


def test_figures_are_drawn_of_finished_trials_and_importances_of_enough_of_them(
    tmp_path: Path,
) -> None:
    points = [made_up(i, 0).point | {"model": SPACE["model"].ends()[i // 2 % 2]} for i in range(9)]
    trials = [Trial(str(i), p, "finished", 1, p["model.lr"]) for i, p in enumerate(points)]
    stopped = [Trial("s", point, "stopped", 1, 0.9) for point in points]
    study = study_of(SPACE, [*stopped, *trials])
    objectives = [p["model.lr"] for p in points]
    assert [trial.value for trial in study.trials] == [None] * 9 + objectives
    assert study.trials[11].params == {
        "model.lr [a step]": 1e-3,
        "model.betas": "[0.5, 0.9]",
        "model": '{"name": "rd4ad", "loss": "pixel"}',  # the name alone would not tell them apart
    }
    save_figures(SPACE, stopped, tmp_path)
    assert list(tmp_path.iterdir()) == []
    save_figures(SPACE, [*trials[:7], *stopped], tmp_path)
    figures = {"search-history.png", "search-values.png"}
    assert {path.name for path in tmp_path.iterdir()} == figures
    save_figures(SPACE, trials, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*figures, "search-importances.png"}
