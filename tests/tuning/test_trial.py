"""A trial without Ray: what it reports and keeps, how it continues, and how it fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from medrd.config import load_config
from medrd.errors import ConfigError, LeakageError
from medrd.training.train import train
from medrd.tuning import trial as trial_module
from medrd.tuning.trial import read_trial_metrics, run_trial
from searches import POINT, TRIAL, begin, run_point

WEIGHTS = Path("model") / "model.safetensors"


def test_a_trial_is_an_ordinary_run_that_reports_each_epoch(finished_search: Path) -> None:
    first, second = read_trial_metrics(finished_search / TRIAL)
    assert [(r.epoch, r.last, r.failed) for r in (first, second)] == [(1, False, ""), (2, True, "")]
    assert 0 < second.objective < 1
    assert 0 < first.seconds < second.seconds
    run = finished_search / TRIAL / "run"
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [r.loss for r in (first, second)] == [json.loads(line)["loss"] for line in lines]
    assert load_config(run / "config.yaml").model.lr == 0.002  # type: ignore[union-attr]


def test_scoring_changes_nothing_of_the_training(finished_search: Path, tmp_path: Path) -> None:
    run = finished_search / TRIAL / "run"
    plain = train(load_config(run / "config.yaml"), tmp_path / "run")
    assert (plain / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()


def test_a_finished_trial_is_reported_again_and_not_trained_again(
    finished_search: Path, search_raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medrd.training.loop import Loop

    monkeypatch.setattr(Loop, "epoch", lambda *a, **k: pytest.fail("trained again"))
    known = read_trial_metrics(finished_search / TRIAL)
    assert run_point(search_raw, finished_search) == known[-1:]


class KilledError(BaseException):
    """Stands for kill -9: nothing of ours may catch it."""


@pytest.mark.parametrize("scored", [True, False])
def test_a_trial_that_was_cut_off_goes_on_and_misses_no_epoch(
    finished_search: Path,
    search_raw: dict[str, Any],
    tmp_path: Path,
    scored: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut off when the first epoch's checkpoint is saved, with or without its objective."""
    out = tmp_path / "out"
    config, cohort = begin(search_raw, out)

    def cut(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        if not scored:
            patch.setattr("medrd.tuning.objective.simulated_ap", cut)
        with pytest.raises(KilledError):
            run_trial(config, cohort.split.hash, POINT, out / TRIAL, cut)
    assert (out / TRIAL / "run" / "checkpoint.pt").is_file()
    from medrd.training.loop import Loop

    epochs: list[int] = []
    epoch = Loop.epoch
    monkeypatch.setattr(Loop, "epoch", lambda s, p: (epochs.append(p.epoch + 1), epoch(s, p))[1])
    reports = run_point(search_raw, out)
    assert epochs == [2]  # the first one is not done again
    assert [report.epoch for report in reports] == [1, 2]
    whole = finished_search / TRIAL
    assert (out / TRIAL / "run" / WEIGHTS).read_bytes() == (whole / "run" / WEIGHTS).read_bytes()
    assert [r.objective for r in reports] == [r.objective for r in read_trial_metrics(whole)]
    assert reports[0].seconds < reports[1].seconds


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
def test_what_goes_wrong_with_a_trial_is_its_last_report(
    search_raw: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
) -> None:
    monkeypatch.setattr(trial_module, "train", raising(error))
    [report] = run_point(search_raw, tmp_path / "out")
    assert (report.failed, report.objective, report.last) == (reason, 0, False)
    assert type(error).__name__ in (tmp_path / "out" / TRIAL / "error.txt").read_text("utf-8")


def test_a_loss_that_is_no_number_fails_its_trial(
    search_raw: dict[str, Any], tmp_path: Path
) -> None:
    search_raw["space"]["model.lr"]["high"] = 1e30
    *_, report = run_point(search_raw, tmp_path / "out", POINT | {"model.lr": 1e30})
    assert "finite" in report.failed
    assert report.objective == 0


def test_a_trial_on_another_split_fails(
    finished_search: Path, search_raw: dict[str, Any], tmp_path: Path
) -> None:
    config, _ = begin(search_raw, tmp_path / "out")
    reports: list[Any] = []
    run_trial(config, "another hash", POINT, tmp_path / "out" / TRIAL, reports.append)
    assert "the same split as all others" in reports[0].failed
    assert LeakageError.__name__ in (tmp_path / "out" / TRIAL / "error.txt").read_text("utf-8")


def test_a_detector_without_epochs_is_scored_once(
    search_raw: dict[str, Any], tmp_path: Path
) -> None:
    search_raw["config"]["model"] = {
        "name": "patchcore",
        "teacher": {"name": "test_resnet", "weights": "random"},
    }
    search_raw["space"] = {"model.fraction": {"kind": "choice", "values": [0.05, 0.1]}}
    [report] = run_point(search_raw, tmp_path / "out", {"model.fraction": 0.05})
    assert (report.epoch, report.loss, report.last) == (1, None, True)
    assert report.objective > 0


def test_a_node_that_does_not_see_the_folder_says_so(
    finished_search: Path, search_raw: dict[str, Any], tmp_path: Path
) -> None:
    config, cohort = begin(search_raw, tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "moved")
    with pytest.raises(ConfigError, match="every node"):
        run_trial(config, cohort.split.hash, POINT, tmp_path / "out" / TRIAL, print)
