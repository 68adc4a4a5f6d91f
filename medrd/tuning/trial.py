"""One trial of a search: an ordinary training that reports its objective after each epoch.

A trial has a folder under the name that Ray gives it:

    reports.jsonl  objective and loss of each epoch
    run/           what ``medrd train`` writes: checkpoint, then model
    error.txt      the traceback of a trial that failed

Ray stores the state of a search (:mod:`medrd.tuning.searcher`). The run folder is a trial's
checkpoint, from which it continues if its process died.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from medrd.errors import ConfigError, LeakageError, MedrdError
from medrd.files import write_text
from medrd.run.cohort import load_cohort
from medrd.run.folder_lock import lock_folder
from medrd.run.outputs import make_folder
from medrd.run.predictor import Predictor
from medrd.training.loop import EpochMetrics
from medrd.training.train import train
from medrd.tuning.config import TuneConfig
from medrd.tuning.objective import make_objective
from medrd.tuning.space import Point

SEARCH = "search.yaml"
"""File in the search's folder with the resolved search."""
SPLIT = "split.json"
"""File in the search's folder with the subjects on each side."""
TRIALS = "trials"

WORST = 0.0
"""The objective of a failed trial, which is the lowest possible."""
_REPORTS, _ERROR = "reports.jsonl", "error.txt"


@dataclass(frozen=True)
class TrialMetrics:
    """A trial's metrics after an epoch, for Ray Tune.

    Attributes
    ----------
    epoch
        Number of finished epochs.
    objective
        Value of the objective; higher is better.
    loss
        Training loss; None for a detector without epochs.
    seconds
        Time spent on the trial so far, including the objective.
    last
        True if the training is complete and its model saved.
    failed
        The reason of a failure in one line; "" if the trial has not failed.
    """

    epoch: int
    objective: float
    loss: float | None
    seconds: float
    last: bool
    failed: str = ""


def run_trial(
    config: TuneConfig,
    split_hash: str,
    point: Point,
    folder: Path,
    report: Callable[[TrialMetrics], None],
) -> None:
    """Train with a point's values, from the checkpoint if there is one, and report each epoch.

    If the training raises an error, the last report says so, since a restarted trial would raise
    it again.

    Parameters
    ----------
    config
        The search.
    split_hash
        Hash of the split that all trials share.
    folder
        The trial's folder, below the search's.
    report
        Called after each epoch; for the last one after the model is saved, because the search
        may stop the trial in this call.
    """
    search = folder.parents[1]
    if not (search / SEARCH).is_file():
        raise ConfigError(
            search,
            expected="the folder of the search, on storage that every node sees",
            found="a folder without search.yaml on this node",
            remedy="Choose an --out that all nodes share.",
        )
    make_folder(folder)
    # A killed process may take a moment to release the lock.
    with lock_folder(folder, "process", wait=True):
        try:
            _train(config, split_hash, point, folder, report)
        except Exception as error:  # a bug too: a restarted trial would raise it again
            write_text(folder / _ERROR, traceback.format_exc())
            reports = read_trial_metrics(folder) or [TrialMetrics(0, WORST, None, 0.0, last=False)]
            report(replace(reports[-1], objective=WORST, last=False, failed=_in_one_line(error)))


def _train(
    config: TuneConfig,
    split_hash: str,
    point: Point,
    folder: Path,
    report: Callable[[TrialMetrics], None],
) -> None:
    trial = config.trial_config(point, where=str(folder))
    cohort = load_cohort(trial)
    if cohort.split.hash != split_hash:
        raise LeakageError(
            folder,
            expected="a trial with the same split as all others",
            found="another split",
            remedy="Remove the key that changes it from the space, or start a new search if the "
            "data set has changed.",
        )
    objective = make_objective(config.objective, trial, cohort)
    reports = read_trial_metrics(folder)
    clock = time.monotonic() - (reports[-1].seconds if reports else 0.0)

    def after_epoch(done: EpochMetrics, predictor: Predictor) -> None:
        if not reports or done.epoch > reports[-1].epoch:
            value = objective(predictor)
            seconds = round(time.monotonic() - clock, 3)
            reports.append(TrialMetrics(done.epoch, value, done.loss, seconds, done.last))
            lines = (json.dumps(asdict(each), allow_nan=False) for each in reports)
            write_text(folder / _REPORTS, "".join(f"{line}\n" for line in lines))
        if not done.last:
            report(reports[-1])

    train(trial, folder / "run", resume=True, on_epoch=after_epoch, cohort=cohort)
    report(reports[-1])


def read_trial_metrics(folder: Path) -> list[TrialMetrics]:
    """Read a trial's metrics after each finished epoch."""
    path = folder / _REPORTS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [TrialMetrics(**json.loads(line)) for line in lines]


def _in_one_line(error: Exception) -> str:
    text = str(error) if isinstance(error, MedrdError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split()).removesuffix(":")
