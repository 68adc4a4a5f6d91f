"""The best and the worst of an evaluation, predicted once more to be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medrd.data.cases import Case
from medrd.data.layouts import Subject
from medrd.prediction.options import PredictOptions
from medrd.prediction.predict import predict_cases
from medrd.run.model_folder import Model

SHOWN_CASES = 3
"""Best ones, and as many of the worst, that a report shows."""


def choose_cases(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The subjects with the highest and the lowest Dice; where there is none, as of pictures,
    the anomalous ones with the lowest score and the normal ones with the highest."""
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
    """Maps of the chosen subjects into ``out``; ``rows`` are those of ``subjects.json``."""
    by_id = {subject.id: subject for subject in subjects}
    cases = [Case(by_id[name], Path()) for name in choose_cases(rows)]
    predict_cases(model, cases, out, PredictOptions(device=device))
