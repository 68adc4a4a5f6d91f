"""A small search, and a trial of it without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medrd.run.cohort import Cohort
from medrd.tuning.config import TuneConfig, make_tune
from medrd.tuning.folder import open_search
from medrd.tuning.space import Point
from medrd.tuning.trial import TrialMetrics, run_trial


def make_search_raw(tiny_raw: dict[str, Any]) -> dict[str, Any]:
    """A search over a denoising autoencoder that trains within a second."""
    model = {"name": "dae", "base": 4, "depth": 1}
    small = tiny_raw["recipe"] | {"size": 32}
    return {
        "config": tiny_raw | {"model": model, "recipe": small},
        "space": {
            "model.lr": {"kind": "log_uniform", "low": 1e-4, "high": 1e-2},
            "model.median": {"kind": "choice", "values": [1, 5], "unit": "px"},
        },
        "objective": {"copies": 1, "max_slices": 8},
    }


def begin(raw: dict[str, Any], out: Path, *, resume: bool = False) -> tuple[TuneConfig, Cohort]:
    out.mkdir(parents=True, exist_ok=True)
    return open_search(make_tune(raw), out, resume=resume)


POINT = {"model.lr": 0.002, "model.median": 1}


def run_point(raw: dict[str, Any], out: Path, point: Point = POINT) -> list[TrialMetrics]:
    """Run a trial of a search, or continue it, in the folder ``trials/one``; its reports."""
    config, cohort = begin(raw, out, resume=True)
    reports: list[TrialMetrics] = []
    run_trial(config, cohort.split.hash, point, out / TRIAL, reports.append)
    return reports


TRIAL = Path("trials") / "one"
