"""Files that were found beside the inputs but not taken, with the reason."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

logger = logging.getLogger("medrd.data")

_SHOWN = 3
"""Number of files that one warning names."""


@cache
def _warn_once(text: str) -> None:
    logger.warning(text)


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not taken, and the reason in words."""

    path: Path
    reason: str


def log_left_out(others: Sequence[LeftOut], *, once: bool = False) -> None:
    """Warn once for each reason, and name the first few; ``--verbose`` names all of them.

    With ``once``, a process does not repeat a warning, since trials and cells share a data set.
    """
    warn = _warn_once if once else logger.warning
    by_reason: dict[str, list[Path]] = defaultdict(list)
    for other in others:
        by_reason[other.reason].append(other.path)
    for reason, paths in by_reason.items():
        named = ", ".join(map(str, paths[:_SHOWN])) + (", …" if len(paths) > _SHOWN else "")
        warn(f"{len(paths)} left out: {named} ({reason})")
        for path in paths[_SHOWN:]:
            logger.debug("left out: %s (%s)", path, reason)
