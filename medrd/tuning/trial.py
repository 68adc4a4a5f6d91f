"""One trial of a search: an ordinary run, judged after each epoch, in a folder of its own.

The folder is the trial: its name follows from the values that are tried, and all that is known
of it lies there, so that any process that sees the folder can go on with it or read it.

    trial.json     the values, and when it began
    reports.jsonl  objective and loss of each epoch
    run/           what ``medrd train`` makes: checkpoint, model
    failed.json    why it has failed, or
    stopped.json   that the search has stopped it early, or
    died.json      why its process was lost for good, until another goes on with it
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from medrd.config import digest
from medrd.errors import ConfigError, LeakageError, MedrdError
from medrd.files import write_json, write_text
from medrd.run.cohort import load_cohort
from medrd.run.folder_lock import alone_in
from medrd.run.outputs import make_folder, remove
from medrd.run.signals import InterruptedRunError
from medrd.training.train import EpochDone, train
from medrd.tuning.config import load_tune
from medrd.tuning.objective import make_objective
from medrd.tuning.space import Point
from medrd.tuning.trials import Status, Trial

SEARCH = "search.yaml"
"""The whole search in its folder, resolved."""
SPLIT = "split.json"
"""Who is trained on, held out and tested, in the search's folder."""
TRIALS = "trials"

_TRIAL, _REPORTS = "trial.json", "reports.jsonl"
_FAILED, _STOPPED, _DIED = "failed.json", "stopped.json", "died.json"


@dataclass(frozen=True)
class Report:
    """One line of ``reports.jsonl``: where a trial stood after an epoch.

    Attributes
    ----------
    epoch
        From 1.
    objective
        Higher is better.
    loss
        Of training; None for a detector without epochs.
    seconds
        Since the report before, or since the process began with the trial.
    last
        Whether the training was done with it.
    """

    epoch: int
    objective: float
    loss: float | None
    seconds: float
    last: bool


class FailedTrialError(Exception):
    """The trial has failed before, and would again."""


def trial_folder(search: Path, point: Point) -> Path:
    """Where a point is tried: the same values, the same folder."""
    return search / TRIALS / digest(point)[:12]


def begin_trial(search: Path, point: Point) -> Path:
    """The trial's folder, made if it is not there, with the values in it."""
    folder = trial_folder(search, point)
    make_folder(folder)
    if not (folder / _TRIAL).is_file():
        write_json(folder / _TRIAL, {"point": point, "started": time.time()})
    return folder


def run_trial(search: Path, point: Point, report: Callable[[Report], None]) -> Path:
    """Train, judge after each epoch and report; or go on with what is there.

    What was finished or stopped before only reports again what it did then.

    Parameters
    ----------
    search
        The search's folder, with ``search.yaml`` and ``split.json``.
    report
        Called for each epoch in turn, with those of earlier sessions first; for the last one
        once the run is complete, so that who stops a trial then stops nothing.

    Returns
    -------
    Path
        The trial's folder.

    Raises
    ------
    Exception
        Whatever goes wrong; it is on record in ``failed.json``.
    """
    if not (search / SEARCH).is_file():
        raise ConfigError(
            search,
            expected="the folder of the search, on storage that every node sees",
            found="no search.yaml in it on this node",
            remedy="Give an --out that all nodes share.",
        )
    folder = begin_trial(search, point)
    # A process that was killed may take a moment to let go.
    with alone_in(folder, "process", wait=True):
        if (folder / _FAILED).is_file():
            raise FailedTrialError(read_trial(folder).reason)
        remove(folder / _DIED)
        try:
            _go_on(search, folder, point, report)
        except InterruptedRunError:
            raise
        except Exception as error:
            fail_trial(folder, _in_words(error), traceback.format_exc())
            raise
    return folder


def _go_on(search: Path, folder: Path, point: Point, report: Callable[[Report], None]) -> None:
    tuning = load_tune(search / SEARCH)
    config = tuning.trial_config(point, where=str(folder))
    known = _read_reports(folder)
    for each in known:
        if not each.last:
            report(each)
    if _status(folder) == "stopped":
        return  # drawn again; the search has seen enough of it
    if not _is_finished(folder):
        cohort = load_cohort(config)
        if cohort.split.hash != json.loads((search / SPLIT).read_text(encoding="utf-8"))["hash"]:
            raise LeakageError(
                folder,
                expected="a trial with the test subjects of all others",
                found="another split",
                remedy="Take what changes it out of the space, or begin a new search if the "
                "data set has changed.",
            )
        objective = make_objective(tuning.objective, config, cohort)
        clock = time.monotonic()

        def after_epoch(done: EpochDone) -> None:
            nonlocal clock
            if known and done.epoch <= known[-1].epoch:
                return
            value = objective(done.predictor)
            now = time.monotonic()
            known.append(Report(done.epoch, value, done.loss, round(now - clock, 3), done.last))
            clock = now
            _write_reports(folder, known)
            if not done.last:
                report(known[-1])

        train(config, folder / "run", resume=True, on_epoch=after_epoch)
    report(known[-1])


def read_trials(search: Path) -> list[Trial]:
    """All trials of a search's folder in the order in which they began."""
    folders = [path.parent for path in (search / TRIALS).glob(f"*/{_TRIAL}")]
    started = {
        path: json.loads((path / _TRIAL).read_text(encoding="utf-8"))["started"] for path in folders
    }
    return [read_trial(path) for path in sorted(folders, key=lambda path: (started[path], path))]


def read_trial(folder: Path) -> Trial:
    """What a trial's folder says of it."""
    reports = _read_reports(folder)
    return Trial(
        name=folder.name,
        point=json.loads((folder / _TRIAL).read_text(encoding="utf-8"))["point"],
        status=_status(folder),
        epochs=reports[-1].epoch if reports else 0,
        objective=reports[-1].objective if reports else None,
        loss=reports[-1].loss if reports else None,
        seconds=sum(each.seconds for each in reports),
        reason=_reason(folder),
    )


def read_objectives(folder: Path) -> dict[int, float]:
    """The objective after each epoch that is done."""
    return {each.epoch: each.objective for each in _read_reports(folder)}


def fail_trial(folder: Path, reason: str, details: str = "") -> None:
    """Put on record that a trial has failed; what is there of it already stays."""
    if not (folder / _FAILED).is_file():
        write_json(folder / _FAILED, {"reason": reason, "details": details})


def record_death(folder: Path, reason: str) -> None:
    """Put on record that a trial's process was lost; the trial is unfinished, and did not fail."""
    write_json(folder / _DIED, {"reason": reason})


def has_failed(search: Path, point: Point) -> bool:
    """Whether a trial is on record as failed."""
    return (trial_folder(search, point) / _FAILED).is_file()


def stop_trial(folder: Path) -> None:
    """Put on record that the search has stopped a trial early."""
    write_json(folder / _STOPPED, {"epochs": read_trial(folder).epochs})


def _status(folder: Path) -> Status:
    if (folder / _FAILED).is_file():
        return "failed"
    if _is_finished(folder):
        return "finished"
    return "stopped" if (folder / _STOPPED).is_file() else "unfinished"


def _reason(folder: Path) -> str:
    """Why it has failed, or lost its process; "" where it has not."""
    for path in (folder / _FAILED, folder / _DIED):
        if path.is_file():
            reason: str = json.loads(path.read_text(encoding="utf-8"))["reason"]
            return reason
    return ""


def _is_finished(folder: Path) -> bool:
    return (folder / "run" / "run.json").is_file()


def _read_reports(folder: Path) -> list[Report]:
    path = folder / _REPORTS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [Report(**json.loads(line)) for line in lines]


def _write_reports(folder: Path, reports: list[Report]) -> None:
    lines = (json.dumps(asdict(each), allow_nan=False) for each in reports)
    write_text(folder / _REPORTS, "".join(f"{line}\n" for line in lines))


def _in_words(error: Exception) -> str:
    """One line; errors of ours speak for themselves."""
    text = str(error) if isinstance(error, MedrdError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split()).removesuffix(":")
