"""Trials and their folder without Ray: what is kept, gone on with, refused and written."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from medrd.config import load_config
from medrd.errors import ConfigError
from medrd.tuning import trial as trial_module
from medrd.tuning.config import load_tune, make_tune
from medrd.tuning.figure import draw_search, height
from medrd.tuning.optuna_space import decode, distributions, encode
from medrd.tuning.results import importances, write_results
from medrd.tuning.space import draw_point
from medrd.tuning.trial import (
    FailedTrialError,
    Report,
    read_trial,
    read_trials,
    record_death,
    run_trial,
    stop_trial,
    trial_folder,
)
from medrd.tuning.trials import Trial, best_of, trials_csv, trials_table
from searches import POINT, begin

WEIGHTS = Path("model") / "model.safetensors"


# --- A trial ---


def test_a_trial_is_an_ordinary_run_that_reports_each_epoch(finished_search: Path) -> None:
    trial = read_trial(trial_folder(finished_search, POINT))
    assert (trial.status, trial.epochs, trial.point) == ("finished", 2, POINT)
    assert trial.objective is not None
    assert 0 < trial.objective < 1
    run = trial_folder(finished_search, POINT) / "run"
    losses = [
        json.loads(line)["loss"]
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert trial.loss == losses[-1]
    assert load_config(run / "config.yaml").model.lr == 0.002  # type: ignore[union-attr]


def test_judging_changes_nothing_of_the_training(finished_search: Path, tmp_path: Path) -> None:
    from medrd.training.train import train

    run = trial_folder(finished_search, POINT) / "run"
    plain = train(load_config(run / "config.yaml"), tmp_path / "run")
    assert (plain / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()


def test_a_finished_trial_is_reported_again_and_not_done_again(
    finished_search: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "train", lambda *a, **k: pytest.fail("trained again"))
    reports: list[Report] = []
    run_trial(finished_search, POINT, reports.append)
    assert [(report.epoch, report.last) for report in reports] == [(1, False), (2, True)]


def test_a_stopped_trial_that_is_drawn_again_is_reported_again_and_not_gone_on_with(
    finished_search: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(finished_search, tmp_path / "out"))
    folder = trial_folder(out, POINT)
    (folder / "run" / "run.json").unlink()
    first, _ = (folder / "reports.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "reports.jsonl").write_text(first, encoding="utf-8")
    stop_trial(folder)
    monkeypatch.setattr(trial_module, "train", lambda *a, **k: pytest.fail("trained again"))
    reports: list[Report] = []
    run_trial(out, POINT, reports.append)
    assert [(report.epoch, report.last) for report in reports] == [(1, False)]
    assert read_trial(folder).status == "stopped"


class KilledError(BaseException):
    """Stands for kill -9: nothing of ours may catch it."""


@pytest.mark.parametrize("judged", [True, False])
def test_a_trial_that_was_cut_off_goes_on_and_misses_no_epoch(
    finished_search: Path,
    search_raw: dict[str, Any],
    tmp_path: Path,
    judged: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut off with the first epoch's checkpoint saved, and its objective too or not yet."""
    out = tmp_path / "out"
    begin(search_raw, out)

    def cut(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        if not judged:
            patch.setattr("medrd.tuning.objective.simulated_ap", cut)
        with pytest.raises(KilledError):
            run_trial(out, POINT, cut)
    folder = trial_folder(out, POINT)
    record_death(folder, "its process has died")
    assert (read_trial(folder).status, read_trial(folder).reason) == (
        "unfinished",
        "its process has died",
    )
    assert (folder / "run" / "checkpoint.pt").is_file()
    from medrd.training.loop import Loop

    epochs: list[int] = []
    epoch = Loop.epoch
    monkeypatch.setattr(Loop, "epoch", lambda s, p: (epochs.append(p.epoch + 1), epoch(s, p))[1])
    reports: list[Report] = []
    run_trial(out, POINT, reports.append)
    assert epochs == [2]  # the first one is not done again
    assert [report.epoch for report in reports] == [1, 2]
    whole = trial_folder(finished_search, POINT)
    assert (folder / "run" / WEIGHTS).read_bytes() == (whole / "run" / WEIGHTS).read_bytes()
    trial = read_trial(folder)
    assert (trial.objective, trial.reason) == (read_trial(whole).objective, "")


def raising(error: Exception) -> Any:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "MemoryError"),
        (ValueError("no such\n  thing"), "ValueError: no such thing"),
        (
            ConfigError("recipe.size", expected="a", found="b", remedy="Do c."),
            "recipe.size: expected a; found b. Do c.",
        ),
    ],
)
def test_what_goes_wrong_with_a_trial_is_kept_with_it(
    search_raw: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
) -> None:
    begin(search_raw, tmp_path / "out")
    monkeypatch.setattr(trial_module, "train", raising(error))
    with pytest.raises(type(error)):
        run_trial(tmp_path / "out", POINT, lambda report: None)
    [trial] = read_trials(tmp_path / "out")
    assert (trial.status, trial.reason) == ("failed", reason)
    monkeypatch.undo()
    with pytest.raises(FailedTrialError, match=reason.split()[0]):  # it would fail again
        run_trial(tmp_path / "out", POINT, lambda report: None)


def test_a_loss_that_is_no_number_fails_its_trial(
    search_raw: dict[str, Any], tmp_path: Path
) -> None:
    search_raw["space"]["model.lr"]["high"] = 1e30
    begin(search_raw, tmp_path / "out")
    point = POINT | {"model.lr": 1e30}
    with pytest.raises(Exception, match="finite"):
        run_trial(tmp_path / "out", point, lambda report: None)
    assert "finite" in read_trial(trial_folder(tmp_path / "out", point)).reason


def test_a_detector_without_epochs_is_judged_once(
    search_raw: dict[str, Any], tmp_path: Path
) -> None:
    search_raw["config"]["model"] = {
        "name": "patchcore",
        "teacher": {"name": "resnet18", "weights": "random"},
    }
    point = {"model.fraction": 0.05}
    search_raw["space"] = {"model.fraction": {"kind": "choice", "values": [0.05, 0.1]}}
    begin(search_raw, tmp_path / "out")
    reports: list[Report] = []
    run_trial(tmp_path / "out", point, reports.append)
    assert [(r.epoch, r.loss, r.last) for r in reports] == [(1, None, True)]
    assert reports[0].objective > 0
    assert read_trial(trial_folder(tmp_path / "out", point)).status == "finished"


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every node"):
        run_trial(tmp_path / "elsewhere", POINT, lambda report: None)


# --- What comes out ---


def made_up(number: int, objective: float | None, status: str = "finished", **more: Any) -> Trial:
    point = {
        "model.lr": 10.0 ** -(1 + number % 4),
        "model.betas": [[0.5, 0.9], [0.9, 0.99]][number % 2],
    }
    return Trial(f"t{number}", point, status, 3, objective, 0.5, 1.0, **more)  # type: ignore[arg-type]


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


def test_results_are_written_and_name_the_best(finished_search: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished_search, tmp_path / "out"))
    stopped = trial_folder(out, POINT | {"model.lr": 0.001})
    shutil.copytree(trial_folder(out, POINT), stopped)
    shutil.rmtree(stopped / "run")
    stop_trial(stopped)
    config = load_tune(out / "search.yaml")
    trials = write_results(config, out)
    assert {trial.status for trial in trials} == {"finished", "stopped"}
    run = trial_folder(out, POINT) / "run"
    assert load_config(out / "best.yaml") == load_config(run / "config.yaml")
    assert (out / "best" / "model.safetensors").read_bytes() == (run / WEIGHTS).read_bytes()
    from medrd.run.model_folder import load_model

    assert load_model(out / "best").config.model.name == "dae"
    assert (out / "search.png").read_bytes().startswith(b"\x89PNG")
    assert len((out / "trials.csv").read_text(encoding="utf-8").splitlines()) == 3


SPACE = make_tune(
    {
        "space": {
            "model.lr": {"kind": "log_uniform", "low": 1e-4, "high": 1e-1, "unit": "a step"},
            "model.betas": {"kind": "choice", "values": [[0.5, 0.9], [0.9, 0.99]]},
            "train.epochs": {"kind": "integer", "low": 2, "high": 8, "step": 2},
            "model.loss": {"kind": "choice", "values": ["global", "pixel"]},
        }
    }
).space


def test_points_come_back_from_optunas_terms() -> None:
    for position in range(8):
        point = draw_point(SPACE, seed=0, position=position)
        encoded = encode(SPACE, point)
        for key, distribution in distributions(SPACE).items():
            assert distribution._contains(distribution.to_internal_repr(encoded[key]))
        assert decode(SPACE, encoded) == point
        assert encoded["model.betas"] in (0, 1)
        assert encoded["model.loss"] == point["model.loss"]  # as loggers are to show it


def test_what_matters_is_found_important_and_too_few_trials_say_nothing() -> None:
    points = [draw_point(SPACE, seed=0, position=i) for i in range(24)]
    trials = [
        Trial(str(i), point, "finished", 1, height(SPACE["model.lr"], point["model.lr"]))
        for i, point in enumerate(points)
    ]
    found = importances(SPACE, trials)
    assert set(found) == set(SPACE)
    assert found["model.lr"] > 0.7
    assert importances(SPACE, trials[:7]) == {}
    stopped = [Trial("s", p, "stopped", 1, 0.1) for p in points]
    assert importances(SPACE, [*trials[:7], *stopped]) == {}


def test_the_figure_shows_every_kind_of_trial_and_axis() -> None:
    points = [draw_point(SPACE, seed=0, position=i) for i in range(12)]
    states = ["finished", "stopped", "failed", "unfinished"]
    trials = [
        Trial(str(i), p, states[i % 4], 1, None if i % 4 == 2 else i / 20)  # type: ignore[arg-type]
        for i, p in enumerate(points)
    ]
    figure = draw_search(SPACE, trials, {"model.lr": 0.8, "model.betas": 0.2})
    history, bars, lines = figure.axes
    best = next(line for line in history.lines if line.get_label() == "best")
    assert best.get_ydata()[-1] == 8 / 20  # the last finished one, not a better unfinished one
    assert len([line for line in lines.lines if len(line.get_xdata()) == 5]) == 9
    assert [text.get_text() for text in bars.get_yticklabels()][-1] == "model.lr"
    assert height(SPACE["model.lr"], 1e-1) == 1
    assert height(SPACE["train.epochs"], 4) == pytest.approx(1 / 3)
    for few in (trials[:1], trials[1:2]):  # one trial, and none finished
        draw_search(SPACE, few, {})
