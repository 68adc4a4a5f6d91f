"""``medrd predict``: scans or pictures in, anomaly maps on their own grids out.

What is common to both: the loop over inputs, what is skipped, and what a record holds. What
differs is behind :class:`medrd.workflows.medium.Medium`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medrd.data.cache import file_hash, source_hash
from medrd.data.domain import CODE_VERSION
from medrd.errors import InputError
from medrd.volumes import write_json
from medrd.workflows.device import choose_execution
from medrd.workflows.infer import Prediction, Predictor
from medrd.workflows.inputs import Case
from medrd.workflows.interrupt import InterruptedRunError, stop_on_signals
from medrd.workflows.medium import Medium, Opened, medium_of
from medrd.workflows.model_folder import Model, load_model
from medrd.workflows.outputs import MAKER, check_targets, make_folder, remove, write_errors
from medrd.workflows.progress import progress
from medrd.workflows.read_ahead import read_ahead
from medrd.workflows.report import Report, write_report
from medrd.workflows.versions import versions

logger = logging.getLogger("medrd.predict")


@dataclass
class PredictReport:
    """What happened to each input.

    Attributes
    ----------
    done, skipped
        Paths of the ``<stem>.json`` files: written now, or valid from an earlier run.
    errors
        Inputs that failed.
    page
        The report, if one was asked for.
    """

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)
    page: Report | None = None


@dataclass(frozen=True, eq=False)
class _Task:
    """What is the same for all inputs of a call."""

    model: Model
    medium: Medium
    predictor: Predictor
    out: Path
    identity: dict[str, str]
    picture: bool

    def record(self, case: Case) -> Path:
        return case.output(self.out, self.medium.files.record)


@dataclass(frozen=True, eq=False)
class _Loaded:
    case: Case
    opened: Opened
    hashes: dict[str, str]


def predict(
    model: str | Path | Model,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    frame: int | None = None,
    max_voxels: int | None = None,
    device: str = "auto",
    picture: bool = True,
    report: bool = False,
) -> PredictReport:
    """Predict scans or pictures one at a time, reading the next while one computes.

    Memory does not grow with their number. One that fails is reported in the result and in
    ``errors.json``, and the others are done.

    Parameters
    ----------
    model
        A run folder, its ``model/``, or a loaded model.
    inputs
        NIfTI files, BraTS subject folders, folders of those; of a model of pictures, picture
        files and folders of those.
    overwrite
        Predict again what is already there; else an input is skipped if the hashes of its
        files, of the model and of its outputs are those on record.
    frame
        Of 4D scans, from 0.
    max_voxels
        Budget of a volume or a picture; default: the model's config.
    picture
        Also write an overlay as PNG.
    report
        Also write ``report.html``, of all that lies in ``out``; see :func:`medrd.write_report`.

    Raises
    ------
    MedrdError
        Unusable model, nothing to do, two inputs with one output, or a frame of a picture.
    InterruptedRunError
        On SIGTERM or Ctrl-C, after the input under way.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    cases, errors = medium_of(loaded.recipe).find([Path(p) for p in inputs], frame=frame)
    for problem in errors:
        logger.error("%s", problem)
    return predict_cases(
        loaded,
        cases,
        Path(out),
        errors=errors,
        overwrite=overwrite,
        max_voxels=max_voxels,
        device=device,
        picture=picture,
        report=report,
    )


def predict_cases(
    loaded: Model,
    cases: Sequence[Case],
    out: Path,
    *,
    errors: Sequence[InputError] = (),
    overwrite: bool = False,
    max_voxels: int | None = None,
    device: str = "auto",
    picture: bool = True,
    report: bool = False,
) -> PredictReport:
    """:func:`predict` on what is found already; ``errors`` are those of the search."""
    result = PredictReport(errors=list(errors))
    medium = medium_of(loaded.recipe)
    noun = medium.files.noun
    execution = choose_execution(device, loaded.config.train.precision)
    # Maps differ in their last bits between precisions and devices, so these belong to
    # what a finished input is compared by.
    identity = {
        "model": loaded.hash,
        "precision": execution.precision,
        "device": execution.device.type,
        "code": str(CODE_VERSION),
    }
    predictor = Predictor(loaded.detector, loaded.scoring(), execution)
    task = _Task(loaded, medium, predictor, out, identity, picture)
    budget = max_voxels or loaded.config.data.budget
    inputs_given = {path.resolve() for case in cases for path in case.subject.files}

    def read(case: Case) -> _Loaded | None:
        """The case's slices; None if it is done already."""
        hashes = {c: source_hash(s) for c, s in case.subject.images.items()}
        if not overwrite and _is_done(task.record(case), hashes, identity):
            return None
        check_targets(case, out, inputs_given, medium.files, is_own_map=medium.is_own_map)
        return _Loaded(case, medium.read(case, budget=budget), hashes)

    try:
        with stop_on_signals() as stop, progress("predicting", len(cases)) as advance:
            for number, (case, item) in enumerate(read_ahead(cases, read), start=1):
                try:
                    if isinstance(item, InputError):
                        raise item
                    if item is None:
                        result.skipped.append(task.record(case))
                        advance(note=f"{case.subject.id}: already there")
                    else:
                        score = _write_case(item, task)
                        result.done.append(task.record(case))
                        advance(note=f"{case.subject.id}: score {score:.3f}")
                except InputError as error:
                    logger.error("%s", error)
                    result.errors.append(error)
                    advance(note=f"{case.subject.id}: failed")
                if stop and number < len(cases):
                    raise InterruptedRunError(
                        f"stopped after {case.subject.id}; finished {noun}s are kept. Run the "
                        "same command again to go on."
                    )
    finally:
        write_errors(out, result.errors)
    if report and (result.done or result.skipped):
        result.page = write_report(out)
    return result


def _write_case(item: _Loaded, task: _Task) -> float:
    """Predict and write one input; its JSON comes last, so its presence means finished.

    Returns its score.
    """
    case, opened, files = item.case, item.opened, task.medium.files
    prediction = task.predictor.on_grid(opened.prepared)
    calibration = task.model.calibration
    threshold = calibration.threshold if calibration else None
    paths = {"map": case.output(task.out, files.map)}
    make_folder(paths["map"].parent)
    # What this model or call does not write must not stay behind from an earlier one.
    for ending in (files.record, files.mask, files.overlay):
        remove(case.output(task.out, ending))
    opened.write_map(
        paths["map"],
        prediction.grid_map,
        description=f"{MAKER} anomaly score, model {task.model.hash[:12]}",
        threshold=threshold,
    )
    mask = None
    if threshold is not None:
        mask = anomaly_mask(prediction, opened.prepared.scored(), threshold)
        paths["mask"] = case.output(task.out, files.mask)
        opened.write_mask(paths["mask"], mask)
    if task.picture:
        paths["picture"] = case.output(task.out, files.overlay)
        opened.write_overlay(
            paths["picture"], prediction.grid_map, threshold=threshold, title=case.subject.id
        )
    outputs = {name: {"file": path.name, "sha256": file_hash(path)} for name, path in paths.items()}
    write_json(
        task.record(case),
        {
            "subject": case.subject.id,
            "inputs": {c: str(s.path) for c, s in case.subject.images.items()},
            "frame": next(iter(case.subject.images.values())).frame,
            "label": str(case.subject.label.path) if case.subject.label else None,
            **opened.describe(prediction, mask, calibration),
            "warnings": list(opened.prepared.warnings),
            "model": {"name": task.model.config.model.name, "hash": task.model.hash},
            "versions": versions(),
            "notice": task.medium.notice,
            "outputs": outputs,
            "identity": {**task.identity, "inputs": item.hashes},
        },
    )
    return prediction.scan_score


def anomaly_mask(
    prediction: Prediction, region: NDArray[np.bool_], threshold: float
) -> NDArray[np.bool_]:
    """Where the scored region's score is at least the threshold: bool on the input's grid."""
    return (prediction.grid_map >= threshold) & region


def _is_done(path: Path, hashes: dict[str, str], identity: dict[str, str]) -> bool:
    """Whether the JSON on record is of these inputs and this model, and its files are whole."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record["identity"] == {**identity, "inputs": hashes} and all(
            file_hash(path.parent / entry["file"]) == entry["sha256"]
            for entry in record["outputs"].values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError):
        return False
