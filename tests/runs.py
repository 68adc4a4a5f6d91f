"""Trained runs compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

WEIGHTS = Path("model") / "model.safetensors"


def logged(run: Path, key: str) -> list[Any]:
    """The value of a key in each line of the metrics log."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)[key] for line in lines]


def assert_same_result(run: Path, reference: Path) -> None:
    """Weights, BatchNorm statistics, thresholds and the course of the loss, bit for bit."""
    assert (run / WEIGHTS).read_bytes() == (reference / WEIGHTS).read_bytes()
    assert logged(run, "epoch") == [1, 2]
    assert logged(run, "loss") == logged(reference, "loss")
    described = [
        json.loads((r / "model" / "model.json").read_text(encoding="utf-8"))
        for r in (run, reference)
    ]
    assert described[0] == described[1]


def assert_seconds_are_those_of_all_epochs(run: Path) -> None:
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    seconds = sum(logged(run, "seconds"))
    assert record["training_seconds"] == pytest.approx(seconds, abs=1e-3)
    assert record["training_seconds"] > 0
