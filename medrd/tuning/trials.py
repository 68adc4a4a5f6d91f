"""What a search for hyperparameters has come to: its trials, the best of them, and a table."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medrd.run.table import cell, markdown_table

Status = Literal["finished", "stopped", "failed", "unfinished"]
"""``stopped``: early, by the search; ``unfinished``: cut off, to be gone on with."""


@dataclass(frozen=True)
class Trial:
    """One configuration and how it did.

    Attributes
    ----------
    name
        Its folder's.
    point
        A value for each key of the space.
    epochs
        How many are done.
    objective
        After the last of them; higher is better. None before the first.
    loss
        Of training in the last of them; None where there is none.
    seconds
        Of all of them, with the objective.
    reason
        Why it has failed, or was left unfinished when its process died, in one line.
    """

    name: str
    point: dict[str, Any]
    status: Status
    epochs: int = 0
    objective: float | None = None
    loss: float | None = None
    seconds: float = 0.0
    reason: str = ""


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The finished trial with the highest objective, the first of equals; None if none is."""
    finished = [t for t in trials if t.status == "finished" and t.objective is not None]
    return max(finished, key=lambda trial: trial.objective or 0.0, default=None)


def trials_csv(trials: Sequence[Trial]) -> str:
    """A row a trial in the given order; lists and sections in a cell are JSON."""
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
    """The best finished trials as Markdown, and how many there were of which state."""
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
    """A value of a point for people: four digits of a number."""
    return f"{value:.4g}" if isinstance(value, float) else as_text(value)


def as_text(value: Any) -> str:
    """A value of a point in one cell."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and "name" in value:  # a model or a teacher
        return str(value["name"])
    return json.dumps(value)
