"""The draws of a search by Ray Tune, and restoring its state; no cluster is started."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from medrd.errors import ConfigError
from medrd.runner.cluster import settle_environment
from medrd.tuning.config import TuneConfig, make_tune


def searcher_module() -> ModuleType:
    """Imported late, because it imports Ray."""
    settle_environment()
    from medrd.tuning import searcher

    return searcher


def make_searcher(config: TuneConfig) -> Any:
    return searcher_module().make_searcher(config)


def make_scheduler(config: TuneConfig) -> Any:
    return searcher_module().make_scheduler(config)


SPACE: dict[str, Any] = {
    "model.lr": {"kind": "log_uniform", "low": 1e-4, "high": 1e-1},
    "model.betas": {"kind": "choice", "values": [[0.5, 0.9], [0.9, 0.99]]},
    "train.batch_size": {"kind": "integer", "low": 4, "high": 12, "step": 4},
}
FEW: dict[str, Any] = {key: SPACE[key] for key in ("model.betas", "train.batch_size")}


def search_for(space: dict[str, Any] = SPACE, **search: Any) -> TuneConfig:
    return make_tune(
        {
            "config": {"train": {"epochs": 8}},
            "space": space,
            "search": search,
            "stopping": {"grace_epochs": 1, "reduction": 2},
        }
    )


def draw(searcher: Any, count: int) -> list[Any]:
    return [searcher.suggest(str(i)) for i in range(count)]


# --- Points ---


@pytest.mark.parametrize("algorithm", ["optuna", "random"])
def test_points_lie_in_the_space_and_depend_on_the_seed_alone(algorithm: str) -> None:
    points = draw(make_searcher(search_for(algorithm=algorithm)), 8)
    for point in points:
        assert list(point) == list(SPACE)
        assert 1e-4 <= point["model.lr"] <= 1e-1
        assert point["model.betas"] in SPACE["model.betas"]["values"]
        assert point["train.batch_size"] in (4, 8, 12)
    assert len({point["model.lr"] for point in points}) == 8
    assert draw(make_searcher(search_for(algorithm=algorithm)), 8) == points
    assert draw(make_searcher(search_for(algorithm=algorithm, seed=1)), 8) != points


@pytest.mark.parametrize("algorithm", ["optuna", "random"])
def test_no_point_is_drawn_twice_and_few_values_give_few_trials(algorithm: str) -> None:
    points = draw(make_searcher(search_for(FEW, algorithm=algorithm)), 7)
    assert points[6] == searcher_module().Searcher.FINISHED
    assert len({str(point) for point in points[:6]}) == 6


def test_a_grid_is_tried_in_order() -> None:
    points = draw(make_searcher(search_for(FEW, algorithm="grid")), 4)
    assert points == [
        {"model.betas": [0.5, 0.9], "train.batch_size": 4},
        {"model.betas": [0.5, 0.9], "train.batch_size": 8},
        {"model.betas": [0.5, 0.9], "train.batch_size": 12},
        {"model.betas": [0.9, 0.99], "train.batch_size": 4},
    ]


def test_optuna_gets_the_result_of_a_trial_that_died_when_it_is_resumed() -> None:
    searcher = make_searcher(search_for(concurrent=1))
    assert searcher.suggest("a") is not None
    assert searcher.suggest("b") is None  # not two at a time
    searcher.on_trial_complete("a", error=True)
    searcher.on_trial_result("a", {"objective": 0.4, "training_iteration": 1})
    assert searcher.suggest("b") is not None


# --- State ---


class Session:
    """A session of a search, as Ray drives it."""

    def __init__(self, config: TuneConfig, folder: Path) -> None:
        def nothing(point: Any) -> None: ...

        tools = searcher_module()
        self.experiment = tools.Experiment(
            "ray", nothing, num_samples=config.trials, storage_path=str(folder)
        )
        self.folder = folder / "ray"
        self.scheduler = make_scheduler(config)
        self.search = tools.ResumableSearch(
            make_searcher(config), self.scheduler, self.experiment, self.folder
        )

    def trials(self) -> list[Any]:
        """The trials that it draws."""
        drawn = []
        while trial := self.search.next_trial():
            drawn.append(trial)
        return drawn

    def decision(self, trial: Any, objective: float) -> str:
        """The decision of successive halving after a trial's first epoch."""
        self.scheduler.on_trial_add(None, trial)
        result = {"epoch": 1, "objective": objective}
        return str(self.scheduler.on_trial_result(None, trial, result))

    def save(self) -> None:
        self.search.save_to_dir(str(self.folder), session_str="2026-01-01_00-00-00")

    def restore(self) -> None:
        assert searcher_module().unpack_state(self.folder)
        self.search.restore_from_dir(str(self.folder))


def test_a_resumed_search_continues_its_draws_and_may_have_more_of_them(tmp_path: Path) -> None:
    first = Session(search_for(algorithm="random", samples=2), tmp_path)
    assert not searcher_module().unpack_state(first.folder)
    first.search.add_configurations([first.experiment])
    before = first.trials()
    first.save()
    again = Session(search_for(algorithm="random", samples=5), tmp_path)
    again.restore()
    after = again.trials()
    points = [trial.config for trial in (*before, *after)]
    assert points == draw(make_searcher(search_for(algorithm="random")), 5)
    assert [trial.experiment_tag[0] for trial in (*before, *after)] == list("12345")


def test_successive_halving_remembers_earlier_sessions(tmp_path: Path) -> None:
    first = Session(search_for(samples=3), tmp_path)
    first.search.add_configurations([first.experiment])
    trial, other, _ = first.trials()
    assert first.decision(trial, 0.9) == "CONTINUE"
    first.save()
    again = Session(search_for(samples=3), tmp_path)
    assert again.decision(other, 0.5) == "CONTINUE"  # it knows of no other trial
    again.restore()
    assert again.decision(other, 0.5) == "STOP"


@pytest.mark.parametrize("stopping", [{"kind": "none"}, {"grace_epochs": 8}])
def test_nothing_is_stopped_early_where_that_is_asked_for(stopping: dict[str, Any]) -> None:
    config = search_for().model_dump() | {"stopping": stopping}
    assert make_scheduler(make_tune(config)) is None


def test_a_state_that_a_kill_has_torn_is_restored_from_its_archive(tmp_path: Path) -> None:
    first = Session(search_for(samples=2), tmp_path)
    first.search.add_configurations([first.experiment])
    first.trials()
    first.save()
    torn = [path for path in first.folder.iterdir() if path.suffix in (".json", ".pkl")]
    assert len(torn) == 3
    for path in torn:
        path.write_bytes(path.read_bytes()[:10])
    again = Session(search_for(samples=3), tmp_path)
    again.restore()
    assert len(again.trials()) == 1


def test_a_search_that_cannot_be_restored_is_not_begun_anew(tmp_path: Path) -> None:
    first = Session(search_for(samples=2), tmp_path)
    first.search.add_configurations([first.experiment])
    first.save()
    with pytest.raises(ConfigError, match="that Ray can restore"):
        first.search.add_configurations([first.experiment])  # as Ray does where restoring fails


def test_a_search_is_stopped_only_when_its_state_is_saved(tmp_path: Path) -> None:
    tools, session = searcher_module(), Session(search_for(samples=2), tmp_path)
    session.search.add_configurations([session.experiment])
    asked: list[str] = []
    watcher = tools.Watcher(session.search, tmp_path / "trials.csv", 2, lambda: bool(asked))

    def step(*, save: bool) -> None:
        watcher.on_step_begin(1, [])
        if save:
            session.save()
        watcher.on_step_end(1, [])

    step(save=True)
    asked.append("to stop")
    step(save=False)
    with pytest.raises(tools.SearchStoppedError):
        step(save=True)
