"""``medrd predict``: scans in, anomaly maps on the scans' own grids out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.data.cache import file_hash, source_hash
from medrd.data.prepare import CODE_VERSION, PreparedVolume, prepare, read_channels
from medrd.errors import InputError
from medrd.metrics import lesion_table
from medrd.report.overlay import save_overlay
from medrd.volumes import Volume, write_json, write_nifti
from medrd.workflows.device import choose_execution
from medrd.workflows.infer import Prediction, Predictor
from medrd.workflows.inputs import Case, find_cases
from medrd.workflows.interrupt import InterruptedRunError, stop_on_signals
from medrd.workflows.model_folder import Model, load_model
from medrd.workflows.outputs import (
    JSON_ENDING,
    MAKER,
    MAP_ENDING,
    MASK_ENDING,
    PICTURE_ENDING,
    check_targets,
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
class _Loaded:
    case: Case
    volumes: Mapping[str, Volume]
    prepared: PreparedVolume
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
) -> PredictReport:
    """Predict scans one at a time, reading the next while one computes.

    Memory does not grow with the number of scans. A scan that fails is reported in the
    result and in ``errors.json``, and the others are done.

    Parameters
    ----------
    model
        A run folder, its ``model/``, or a loaded model.
    inputs
        NIfTI files, BraTS subject folders, folders of those.
    overwrite
        Predict again what is already there; else a scan is skipped if the hashes of its
        files, of the model and of its outputs are those on record.
    frame
        Of 4D files, from 0.
    max_voxels
        Budget of a volume; default: the model's config.
    picture
        Also write an overlay as PNG.

    Raises
    ------
    MedrdError
        Unusable model, nothing to do, or two inputs with one output.
    InterruptedRunError
        On SIGTERM or Ctrl-C, after the scan under way.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    out = Path(out)
    recipe = loaded.volume_recipe()
    cases, errors = find_cases([Path(p) for p in inputs], recipe, frame=frame)
    report = PredictReport(errors=errors)
    for problem in errors:
        logger.error("%s", problem)
    execution = choose_execution(device, loaded.config.train.precision)
    # Maps differ in their last bits between precisions and devices, so these belong to
    # what a finished scan is compared by.
    identity = {
        "model": loaded.hash,
        "precision": execution.precision,
        "device": execution.device.type,
        "code": str(CODE_VERSION),
    }
    predictor = Predictor(loaded.detector, loaded.scoring(), execution)
    budget = max_voxels or loaded.config.data.budget
    inputs_given = {s.path.resolve() for case in cases for s in case.subject.images.values()}

    def read(case: Case) -> _Loaded | None:
        """The case's slices; None if it is done already."""
        hashes = {c: source_hash(s) for c, s in case.subject.images.items()}
        if not overwrite and _is_done(case, out, hashes, identity):
            return None
        check_targets(case, out, inputs_given)
        volumes = read_channels(case.subject, recipe, max_voxels=budget)
        return _Loaded(case, volumes, prepare(volumes, recipe), hashes)

    try:
        with stop_on_signals() as stop, progress("predicting", len(cases)) as advance:
            for number, (case, item) in enumerate(read_ahead(cases, read), start=1):
                try:
                    if isinstance(item, InputError):
                        raise item
                    if item is None:
                        report.skipped.append(case.output(out, JSON_ENDING))
                        advance(note=f"{case.subject.id}: already there")
                    else:
                        score = _write_case(item, predictor, loaded, out, identity, picture)
                        report.done.append(case.output(out, JSON_ENDING))
                        advance(note=f"{case.subject.id}: score {score:.3f}")
                except InputError as error:
                    logger.error("%s", error)
                    report.errors.append(error)
                    advance(note=f"{case.subject.id}: failed")
                if stop and number < len(cases):
                    raise InterruptedRunError(
                        f"stopped after {case.subject.id}; finished scans are kept. Run the same "
                        "command again to go on."
                    )
    finally:
        write_errors(out, report.errors)
    return report


def _write_case(
    item: _Loaded,
    predictor: Predictor,
    model: Model,
    out: Path,
    identity: dict[str, str],
    picture: bool,
) -> float:
    """Predict and write one scan; its JSON comes last, so its presence means finished.

    Returns the scan's score.
    """
    case, first = item.case, next(iter(item.volumes.values()))
    prediction = predictor.on_grid(item.prepared)
    calibration = model.calibration
    paths = {"map": case.output(out, MAP_ENDING)}
    make_folder(paths["map"].parent)
    # What this model or call does not write must not stay behind from an earlier one.
    for ending in (JSON_ENDING, MASK_ENDING, PICTURE_ENDING):
        remove(case.output(out, ending))
    write_nifti(
        paths["map"],
        prediction.grid_map,
        first,
        dtype="float32",
        description=f"{MAKER} anomaly score, model {model.hash[:12]}",
        intent_name="anomaly score",
        cal_max=2 * calibration.threshold if calibration else None,
    )
    mask = None
    if calibration:
        region = item.prepared.scored()
        mask = anomaly_mask(prediction, region, calibration.threshold)
        paths["mask"] = case.output(out, MASK_ENDING)
        write_nifti(paths["mask"], mask, first, dtype="uint8", description="medrd calibrated mask")
    if picture:
        paths["picture"] = case.output(out, PICTURE_ENDING)
        save_overlay(
            paths["picture"],
            image=first.array,
            score_map=prediction.grid_map,
            affine=first.affine,
            threshold=calibration.threshold if calibration else None,
            title=case.subject.id,
        )
    result = _describe(item, prediction, mask, model)
    result["outputs"] = {
        name: {"file": path.name, "sha256": file_hash(path)} for name, path in paths.items()
    }
    result["identity"] = {**identity, "inputs": item.hashes}
    write_json(case.output(out, JSON_ENDING), result)
    return prediction.scan_score


def anomaly_mask(
    prediction: Prediction, region: NDArray[np.bool_], threshold: float
) -> NDArray[np.bool_]:
    """Voxels of the scored region whose score is at least the threshold: (X, Y, Z) bool."""
    return (prediction.grid_map >= threshold) & region


def _describe(
    item: _Loaded, prediction: Prediction, mask: NDArray[np.bool_] | None, model: Model
) -> dict[str, Any]:
    first, calibration = next(iter(item.volumes.values())), model.calibration
    score = prediction.scan_score
    described: dict[str, Any] = {
        "subject": item.case.subject.id,
        "inputs": {c: str(s.path) for c, s in item.case.subject.images.items()},
        "scan_score": score,
        "healthy_scans": calibration.scans if calibration else 0,
        "healthy_percentile": calibration.percentile(score) if calibration else None,
        "p_value": calibration.p_value(score) if calibration else None,
        "threshold": calibration.threshold if calibration else None,
        "threshold_target_fpr": calibration.target_fpr if calibration else None,
        "lesion_volume_mm3": None,
        "lesions": [],
        "slices_scored": len(prediction.image_scores),
        "slices": item.prepared.depth,
        "warnings": list(item.prepared.warnings),
        "model": {"name": model.config.model.name, "hash": model.hash},
        "versions": versions(),
        "notice": "Research use only; not a medical device.",
    }
    if mask is not None:
        described["lesion_volume_mm3"] = float(mask.sum() * first.voxel_volume_mm3)
        described["lesions"] = lesion_table(prediction.grid_map, mask, first.affine)
    return described


def _is_done(case: Case, out: Path, hashes: dict[str, str], identity: dict[str, str]) -> bool:
    """Whether the JSON on record is of these inputs and this model, and its files are whole."""
    path = case.output(out, JSON_ENDING)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record["identity"] == {**identity, "inputs": hashes} and all(
            file_hash(path.parent / entry["file"]) == entry["sha256"]
            for entry in record["outputs"].values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError):
        return False
