"""``errors.json`` of ``medrd predict``: what failed stays listed until it is predicted, or gone."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medrd.errors import InputError
from medrd.run.cases import ERRORS_NAME


def all_failures(
    out: Path, failed: Sequence[tuple[Path, InputError]], dealt_with: Sequence[Path]
) -> list[dict[str, Any]]:
    """The entries that ``errors.json`` in ``out`` is to have.

    First those that are there, of inputs that are still there. An earlier call wrote them: what it
    said of this call's inputs, or of a folder that holds one, is said anew or no longer true.

    Parameters
    ----------
    failed
        Inputs of this call that failed, and why.
    dealt_with
        Files of this call's inputs, whatever became of them.
    """
    now = [Path(os.path.realpath(path)) for path in (*dealt_with, *(path for path, _ in failed))]
    return [
        *(e for path, e in _earlier(out) if os.path.exists(path) and not _is_of(path, now)),
        # Absolute: who reads it again may stand elsewhere.
        *({**error.to_dict(), "input": os.path.abspath(path)} for path, error in failed),
    ]


def _earlier(out: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Entries of an earlier call, by their input's real path; not what a report could not show."""
    try:
        listed = json.loads((out / ERRORS_NAME).read_text(encoding="utf-8"))
        return [(Path(os.path.realpath(e["input"])), e) for e in listed if "input" in e]
    except (OSError, ValueError, TypeError):
        return []


def _is_of(path: Path, inputs: Sequence[Path]) -> bool:
    """Whether it is one of them, a folder that holds one, or a file of a series."""
    return any(given.is_relative_to(path) or given == path.parent for given in inputs)
