"""Additions to Ray Tune's search, so that it can be resumed completely.

Ray saves the state of trials and searcher every few seconds and restores it, so that a killed
search continues (``tune.run(resume=…)``). But its restore forgets which trials successive halving
has compared, cannot raise the number of trials, and silently starts again if a kill has damaged
the state's files.

Ray and Optuna are imported here, so import this module inside the functions that search.
"""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optuna.logging import WARNING, set_verbosity
from optuna.samplers import RandomSampler, TPESampler
from ray.tune import Callback, Experiment
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher, SearchGenerator
from ray.tune.search.optuna import OptunaSearch

from medrd.errors import ConfigError
from medrd.files import atomic_path, write_text
from medrd.tuning.config import TuneConfig
from medrd.tuning.space import Point, grid_points
from medrd.tuning.trials import Trial, news_of, trial_of, trials_csv, trials_of

logger = logging.getLogger("medrd.tune")

METRIC, TIME = "objective", "epoch"
"""Names in :class:`medrd.tuning.trial.TrialMetrics`."""
_STATE = "state.tar"
_DRAWS = 100
"""Draws that may repeat earlier points before a space counts as exhausted."""


class DistinctOptunaSearch(OptunaSearch):
    """Optuna's search, which draws no point twice and ends if no new point is left."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._drawn: list[Point | None] = []

    def suggest(self, trial_id: str) -> Any:
        """The next point; FINISHED if the draws only repeat earlier points."""
        for _ in range(_DRAWS):
            point = super().suggest(trial_id)
            if point not in self._drawn:
                self._drawn.append(point)
                return point
            super().on_trial_complete(trial_id, error=True)
            self._completed_trials.discard(trial_id)
            del self._ot_trials[trial_id]
        return Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass a result on to Optuna, but not a process's death: the trial may be resumed."""
        if not error:
            super().on_trial_complete(trial_id, result)


def make_searcher(config: TuneConfig) -> Searcher:
    """Make Optuna's search with the config's sampler, or with all points of a grid in order."""
    set_verbosity(WARNING)
    seed, algorithm = config.search.seed, config.search.algorithm
    searcher = DistinctOptunaSearch(
        {key: dimension.distribution() for key, dimension in config.space.items()},
        metric=METRIC,
        mode="max",
        sampler=RandomSampler(seed=seed) if algorithm == "random" else TPESampler(seed=seed),
        points_to_evaluate=grid_points(config.space) if algorithm == "grid" else None,
    )
    limit = config.search.concurrent
    return ConcurrencyLimiter(searcher, limit) if limit else searcher


def make_scheduler(config: TuneConfig) -> TrialScheduler | None:
    """Make the successive halving scheduler; None if no trial can be stopped early."""
    longest = max(trial.train.epochs for _, trial in config.corners())
    if config.stopping.kind == "none" or config.stopping.grace_epochs >= longest:
        return None
    return ASHAScheduler(
        time_attr=TIME,
        metric=METRIC,
        mode="max",
        max_t=longest,
        grace_period=config.stopping.grace_epochs,
        reduction_factor=config.stopping.reduction,
    )


class ResumableSearch(SearchGenerator):
    """Ray's search, whose state is saved atomically, together with the scheduler's.

    Parameters
    ----------
    searcher
        Draws the points.
    scheduler
        Its state is saved and restored too; with None, no trial is stopped early.
    experiment
        The experiment of this session, with its number of trials and its resources. It replaces
        the one in a restored state.
    folder
        Ray's folder of the experiment, which also holds the archive of the state.
    """

    def __init__(
        self,
        searcher: Searcher,
        scheduler: TrialScheduler | None,
        experiment: Experiment,
        folder: Path,
    ) -> None:
        super().__init__(searcher)
        self._scheduler, self._current, self._folder = scheduler, experiment, folder
        self._limit = getattr(searcher, "max_concurrent", None)
        self.saves = 0

    def save_to_dir(self, dirpath: str, session_str: str) -> None:  # type: ignore[override]
        """Save the state; Ray has already written that of the trials to the same folder."""
        super().save_to_dir(dirpath, session_str)
        if self._scheduler is not None:
            self._scheduler.save(str(Path(dirpath, f"scheduler-state-{session_str}.pkl")))
        with atomic_path(self._folder / _STATE) as temporary, tarfile.open(temporary, "w") as tar:
            for path in Path(dirpath).glob(f"*-{session_str}.*"):
                tar.add(path, path.name)
        self.saves += 1

    def restore_from_dir(self, dirpath: str) -> None:
        """Restore the newest state in a folder, into which :func:`unpack_state` unpacked it."""
        super().restore_from_dir(dirpath)
        if self._scheduler is not None:
            self._scheduler.restore(str(max(Path(dirpath).glob("scheduler-state-*.pkl"))))

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over a state, with this session's number of trials and resources."""
        total = self._current.spec["num_samples"]
        super().set_state(
            state | {"experiment": self._current, "total_samples": total, "finished": False}
        )
        if self._limit:
            self.searcher.set_max_concurrency(self._limit)

    def add_configurations(self, experiments: Any) -> None:
        """Start a new search; Ray also calls this if it cannot restore a state.

        Raises
        ------
        ConfigError
            If there is a state that should have been restored.
        """
        if (self._folder / _STATE).is_file():
            raise ConfigError(
                self._folder,
                expected="the state of a search that Ray can restore",
                found="a state that it cannot restore (the reason is in the log)",
                remedy="Resume with the versions of Ray and Optuna that started the search, or "
                "choose another --out.",
            )
        super().add_configurations(experiments)


def unpack_state(folder: Path) -> bool:
    """Unpack the last complete state of a search for Ray to restore; False if there is none.

    Ray's own copy may have been damaged by a kill.
    """
    archive = folder / _STATE
    if not archive.is_file():
        return False
    with tarfile.open(archive) as tar:
        # Python 3.11 has filters from 3.11.4 on; Debian 12 has 3.11.2.
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        tar.extractall(folder)
    return True


class SearchStoppedError(Exception):
    """The search was stopped right after its state was saved."""


class Watcher(Callback):
    """Logs each trial's news, keeps ``trials.csv`` up to date, and stops the search.

    Parameters
    ----------
    search
        The search, which counts how often its state was saved.
    table
        Where to write ``trials.csv``.
    samples
        The number of trials to come to, for the log.
    should_stop
        Polled; True stops the search when its state is next saved, and running trials stay
        unfinished. (Ray's own time budget would count them as done.)
    """

    def __init__(
        self,
        search: ResumableSearch,
        table: Path,
        samples: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._search, self._table, self._samples = search, table, samples
        self._should_stop = should_stop
        self._trials: Sequence[RayTrial] = ()
        self._saves = 0
        self._told: dict[str, tuple[str, int]] = {}

    def rows(self) -> list[Trial]:
        """The current state of all trials."""
        return trials_of(self._trials)

    def write_table(self) -> None:
        """Write ``trials.csv``."""
        write_text(self._table, trials_csv(self.rows()))

    def on_step_begin(self, iteration: int, trials: list[RayTrial], **info: Any) -> None:
        """Note how often the state was saved before this step of Ray's loop."""
        self._trials, self._saves = trials, self._search.saves

    def on_step_end(self, iteration: int, trials: list[RayTrial], **info: Any) -> None:
        """Stop the search, if requested, after a step of Ray's loop that saved the state."""
        if self._search.saves > self._saves and self._should_stop():
            raise SearchStoppedError

    def on_trial_result(
        self,
        iteration: int,
        trials: list[RayTrial],
        trial: RayTrial,
        result: dict[Any, Any],
        **info: Any,
    ) -> None:
        """Log a trial's epoch, which is not its last result in Ray's records yet."""
        self._tell(trial_of(trial, result))

    def on_trial_complete(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        """Log and record a trial that has ended or was stopped."""
        self._tell(trial_of(trial))
        self.write_table()

    def on_trial_error(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any
    ) -> None:
        """Log and record a trial whose process died more often than it is restarted."""
        self.on_trial_complete(iteration, trials, trial)

    def _tell(self, changed: Trial) -> None:
        rows = [changed if row.name == changed.name else row for row in self.rows()]
        # Ray calls after a trial's last report, and again at its end.
        if self._told.get(changed.name) != (changed.status, changed.epochs):
            logger.info("%s", news_of(changed, rows, self._samples))
        self._told[changed.name] = changed.status, changed.epochs
