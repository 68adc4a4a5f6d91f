"""Outputs of ``medrd evaluate`` other than ``metrics.json``: units and example cases."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.data.cases import Case
from medrd.data.subject import Subject
from medrd.errors import FileFormatError
from medrd.files import atomic_path
from medrd.metrics import Units
from medrd.prediction.options import PredictOptions
from medrd.prediction.predict import predict_cases
from medrd.run.model_folder import Model

CASES_NAME = "cases"
"""Folder with the predictions of a few test subjects."""

FROC_NAME = "froc.json"
"""File with detected lesions and false positives at multiples of the calibrated threshold."""

SHOWN_CASES = 3
"""Number of best cases in a report, and of worst cases."""


def save_units(path: Path, units: Units) -> None:
    """Write a category's units atomically, as plain arrays without pickles."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        arrays: dict[str, Any] = units.to_arrays()
        np.savez_compressed(file, **arrays)


def load_units(path: Path) -> Units:
    """Read units that :func:`save_units` wrote. Raises FileFormatError."""
    arrays = read_arrays(path)
    try:
        return Units.from_arrays(arrays)
    except (KeyError, ValueError) as error:
        raise _damaged(path, error) from None


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of an ``.npz`` file. Raises FileFormatError."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> FileFormatError:
    return FileFormatError(
        path,
        expected="arrays that medrd evaluate wrote",
        found=f"a file that cannot be read ({error})",
        remedy="Remove the file and evaluate again.",
    )


def choose_cases(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Choose the subjects with the highest and the lowest Dice.

    If there is no Dice, as for pictures, choose the anomalous ones with the lowest scores and the
    normal ones with the highest.
    """
    outlined = [row for row in rows if row.get("dice") is not None]
    if outlined:
        ranked = sorted(outlined, key=lambda row: -row["dice"])
        chosen = [*ranked[:SHOWN_CASES], *ranked[SHOWN_CASES:][-SHOWN_CASES:]]
    else:
        ranked = sorted(rows, key=lambda row: row["scan_score"])
        missed = [row for row in ranked if row.get("lesion_voxels")]
        alarms = [row for row in ranked if not row.get("lesion_voxels")]
        chosen = [*missed[:SHOWN_CASES], *alarms[-SHOWN_CASES:]]
    return [row["subject"] for row in chosen]


def predict_some(
    model: Model,
    subjects: Sequence[Subject],
    rows: Sequence[Mapping[str, Any]],
    out: Path,
    device: str,
) -> None:
    """Predict the best and worst subjects into ``out``; ``rows`` are those of subjects.json."""
    by_id = {subject.id: subject for subject in subjects}
    cases = [Case(by_id[name], Path()) for name in choose_cases(rows)]
    predict_cases(model, cases, out, PredictOptions(device=device))
