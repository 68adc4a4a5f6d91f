"""One cell of a comparison: an ordinary run with its evaluation, or what went wrong with it."""

from __future__ import annotations

import json
import logging
import traceback
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrd.comparison.comparison import CellResult
from medrd.comparison.config import Cell
from medrd.comparison.inputs import INPUTS
from medrd.errors import MedrdError
from medrd.evaluation.evaluate import evaluate
from medrd.evaluation.outputs import load_units
from medrd.files import write_json
from medrd.metrics import Units
from medrd.metrics.names import KEYS
from medrd.run.folder_lock import alone_in
from medrd.run.outputs import make_folder, remove
from medrd.run.signals import InterruptedRunError
from medrd.training.train import train

logger = logging.getLogger("medrd.compare")


@dataclass(frozen=True, eq=False)
class Finished:
    """A cell with its numbers, and what a bootstrap needs of it by category."""

    result: CellResult
    units: dict[str, Units]


@dataclass(frozen=True)
class CellWork:
    """What is done to each cell; see :class:`medrd.runner.runner.Work`.

    Attributes
    ----------
    out
        The comparison's folder.
    inputs
        Hashes of the files that a cell reads by subject or picture, by the cell's folder.
    cells
        All of them.
    """

    out: Path
    inputs: Mapping[Path, Mapping[str, str]]
    cells: tuple[Cell, ...]

    @property
    def devices(self) -> tuple[str, Collection[str]]:
        """The devices that cells are trained on."""
        return "train.device", {cell.config.train.device for cell in self.cells}

    def open(self) -> CellWork:
        """Nothing needs to be set up."""
        return self

    def read(self, cell: Cell, /) -> Cell:
        """Nothing is read ahead."""
        return cell

    def finish(self, cell: Cell, /) -> Finished:
        """Run a cell with its folder locked."""
        folder = self.out / cell.folder
        make_folder(folder)
        # A process that is taken for dead may need a moment to let go.
        with alone_in(folder, "process", wait=True):
            return run_cell(cell, self.out, self.inputs[cell.folder])

    def name(self, cell: Cell, /) -> str:
        """Model, data set and seed."""
        return cell.name

    def lost(self, cell: Cell, reason: str, /) -> Finished:
        """A failed cell, put on record."""
        return failed_cell(cell, self.out / cell.folder, reason, {"error": reason})


def run_cell(cell: Cell, out: Path, inputs: Mapping[str, str]) -> Finished:
    """Train, calibrate and evaluate one cell, or find that it is done.

    What goes wrong with it ends up in ``seedN.error.json`` beside it, whatever it is: a bug in
    one model must not cost the others their night.

    Parameters
    ----------
    inputs
        Hashes of the data set's files, kept with the results that were got from them.
    """
    folder = out / cell.folder
    logger.info("%s begins", cell.name)
    remove(folder.parent / f"{folder.name}.error.json")
    try:
        train(cell.config, folder, resume=True)
        finished = _read(cell, folder)
        if finished is None or not finished.result.complete:  # inputs may be mended by now
            evaluate(folder, cell.config, folder / "evaluation", baseline=False)
            finished = _read(cell, folder)
            assert finished is not None  # it has just been written
        write_json(folder / INPUTS, dict(inputs))
        return finished
    except InterruptedRunError as stopped:
        raise InterruptedRunError(
            f"stopped in {cell.name}; saved. Run the same comparison again to go on."
        ) from stopped
    except MedrdError as problem:
        return failed_cell(cell, folder, str(problem), problem.to_dict())
    except Exception as problem:
        text = f"{type(problem).__name__}: {problem}"
        return failed_cell(cell, folder, text, {"error": text, "traceback": traceback.format_exc()})


def failed_cell(cell: Cell, folder: Path, text: str, problem: dict[str, Any]) -> Finished:
    """Put on record what went wrong with a cell."""
    logger.error("%s failed: %s", cell.name, text)
    write_json(folder.parent / f"{folder.name}.error.json", {"cell": cell.name, **problem})
    return Finished(_result(cell, error=text), {})


def _read(cell: Cell, folder: Path) -> Finished | None:
    """The results on record; None where there are none, or damaged ones."""
    evaluation = folder / "evaluation"
    try:
        metrics = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
        units = {
            f"{cell.category or ''}/{path.stem}": load_units(path)
            for path in sorted((evaluation / "units").glob("*.npz"))
        }
        result = _result(cell, metrics=metrics, facts=_facts(folder, metrics))
        return Finished(result, units) if units else None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def _facts(folder: Path, metrics: dict[str, Any]) -> dict[str, float | int | None]:
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    parameters = run["parameters"]
    # Runs of before 2026-11-22 do not say what prediction keeps; theirs was all.
    kept = parameters.get("kept", parameters["all"]) + parameters.get("remembered", 0)
    return {
        "training_seconds": run["training_seconds"],
        "images_per_s": metrics["images_per_s"],
        "parameters": kept,
        "trained_parameters": parameters["trained"],
        "model_mib": round((folder / "model" / "model.safetensors").stat().st_size / 2**20, 1),
        "test_units": metrics["counts"]["subjects"],
        "inputs_left_out": len(run["inputs_left_out"]),
    }


def _result(
    cell: Cell,
    *,
    metrics: dict[str, Any] | None = None,
    facts: dict[str, float | int | None] | None = None,
    error: str | None = None,
) -> CellResult:
    return CellResult(
        model=cell.model,
        data_set=cell.data_set,
        domain=cell.domain,
        category=cell.category,
        seed=cell.seed,
        metrics={key: metrics[key] for key in KEYS} if metrics else None,
        complete=bool(metrics and metrics["complete"]),
        error=error,
        facts=facts or {},
        bounds=metrics.get("bounds", {}) if metrics else {},
    )
