"""The trials of a search as a table, and the best of them."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medrd.run.table import cell, markdown_table

Status = Literal["finished", "stopped", "failed", "unfinished"]
"""``stopped``: early, by the search; ``unfinished``: running, or cut off, to be resumed."""


@dataclass(frozen=True)
class Trial:
    """One configuration and its results.

    Attributes
    ----------
    name
        The name of the trial's folder, which Ray chose.
    point
        A value for each key of the space.
    epochs
        Number of finished epochs.
    objective
        Objective after the last epoch; higher is better. None before the first, and for a failed
        trial.
    loss
        Training loss of the last epoch; None for a detector without epochs.
    seconds
        Time spent on the trial, including the objective.
    reason
        One line: why the trial failed or its process died.
    """

    name: str
    point: dict[str, Any]
    status: Status
    epochs: int = 0
    objective: float | None = None
    loss: float | None = None
    seconds: float = 0.0
    reason: str = ""


def trials_of(ray_trials: Iterable[Any]) -> list[Trial]:
    """Convert Ray Tune's trials, in the order in which they were drawn."""
    # A tag is the number of the draw, then the values: 12_model_lr=0.003
    ordered = sorted(ray_trials, key=lambda trial: int(trial.experiment_tag.partition("_")[0]))
    return [trial_of(trial) for trial in ordered]


def trial_of(ray_trial: Any, result: Mapping[str, Any] | None = None) -> Trial:
    """Convert a trial of Ray Tune, with a result (by default its last one).

    A result has the fields of :class:`medrd.tuning.trial.TrialMetrics`.
    """
    result = result or ray_trial.last_result or {}
    status: Status = "unfinished"
    if result.get("failed"):
        status = "failed"
    elif result.get("last"):
        status = "finished"
    elif result.get("done"):
        status = "stopped"
    return Trial(
        name=ray_trial.trial_id,
        point=dict(ray_trial.config),
        status=status,
        epochs=result.get("epoch", 0),
        objective=None if status == "failed" else result.get("objective"),
        loss=result.get("loss"),
        seconds=result.get("seconds", 0.0),
        reason=result.get("failed") or _reason_of_death(ray_trial),
    )


def _reason_of_death(ray_trial: Any) -> str:
    """Ray's reason why a trial's process died and is not restarted; "" if it did not die."""
    if ray_trial.status != "ERROR":
        return ""
    error = ray_trial.get_pickled_error()
    error = getattr(error, "cause", None) or error  # the original exception, if Ray wrapped it
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else "its process died"


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The first finished trial with the highest objective; None if no trial has finished."""
    finished = [t for t in trials if t.status == "finished" and t.objective is not None]
    return max(finished, key=lambda trial: trial.objective or 0.0, default=None)


def news_of(changed: Trial, trials: Sequence[Trial], samples: int) -> str:
    """One trial's state as a line for the log, beside the best of all and how many are done."""
    unfinished = "died" if changed.reason else "running"
    state = unfinished if changed.status == "unfinished" else changed.status
    parts = [f"trial {changed.name}: {state}, epoch {changed.epochs}"]
    if changed.objective is not None:
        parts.append(f"objective {changed.objective:.4f}")
    if (best := best_of(trials)) is not None:
        parts.append(f"best {best.objective:.4f}")
    if changed.reason:
        parts.append(changed.reason)
    done = sum(trial.status != "unfinished" for trial in trials)
    return f"{', '.join(parts)} ({done} of {samples} trials done)"


def trials_csv(trials: Sequence[Trial]) -> str:
    """One row per trial, in the given order; lists and sections in a cell are JSON."""
    keys = list(trials[0].point) if trials else []
    header = ["number", "name", "status", "objective", "loss", "epochs", "seconds"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, *keys, "reason"])
    for number, trial in enumerate(trials, start=1):
        writer.writerow(
            [
                number,
                trial.name,
                trial.status,
                trial.objective,
                trial.loss,
                trial.epochs,
                round(trial.seconds, 3),
                *(as_text(trial.point[key]) for key in keys),
                trial.reason,
            ]
        )
    return text.getvalue()


def trials_table(trials: Sequence[Trial], *, most: int = 10) -> str:
    """The best finished trials as Markdown, and the number of trials in each state."""
    finished = [t for t in trials if t.status == "finished" and t.objective is not None]
    shown = sorted(finished, key=lambda trial: -(trial.objective or 0.0))[:most]
    keys = list(trials[0].point) if trials else []
    rows = [
        [trial.name, cell(trial.objective), *(short(trial.point[key]) for key in keys)]
        for trial in shown
    ]
    counts = Counter(trial.status for trial in trials)
    states = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{markdown_table(['trial', 'objective', *keys], rows)}\n\n{states or 'no trials'}"


def short(value: Any) -> str:
    """A value of a point as text, numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else as_text(value)


def as_text(value: Any) -> str:
    """A value of a point for one cell of a table."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and "name" in value:  # a model or a teacher
        return str(value["name"])
    return json.dumps(value)
