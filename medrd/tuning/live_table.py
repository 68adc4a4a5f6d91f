"""Progress of a search: a live table in a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from medrd.tuning.trials import Trial, best_of, short

logger = logging.getLogger("medrd.tune")

_ROWS = 20  # newest trials that are shown, in addition to the best one


class Show(Protocol):
    """Shows the current state of all trials; ``changed`` is the one with news."""

    def __call__(self, trials: Sequence[Trial], changed: Trial) -> None: ...


@contextmanager
def live_table(samples: int) -> Iterator[Show]:
    """Show trials on standard error while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal or not logger.isEnabledFor(logging.INFO):
        logged: dict[str, tuple[str, int]] = {}

        def log(trials: Sequence[Trial], changed: Trial) -> None:
            # Ray calls after a trial's last report, and again at its end.
            news = (changed.status, changed.epochs)
            if logged.get(changed.name) != news:
                logger.info("%s", line(trials, changed))
            logged[changed.name] = news

        yield log
        return
    with Live(console=console, refresh_per_second=2) as live:
        yield lambda trials, changed: live.update(table(trials, samples))


def line(trials: Sequence[Trial], changed: Trial) -> str:
    """One trial's news as a log line."""
    best = best_of(trials)
    parts = [f"trial {changed.name}: {_state(changed)}, epoch {changed.epochs}"]
    if changed.objective is not None:
        parts.append(f"objective {changed.objective:.4f}")
    if best is not None and best.objective is not None:
        parts.append(f"best {best.objective:.4f}")
    if changed.reason:
        parts.append(changed.reason)
    return ", ".join(parts)


def table(trials: Sequence[Trial], samples: int) -> Table:
    """The newest trials and the best one, which is marked."""
    best = best_of(trials)
    done = sum(trial.status != "unfinished" for trial in trials)
    shown = Table(title=f"{done} of {samples} trials done", title_justify="left")
    keys = list(trials[0].point) if trials else []
    for name in ("trial", "state", "epoch", "objective", *keys):
        shown.add_column(name, justify="left" if name in ("trial", "state") else "right")
    for trial in trials:
        if trial in trials[-_ROWS:] or trial is best:
            objective = "" if trial.objective is None else f"{trial.objective:.4f}"
            texts = [short(trial.point[key]) for key in keys]
            style = "bold" if trial is best else "red" if trial.status == "failed" else None
            cells = (trial.name, _state(trial), str(trial.epochs), objective, *texts)
            shown.add_row(*cells, style=style)
    return shown


def _state(trial: Trial) -> str:
    if trial.status != "unfinished":
        return trial.status
    return "died" if trial.reason else "running"
