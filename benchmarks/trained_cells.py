"""Shared parts of the benchmarks that use the trained cells of a comparison."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from medrd.comparison.compare import plan
from medrd.comparison.config import Cell, load_compare
from medrd.data.subject import Subject
from medrd.files import write_json
from medrd.run.cohort import load_cohort
from medrd.run.device import choose_execution
from medrd.run.model_folder import Model, load_model
from medrd.run.predictor import Predictor


class Kept:
    """Measurements by name, kept in a JSON file so that they are not repeated."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def get(self, key: str, measure: Callable[[], Any]) -> Any:
        """The measurement of this name, from the file or made now."""
        if key not in self._found:
            self._found[key] = measure()
            write_json(self._path, self._found)
            print(key, self._found[key], flush=True)
        return self._found[key]


@dataclass(frozen=True, eq=False)
class Trained:
    """A cell's trained model, and its test subjects."""

    cell: Cell
    model: Model
    predictor: Predictor
    subjects: Sequence[Subject]

    @property
    def threshold(self) -> float | None:
        """The calibrated threshold, or None."""
        return self.model.calibration.threshold if self.model.calibration else None


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser with the options that all these benchmarks share."""
    result = argparse.ArgumentParser(description=doc.splitlines()[0])
    result.add_argument("comparison", type=Path)
    result.add_argument("--models", nargs="+", required=True)
    result.add_argument("--seeds", type=int, nargs="+", default=[0])
    result.add_argument("--cells", type=Path, required=True, help="the comparison's folder")
    result.add_argument("--out", type=Path, required=True, help="JSON of what has been measured")
    result.add_argument("--set", dest="overrides", action="append", default=[])
    return result


def brain_cells(args: argparse.Namespace, model: str) -> list[Cell]:
    """A model's cells on scans, for the chosen seeds."""
    config = load_compare(args.comparison, args.overrides)
    return [
        cell
        for cell in plan(config, args.cells)
        if cell.model == model and cell.domain == "brain" and cell.seed in args.seeds
    ]


def load(cell: Cell, folder: Path) -> Trained:
    """A trained cell of the comparison in ``folder``."""
    model = load_model(folder / cell.folder / "model")
    execution = choose_execution("auto", model.config.train.precision)
    predictor = Predictor(model.detector, model.scoring(), execution)
    return Trained(cell, model, predictor, load_cohort(cell.config).side("test"))


def averages(rows: Sequence[dict[str, float | None]]) -> dict[str, float]:
    """The mean of each metric over the rows in which it is defined."""
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    return {
        key: mean(value for value in values if value is not None) for key, values in columns.items()
    }
