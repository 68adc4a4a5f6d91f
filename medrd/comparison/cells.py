"""One cell of a comparison: an ordinary run with its evaluation, or its error."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrd.comparison.comparison import CellResult
from medrd.comparison.config import Cell, Test
from medrd.comparison.inputs import INPUTS
from medrd.errors import FileFormatError, MedrdError
from medrd.evaluation.evaluate import evaluate
from medrd.evaluation.outputs import load_units
from medrd.files import read_json, write_json
from medrd.metrics import Units
from medrd.metrics.columns import KEYS
from medrd.run.folder_lock import lock_folder
from medrd.run.outputs import make_folder, remove
from medrd.run.signals import InterruptedRunError
from medrd.training.train import train

logger = logging.getLogger("medrd.compare")

_NEEDED = {*KEYS, "complete", "counts", "images_per_s"}
"""Keys of ``metrics.json`` without which a cell is evaluated again."""


@dataclass(frozen=True, eq=False)
class Finished:
    """A cell's result, and by category what a bootstrap needs from it."""

    result: CellResult
    units: dict[str, Units]


@dataclass(frozen=True)
class CellWork:
    """Train and evaluate each cell; see :class:`medrd.runner.runner.Work`.

    Attributes
    ----------
    out
        The comparison's folder.
    inputs
        Folder of each test -> subject or picture id -> hash of the files that the cell reads.
    cells
        All cells of the comparison.
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

    def finish(self, cell: Cell, /) -> list[Finished]:
        """Run a cell with its folder locked."""
        folder = self.out / cell.folder
        make_folder(folder)
        # A process that Ray believes dead may hold the lock a moment longer.
        with lock_folder(folder, "process", wait=True):
            return run_cell(cell, self.out, self.inputs)

    def name(self, cell: Cell, /) -> str:
        """Model, data set and seed."""
        return cell.name

    def lost(self, cell: Cell, reason: str, /) -> list[Finished]:
        """Record the cell as failed."""
        return [failed(cell, test, self.out, reason, {"error": reason}) for test in cell.tests]


def run_cell(cell: Cell, out: Path, inputs: Mapping[Path, Mapping[str, str]]) -> list[Finished]:
    """Train, calibrate and evaluate one cell, or read its results if it is done.

    Any exception, even a bug in one model, is recorded in ``seedN.error.json`` next to the
    cell's folder, so that the other cells still run; what fails on a further data set, in
    ``also_test/NAME.error.json`` in it.

    Parameters
    ----------
    inputs
        Folder of each test -> hashes of its files; stored with the results.

    Returns
    -------
    list
        A result for each of the cell's tests.
    """
    logger.info("%s started", cell.name)
    own, *others = cell.tests
    first = _run_test(cell, own, out, inputs, training=True)
    if error := first.result.error:  # most likely there is no model
        return [first, *(Finished(_result(cell, test, error=error), {}) for test in others)]
    return [first, *(_run_test(cell, test, out, inputs) for test in others)]


def _run_test(
    cell: Cell,
    test: Test,
    out: Path,
    inputs: Mapping[Path, Mapping[str, str]],
    *,
    training: bool = False,
) -> Finished:
    """Evaluate the cell's model on one data set, or read the results if it is done."""
    run, folder = out / cell.folder, out / test.folder
    remove(_error_path(folder))
    try:
        if training:
            train(cell.config, run, resume=True)
        finished = _read(cell, test, out)
        if finished is None or not finished.result.complete:  # inputs may be repaired by now
            evaluate(run, test.config, folder / "evaluation", baseline=False)
            finished = _read(cell, test, out)
            assert finished is not None  # it has just been written
        write_json(folder / INPUTS, dict(inputs[test.folder]))
        return finished
    except InterruptedRunError as stopped:
        raise InterruptedRunError(
            f"stopped in {cell.name}; saved. Run the same comparison again to continue."
        ) from stopped
    except MedrdError as problem:
        return failed(cell, test, out, str(problem), problem.to_dict())
    except Exception as problem:  # a bug too: it costs this cell, not the others
        text = f"{type(problem).__name__}: {problem}"
        details = {"error": text, "traceback": traceback.format_exc()}
        return failed(cell, test, out, text, details)


def failed(cell: Cell, test: Test, out: Path, text: str, problem: dict[str, Any]) -> Finished:
    """Log an error, write it beside the test's folder, and return a failed result."""
    name = cell.name if test.data_set == cell.data_set else f"{cell.name}, on {test.data_set}"
    logger.error("%s failed: %s", name, text)
    write_json(_error_path(out / test.folder), {"cell": name, **problem})
    return Finished(_result(cell, test, error=text), {})


def _error_path(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.error.json"


def _read(cell: Cell, test: Test, out: Path) -> Finished | None:
    """The results in the test's folder; None if they are missing or damaged."""
    evaluation = out / test.folder / "evaluation"
    metrics = read_json(evaluation / "metrics.json")
    if not isinstance(metrics, dict) or not metrics.keys() >= _NEEDED:
        return None
    try:
        units = {
            f"{cell.category or ''}/{path.stem}": load_units(path)
            for path in sorted((evaluation / "units").glob("*.npz"))
        }
    except FileFormatError:
        return None
    result = _result(cell, test, metrics=metrics, facts=_facts(out / cell.folder, metrics))
    return Finished(result, units) if units else None


def _facts(folder: Path, metrics: dict[str, Any]) -> dict[str, float | int | None]:
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    parameters = run["parameters"]
    # Runs from before 2026-11-22 have no "kept": prediction kept all parameters then.
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
    test: Test,
    *,
    metrics: dict[str, Any] | None = None,
    facts: dict[str, float | int | None] | None = None,
    error: str | None = None,
) -> CellResult:
    return CellResult(
        model=cell.model,
        data_set=test.data_set,
        domain=cell.domain,
        category=cell.category,
        seed=cell.seed,
        metrics={key: metrics[key] for key in KEYS} if metrics else None,
        complete=bool(metrics and metrics["complete"]),
        error=error,
        facts=facts or {},
        bounds=metrics.get("bounds", {}) if metrics else {},
    )
