"""``medrd evaluate``: a model on test subjects, the numbers, and how they were got.

Maps are judged where they are delivered: on the scan's own grid against the label at its
original resolution. Memory does not grow with the number of scans: each volume's scores
are reduced to a sorted run on disk, and the exact metrics merge the runs piece by piece.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.config import Config, RecipeConfig, make_config
from medrd.data.layouts import Subject
from medrd.data.prepare import (
    Prepared,
    away_from,
    lesion_positions,
    prepare,
    read_channels,
    read_lesions,
    scan_hash,
)
from medrd.errors import ConfigError, InputError, LeakageError, MedrdError, MissingInputError
from medrd.metrics import (
    LesionCounts,
    Run,
    dice_at,
    image_metrics,
    lesion_counts,
    pixel_metrics,
    region_weights,
    summarise,
)
from medrd.volumes import Volume, write_json
from medrd.workflows.baseline import intensity_baseline
from medrd.workflows.calibrate import Calibration
from medrd.workflows.cohort import Cohort, load_cohort
from medrd.workflows.device import choose_execution
from medrd.workflows.infer import Predictor
from medrd.workflows.interrupt import InterruptedRunError, StopRequest, stop_on_signals
from medrd.workflows.model_folder import Model, load_model
from medrd.workflows.outputs import make_folder, remove, write_errors
from medrd.workflows.predict import anomaly_mask
from medrd.workflows.progress import progress
from medrd.workflows.read_ahead import read_ahead
from medrd.workflows.runs import run_on_disk, scratch_folder
from medrd.workflows.versions import versions

logger = logging.getLogger("medrd.evaluate")

MAX_FPR = 0.3
KEYS = (
    "image_auroc",
    "image_ap",
    "pixel_auroc",
    "pixel_ap",
    "pixel_dice_best",
    "pixel_dice",
    "aupro",
    "subject_dice",
    "lesion_sensitivity",
    "false_positives_per_scan",
)
"""The flat keys of ``metrics.json``; a metric whose class is empty is null."""


@dataclass
class Evaluation:
    """Numbers of a model on test subjects.

    Attributes
    ----------
    metrics
        By the names of :data:`KEYS`.
    subjects
        A row a subject: its Dice, lesions and scan score.
    counts
        Of subjects, images and voxels that the numbers stand on.
    errors
        Subjects that failed; they are in no number.
    """

    metrics: dict[str, float | None]
    subjects: list[dict[str, Any]]
    counts: dict[str, int]
    errors: list[InputError] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Contender:
    """What is evaluated: a detector at work, with its calibration and recipe."""

    name: str
    predictor: Predictor
    calibration: Calibration | None
    recipe: RecipeConfig


def evaluate(
    model: str | Path | Model,
    config: Config,
    out: str | Path,
    *,
    device: str = "auto",
    baseline: bool = True,
) -> Path:
    """Evaluate a model on the test side of a config's split.

    Parameters
    ----------
    model
        A run folder, its ``model/``, or a loaded model.
    config
        Names the data and the split; recipe, scoring and calibration are the model's own.
    out
        Gets ``metrics.json``, ``subjects.json`` and, if subjects failed, ``errors.json``.
    baseline
        Evaluate the intensity baseline on the same subjects beside it.

    Returns
    -------
    Path
        Of ``metrics.json``.

    Raises
    ------
    LeakageError
        A test subject was trained or calibrated on, by id or by the scan itself.
    MedrdError
        Unusable model, config or data; every test subject failed.
    InterruptedRunError
        On SIGTERM or Ctrl-C, between subjects.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    out = Path(out)
    config = _with_models_own(config, loaded)
    cohort = load_cohort(config)
    subjects = cohort.side("test")
    if not subjects:
        raise ConfigError(
            "data.split.test",
            expected="test subjects",
            found="none",
            remedy="Give some subjects to data.split.test.",
        )
    _refuse_seen_names(subjects, loaded)
    make_folder(out)
    for name in ("metrics.json", "subjects.json", "errors.json"):
        remove(out / name)  # of an earlier evaluation; they must not stand beside a failure
    execution = choose_execution(device, loaded.config.train.precision)
    predictor = Predictor(loaded.detector, loaded.scoring(), execution)
    contender = Contender(
        loaded.config.model.name, predictor, loaded.calibration, loaded.config.recipe
    )
    beside, baseline_protocol = None, None
    uncalibrated: list[MedrdError] = []
    with stop_on_signals() as stop:
        result = evaluate_subjects(contender, subjects, config, out, stop, unseen_by=loaded)
        if baseline and contender.name != "intensity":
            intensity = intensity_baseline(cohort, loaded, config, device, out)
            baseline_protocol = intensity.protocol
            rival = Contender(
                "intensity", intensity.predictor, intensity.calibration, intensity.recipe
            )
            beside = evaluate_subjects(rival, subjects, config, out, stop)
            uncalibrated = intensity.errors
    write_errors(out, [*result.errors, *uncalibrated])
    if not result.subjects:
        raise result.errors[0]
    metrics: dict[str, Any] = dict(result.metrics)
    if beside is not None:
        metrics["baseline"] = {"intensity": beside.metrics}
    metrics["counts"] = result.counts
    metrics["protocol"] = _protocol(cohort, loaded, config, result, execution.precision)
    metrics["protocol"]["baseline"] = baseline_protocol
    write_json(out / "subjects.json", result.subjects)
    write_json(out / "metrics.json", metrics)
    return out / "metrics.json"


def evaluate_subjects(
    contender: Contender,
    subjects: Sequence[Subject],
    config: Config,
    out: Path,
    stop: StopRequest,
    *,
    unseen_by: Model | None = None,
) -> Evaluation:
    """Predict subjects one at a time and gather what the metrics need.

    Parameters
    ----------
    unseen_by
        A model whose training and calibration scans must not be among them.

    Raises
    ------
    LeakageError
        A subject's scan is one that the model has seen, under whatever name.
    InterruptedRunError
        On a requested stop, between subjects.
    """
    threshold = contender.calibration.threshold if contender.calibration else None
    runs: list[Run] = []
    scores: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.bool_]] = []
    found: list[LesionCounts] = []
    rows: list[dict[str, Any]] = []
    errors: list[InputError] = []
    voxels = 0

    names = {content: name for name, content in _seen(unseen_by).items()} if unseen_by else {}

    def read(subject: Subject) -> tuple[Prepared, NDArray[np.bool_]]:
        volumes, lesions = _read(subject, contender.recipe, config.data.max_voxels)
        prepared = prepare(volumes, contender.recipe)
        if unseen_by:
            same = names.get(scan_hash(volumes, prepared.geometry))
            if same is not None:
                raise _leakage(subject.id, same, unseen_by)
        return prepared, lesions

    with (
        scratch_folder(out) as scratch,
        progress(f"evaluating {contender.name}", len(subjects)) as advance,
    ):
        for subject, item in read_ahead(subjects, read):
            if stop:
                raise InterruptedRunError("stopped; nothing was written. Run it again.")
            if isinstance(item, InputError):
                logger.error("%s", item)
                errors.append(item)
                advance(note=f"{subject.id}: failed")
                continue
            prepared, lesions = item
            prediction = contender.predictor.volume(prepared)
            region = prepared.scored_volume()
            place = scratch / str(len(runs))
            runs.append(_volume_run(place, prediction.volume_map, lesions, region, prepared))
            voxels += int(region.sum())
            scores.append(prediction.slice_scores)
            positions = lesion_positions(lesions, prepared.geometry)
            labels.append(~away_from(prepared.numbers, positions, margin=0))
            row: dict[str, Any] = {
                "subject": subject.id,
                "scan_score": prediction.scan_score,
                "lesion_voxels": int(lesions.sum()),
                "lesion_voxels_not_scored": int((lesions & ~region).sum()),
            }
            if threshold is not None:
                counts = lesion_counts(anomaly_mask(prediction, region, threshold), lesions)
                found.append(counts)
                row |= {
                    "dice": counts.dice,
                    "lesions": counts.lesions,
                    "lesions_detected": counts.detected,
                    "false_positives": counts.false_positives,
                }
            rows.append(row)
            advance(note=subject.id)
        return Evaluation(
            metrics=_metrics(runs, scores, labels, found, threshold),
            subjects=rows,
            counts={
                "subjects": len(rows),
                "subjects_failed": len(errors),
                "images": sum(len(s) for s in scores),
                "images_with_lesion": int(sum(flags.sum() for flags in labels)),
                "voxels": voxels,
                "lesion_voxels": sum(row["lesion_voxels"] for row in rows),
                "lesion_voxels_not_scored": sum(r["lesion_voxels_not_scored"] for r in rows),
            },
            errors=errors,
        )


def _read(
    subject: Subject, recipe: RecipeConfig, max_voxels: int
) -> tuple[dict[str, Volume], NDArray[np.bool_]]:
    """A test subject's volumes by channel and its lesions (X, Y, Z)."""
    if subject.label is None:  # also in a cohort said to be healthy: a lost label is no proof
        raise MissingInputError(
            next(iter(subject.images.values())).path,
            expected=f"a label of test subject {subject.id} (all 0 for a healthy one)",
            found="none",
            remedy="Add the label, or take the subject out of data.split.test.",
        )
    volumes = read_channels(subject, recipe, max_voxels=max_voxels)
    lesions = read_lesions(subject.label, next(iter(volumes.values())), max_voxels=max_voxels)
    return volumes, lesions


def _volume_run(
    place: Path,
    volume_map: NDArray[np.float32],
    lesions: NDArray[np.bool_],
    region: NDArray[np.bool_],
    prepared: Prepared,
) -> Run:
    """A volume's sorted run; AUPRO's components are those of slices along the model's axis."""
    upright = prepared.geometry.oriented
    inside = upright(region.astype(np.uint8)) > 0
    truth = upright(lesions.astype(np.uint8)) > 0
    weights, components = region_weights(truth, mask=inside)
    scores = np.asarray(upright(volume_map), np.float32)
    return run_on_disk(place, scores[inside], truth[inside], weights[inside], components)


def _metrics(
    runs: Sequence[Run],
    scores: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.bool_]],
    found: Sequence[LesionCounts],
    threshold: float | None,
) -> dict[str, float | None]:
    values: dict[str, float | None] = dict.fromkeys(KEYS)
    if not runs:
        return values
    values |= image_metrics(np.concatenate(scores), np.concatenate(labels))
    values |= pixel_metrics(runs, max_fpr=MAX_FPR)
    if threshold is not None:
        values["pixel_dice"] = dice_at(runs, threshold)
        values |= summarise(found)
    return {key: values[key] for key in KEYS}


def _with_models_own(config: Config, model: Model) -> Config:
    """The config with the model's recipe and scoring, which are part of the model."""
    own = model.config.to_dict()
    for section in ("recipe", "scoring"):
        if config.to_dict()[section] != own[section]:
            logger.warning(
                "the config's %s differs from the model's; the model's own is used", section
            )
    return make_config(
        config.to_dict() | {"recipe": own["recipe"], "scoring": own["scoring"]}, where="config"
    )


def _seen(model: Model) -> Mapping[str, str]:
    """Hashes of the scans that a model was trained or calibrated on, by subject id."""
    return {**model.training["calibration_subjects"], **model.training["subjects"]}


def _refuse_seen_names(subjects: Sequence[Subject], model: Model) -> None:
    for subject in subjects:
        if subject.id in _seen(model):
            raise _leakage(subject.id, subject.id, model)


def _leakage(subject: str, same: str, model: Model) -> LeakageError:
    seed = model.training["seed"]
    return LeakageError(
        subject,
        expected="test subjects that the model has never seen",
        found=f"one that it was trained or calibrated on (as {same})",
        remedy=f"Use the split that it was trained with: its seed was {seed}.",
    )


def _protocol(
    cohort: Cohort, model: Model, config: Config, result: Evaluation, precision: str
) -> dict[str, Any]:
    recipe = model.config.recipe
    return {
        "data_set": config.data.root.name if config.data.root else None,
        "subjects": [row["subject"] for row in result.subjects],
        "split_hash": cohort.split.hash,
        "seed": config.seed,
        "region": "brain",
        "region_note": (
            "voxels that are not 0, in slices with at least "
            f"{recipe.min_brain_mm2:g} mm2 of brain; on the scan's own grid"
        ),
        "image": f"{recipe.axis} slice; anomalous if its label at original resolution has a voxel",
        "aupro": (
            f"data-set level, components of slices (8-connected), FPR <= {MAX_FPR}, "
            "false positives counted in the region"
        ),
        "lesions": "3D components (26-connected) of at least 10 voxels",
        "model": model.config.model.name,
        "model_hash": model.hash,
        "scoring": model.config.scoring.model_dump(mode="json"),
        "calibration": model.calibration.to_dict() if model.calibration else None,
        "precision": precision,
        "versions": versions(),
    }
