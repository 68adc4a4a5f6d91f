"""``medrd evaluate``: a model on test subjects, the numbers, and how they were got.

Maps are judged where they are delivered: on the scan's own grid against the label at its
original resolution. Memory does not grow with the number of scans: each volume's scores
are reduced to a sorted run on disk, and the exact metrics merge the runs piece by piece.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.config import Config, IntensityConfig, ScoringConfig, make_config
from medrd.data.cache import CachedSubject, content_hash
from medrd.data.layouts import Subject
from medrd.data.prepare import (
    Prepared,
    away_from,
    lesion_positions,
    prepare,
    read_channels,
    read_lesions,
)
from medrd.errors import ConfigError, InputError, LeakageError, MissingInputError
from medrd.metrics import (
    LesionCounts,
    Run,
    dice_at,
    image_metrics,
    lesion_counts,
    make_run,
    pixel_metrics,
    region_weights,
    summarise,
)
from medrd.models.build import detector_from_config
from medrd.volumes import write_json
from medrd.workflows.calibrate import Calibration, calibrate
from medrd.workflows.device import choose_execution
from medrd.workflows.infer import Predictor
from medrd.workflows.interrupt import InterruptedRunError, StopRequest, stop_on_signals
from medrd.workflows.model_folder import Model, load_model, make_scoring
from medrd.workflows.outputs import make_folder, write_errors
from medrd.workflows.predict import anomaly_mask
from medrd.workflows.progress import progress
from medrd.workflows.train import Cohort, load_cohort, prepare_side
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
    errors
        Subjects that failed; they are in no number.
    """

    metrics: dict[str, float | None]
    subjects: list[dict[str, Any]]
    counts: dict[str, int]
    errors: list[InputError] = field(default_factory=list)


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
        Names the data and the split; recipe and scoring are the model's own.
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
        A test subject was trained or calibrated on, by id or by content.
    MedrdError
        Unusable model, config or data; every test subject failed.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    out = Path(out)
    config = make_config(
        config.to_dict() | {"recipe": loaded.config.to_dict()["recipe"]}, where="config"
    )
    cohort = load_cohort(config)
    subjects = cohort.side("test")
    if not subjects:
        raise ConfigError(
            "data.split.test",
            expected="test subjects",
            found="none",
            remedy="Give some subjects to data.split.test.",
        )
    _refuse_seen(subjects, loaded)
    execution = choose_execution(device, loaded.config.train.precision)
    with stop_on_signals() as stop:
        predictor = Predictor(loaded.detector, loaded.scoring(), execution)
        name = loaded.config.model.name
        result = evaluate_subjects(
            predictor, loaded.calibration, subjects, loaded.config, config, stop, name, out
        )
        rows = {name: result.metrics}
        if baseline and name != "intensity":
            beside = _evaluate_baseline(cohort, subjects, config, device, stop, out)
            rows["intensity"] = beside.metrics
    write_errors(out, result.errors)
    if not result.subjects:
        raise result.errors[0]
    metrics: dict[str, Any] = dict(result.metrics)
    if "intensity" in rows and name != "intensity":
        metrics["baseline"] = {"intensity": rows["intensity"]}
    metrics["counts"] = result.counts
    metrics["protocol"] = _protocol(cohort, loaded, config, result, execution.precision)
    write_json(out / "subjects.json", result.subjects)
    write_json(out / "metrics.json", metrics)
    return out / "metrics.json"


def evaluate_subjects(
    predictor: Predictor,
    calibration: Calibration | None,
    subjects: Sequence[Subject],
    model_config: Config,
    data_config: Config,
    stop: StopRequest,
    name: str,
    out: Path,
) -> Evaluation:
    """Predict subjects one at a time and gather what the metrics need.

    Raises
    ------
    InterruptedRunError
        On a requested stop, between subjects.
    """
    threshold = calibration.threshold if calibration else None
    runs: list[Run] = []
    scores: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.bool_]] = []
    found: list[LesionCounts] = []
    rows: list[dict[str, Any]] = []
    errors: list[InputError] = []
    with _scratch(out) as scratch, progress(f"evaluating {name}", len(subjects)) as advance:
        for subject, item in _read_ahead(subjects, model_config, data_config):
            if stop:
                raise InterruptedRunError("stopped; nothing was written. Run it again.")
            if isinstance(item, InputError):
                logger.error("%s", item)
                errors.append(item)
                advance(note=f"{subject.id}: failed")
                continue
            prepared, lesions = item
            prediction = predictor.volume(prepared)
            region = prepared.scored_volume()
            runs.append(
                _run_on_disk(scratch / subject.id, prediction.volume_map, lesions, region, prepared)
            )
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
                counts = lesion_counts(anomaly_mask(prediction, prepared, threshold), lesions)
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
                "voxels": sum(int(run.negatives.sum() + run.positives.sum()) for run in runs),
                "lesion_voxels": sum(row["lesion_voxels"] for row in rows),
                "lesion_voxels_not_scored": sum(r["lesion_voxels_not_scored"] for r in rows),
            },
            errors=errors,
        )


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


def _run_on_disk(
    place: Path,
    volume_map: NDArray[np.float32],
    lesions: NDArray[np.bool_],
    region: NDArray[np.bool_],
    prepared: Prepared,
) -> Run:
    """The volume's sorted run, in arrays that are memory-mapped.

    AUPRO's components are those of slices along the model's axis.
    """
    upright = prepared.geometry.oriented
    inside = upright(region.astype(np.uint8)) > 0
    truth = upright(lesions.astype(np.uint8)) > 0
    weights, components = region_weights(truth, mask=inside)
    scores = np.asarray(upright(volume_map), np.float32)
    run = make_run(scores[inside], truth[inside], weights[inside], components)
    place.mkdir(parents=True)
    mapped: dict[str, Any] = {}
    for item in fields(run):
        value = getattr(run, item.name)
        if isinstance(value, np.ndarray):
            np.save(place / f"{item.name}.npy", value, allow_pickle=False)
            value = np.load(place / f"{item.name}.npy", mmap_mode="r", allow_pickle=False)
        mapped[item.name] = value
    return Run(**mapped)


def _read_ahead(
    subjects: Sequence[Subject], model_config: Config, data_config: Config
) -> Iterator[tuple[Subject, tuple[Prepared, NDArray[np.bool_]] | InputError]]:
    def read(subject: Subject) -> tuple[Prepared, NDArray[np.bool_]] | InputError:
        budget = data_config.data.max_voxels
        try:
            if subject.label is None and not data_config.data.healthy:
                raise MissingInputError(
                    next(iter(subject.images.values())).path,
                    expected=f"a label of test subject {subject.id}",
                    found="none",
                    remedy="Add the label, or take the subject out of data.split.test.",
                )
            volumes = read_channels(subject, model_config.recipe, max_voxels=budget)
            first = next(iter(volumes.values()))
            if subject.label is None:
                lesions = np.zeros(first.array.shape, bool)
            else:
                lesions = read_lesions(subject.label, first, max_voxels=budget)
            return prepare(volumes, model_config.recipe), lesions
        except InputError as error:
            return error

    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = pool.submit(read, subjects[0]) if subjects else None
        for i, subject in enumerate(subjects):
            assert pending is not None  # submitted in the step before
            item = pending.result()
            pending = pool.submit(read, subjects[i + 1]) if i + 1 < len(subjects) else None
            yield subject, item


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder beside the results, so that the runs need no room elsewhere."""
    make_folder(out)
    folder = Path(tempfile.mkdtemp(prefix=".runs.", dir=out))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def baseline_config(config: Config) -> Config:
    """The intensity baseline for a config: its first channel by rank, smoothed with sigma 3."""
    return config.model_copy(
        update={
            "model": IntensityConfig(),
            "recipe": config.recipe.model_copy(update={"normalise": "rank"}),
            "scoring": ScoringConfig(sigma_px=3, image_score="top", top_fraction=0.01),
        }
    )


def _evaluate_baseline(
    cohort: Cohort,
    subjects: Sequence[Subject],
    config: Config,
    device: str,
    stop: StopRequest,
    out: Path,
) -> Evaluation:
    """Calibrated on the same held-out subjects, evaluated on the same test subjects."""
    config = baseline_config(config)
    held_out: list[CachedSubject] = prepare_side(
        cohort, "calibration", config, label="preparing held-out subjects"
    )
    predictor = Predictor(
        detector_from_config(config.to_dict()["model"]),
        make_scoring(config.scoring, size=config.recipe.size),
        choose_execution(device, "fp32"),
    )
    calibration = None
    if held_out:
        calibration = calibrate(
            predictor,
            held_out,
            margin=config.data.healthy_margin,
            target_fpr=config.calibration.voxel_fpr,
        )
    return evaluate_subjects(
        predictor, calibration, subjects, config, config, stop, "intensity", out
    )


def _refuse_seen(subjects: Sequence[Subject], model: Model) -> None:
    seen = {**model.training["calibration_subjects"], **model.training["subjects"]}
    by_content = {content: subject for subject, content in seen.items()}
    for subject in subjects:
        same = subject.id if subject.id in seen else None
        if same is None:
            try:
                same = by_content.get(content_hash(subject))
            except InputError:
                continue  # reported when it is read
        if same is not None:
            seed = model.training["seed"]
            raise LeakageError(
                subject.id,
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
