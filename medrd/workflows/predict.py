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

from medrd.data.bids import map_sidecar, mask_sidecar
from medrd.data.cache import file_hash, source_hash
from medrd.data.domain import CODE_VERSION
from medrd.errors import InputError
from medrd.volumes import write_json
from medrd.workflows.bids_out import describe_derivative
from medrd.workflows.device import choose_execution
from medrd.workflows.guard import oddities, refuse
from medrd.workflows.infer import Prediction, Predictor
from medrd.workflows.inputs import Case
from medrd.workflows.interrupt import InterruptedRunError, stop_on_signals
from medrd.workflows.medium import Medium, Opened, medium_of
from medrd.workflows.model_folder import Model, load_model
from medrd.workflows.outputs import (
    BIDS_MASK_SIDECAR,
    MAKER,
    check_targets,
    files_of,
    make_folder,
    remove,
    write_errors,
)
from medrd.workflows.progress import progress
from medrd.workflows.read_ahead import read_ahead
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
    """

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)


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
        return case.output(self.out, files_of(case, self.medium.files).record)


@dataclass(frozen=True, eq=False)
class _Loaded:
    case: Case
    opened: Opened
    hashes: dict[str, str]
    odd: tuple[str, ...]


def predict(
    model: str | Path | Model,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    frame: int | None = None,
    series: str | None = None,
    max_voxels: int | None = None,
    device: str = "auto",
    strict: bool = False,
    picture: bool = True,
) -> PredictReport:
    """Predict scans or pictures one at a time, reading the next while one computes.

    Memory does not grow with their number. One that fails is reported in the result and in
    ``errors.json``, and the others are done.

    Parameters
    ----------
    model
        A run folder, its ``model/``, or a loaded model.
    inputs
        NIfTI files, BraTS subject folders, BIDS datasets (the results are then a BIDS
        derivative), DICOM series (a folder, or one of its files), folders of those; of a model
        of pictures, picture files and folders of those.
    overwrite
        Predict again what is already there; else an input is skipped if the hashes of its
        files, of the model and of its outputs are those on record.
    frame
        Of 4D scans, from 0.
    series
        Series Instance UID, for DICOM folders that hold several.
    max_voxels
        Budget of a volume or a picture; default: the model's config.
    strict
        An input unlike the model's training scans fails; else it is warned of, in the log and
        in its JSON (``unlike_training``).
    picture
        Also write an overlay as PNG.

    Raises
    ------
    MedrdError
        Unusable model, nothing to do, two inputs with one output, or a frame of a picture.
    InterruptedRunError
        On SIGTERM or Ctrl-C, after the input under way.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    out = Path(out)
    medium = medium_of(loaded.recipe)
    noun = medium.files.noun
    cases, errors = medium.find([Path(p) for p in inputs], frame=frame, series=series)
    report = PredictReport(errors=errors)
    for problem in errors:
        logger.error("%s", problem)
    describe_derivative(cases, out)
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
    inputs_given = {s.path.resolve() for case in cases for s in case.subject.images.values()}

    def read(case: Case) -> _Loaded | None:
        """The case's slices; None if it is done already."""
        hashes = {c: source_hash(s) for c, s in case.subject.images.items()}
        if not overwrite and _is_done(task.record(case), hashes, identity, strict=strict):
            return None
        files = files_of(case, medium.files)
        check_targets(case, out, inputs_given, files, is_own_map=medium.is_own_map)
        opened = medium.read(case, budget=budget)
        odd = oddities(opened.prepared, loaded, case.subject)
        if strict:
            refuse(case.first_file, odd)
        return _Loaded(case, opened, hashes, odd)

    try:
        with stop_on_signals() as stop, progress("predicting", len(cases)) as advance:
            for number, (case, item) in enumerate(read_ahead(cases, read), start=1):
                try:
                    if isinstance(item, InputError):
                        raise item
                    if item is None:
                        report.skipped.append(task.record(case))
                        advance(note=f"{case.subject.id}: already there")
                    else:
                        for text in item.odd:
                            logger.warning(
                                "%s is unlike the training scans: %s", case.first_file, text
                            )
                        score = _write_case(item, task)
                        report.done.append(task.record(case))
                        advance(note=f"{case.subject.id}: score {score:.3f}")
                except InputError as error:
                    logger.error("%s", error)
                    report.errors.append(error)
                    advance(note=f"{case.subject.id}: failed")
                if stop and number < len(cases):
                    raise InterruptedRunError(
                        f"stopped after {case.subject.id}; finished {noun}s are kept. Run the "
                        "same command again to go on."
                    )
    finally:
        write_errors(out, report.errors)
    return report


def _write_case(item: _Loaded, task: _Task) -> float:
    """Predict and write one input; its JSON comes last, so its presence means finished.

    Returns its score.
    """
    case, opened, origin = item.case, item.opened, item.case.origin
    files = files_of(case, task.medium.files)
    prediction = task.predictor.on_grid(opened.prepared)
    calibration = task.model.calibration
    threshold = calibration.threshold if calibration else None
    paths = {"map": case.output(task.out, files.map)}
    make_folder(paths["map"].parent)
    # What this model or call does not write must not stay behind from an earlier one.
    stale = (files.record, files.mask, files.overlay, *([BIDS_MASK_SIDECAR] if origin else []))
    for ending in stale:
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
        if origin:
            sidecar = case.output(task.out, BIDS_MASK_SIDECAR)
            write_json(sidecar, mask_sidecar(origin, threshold))
    if task.picture:
        paths["picture"] = case.output(task.out, files.overlay)
        opened.write_overlay(
            paths["picture"], prediction.grid_map, threshold=threshold, title=case.subject.id
        )
    outputs = {name: {"file": path.name, "sha256": file_hash(path)} for name, path in paths.items()}
    write_json(
        task.record(case),
        {
            **(map_sidecar(origin) if origin else {}),
            "subject": case.subject.id,
            "inputs": {c: str(s.path) for c, s in case.subject.images.items()},
            **opened.describe(prediction, mask, calibration),
            "warnings": list(opened.prepared.warnings),
            "unlike_training": list(item.odd),
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


def _is_done(path: Path, hashes: dict[str, str], identity: dict[str, str], *, strict: bool) -> bool:
    """Whether the JSON on record is of these inputs and this model, and its files are whole.

    Where what is unlike the training scans is to fail, a result of such a scan does not count.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if strict and record["unlike_training"]:
            return False
        return record["identity"] == {**identity, "inputs": hashes} and all(
            file_hash(path.parent / entry["file"]) == entry["sha256"]
            for entry in record["outputs"].values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError):
        return False
