"""Progress bars in a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

logger = logging.getLogger("medrd")

Advance = Callable[..., None]
"""``advance(n=1, note="")``: n more items are done; the note is shown beside the bar."""


@contextmanager
def progress(label: str, total: int, *, done: int = 0) -> Iterator[Advance]:
    """Show a bar on standard error while the block runs; without a terminal, log one line.

    Nothing is shown if there is nothing to do, or if the logger's level is above INFO
    (``--quiet``).
    """
    console = Console(stderr=True)
    shown = logger.isEnabledFor(logging.INFO)
    if not console.is_terminal or not shown or not total:
        if total:
            logger.info("%s (%d)", label, total)
        yield _ignore
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total, completed=done, note="")

        def advance(n: int = 1, note: str = "") -> None:
            bar.advance(task, n)
            if note:
                bar.update(task, note=note)

        yield advance


def _ignore(n: int = 1, note: str = "") -> None:
    pass
