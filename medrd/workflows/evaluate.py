"""``medrd evaluate``: a model on test subjects, the numbers, and how they were got.

Maps are judged where they are delivered: on the scan's or picture's own grid against the
label at its original resolution. See :class:`medrd.workflows.tally.Tally`.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medrd.config import AnyRecipeConfig, Config, make_config
from medrd.data.domain import TestItem, domain_of
from medrd.data.layouts import Subject
from medrd.errors import ConfigError, InputError, LeakageError, MedrdError
from medrd.metrics import Units, bootstrap_intervals, count_units
from medrd.report.card import CARD_NAME, model_card
from medrd.volumes import write_json, write_text
from medrd.workflows.baseline import intensity_baseline
from medrd.workflows.calibrate import Calibration
from medrd.workflows.cohort import Cohort, load_cohort
from medrd.workflows.device import choose_execution
from medrd.workflows.evaluation_cases import predict_some
from medrd.workflows.evaluation_files import CASES_NAME, FROC_NAME, save_units
from medrd.workflows.infer import Predictor
from medrd.workflows.interrupt import InterruptedRunError, StopRequest, stop_on_signals
from medrd.workflows.model_folder import Model, load_model
from medrd.workflows.outputs import make_folder, remove, write_errors
from medrd.workflows.progress import progress
from medrd.workflows.read_ahead import read_ahead
from medrd.workflows.report import write_report
from medrd.workflows.tally import KEYS, MAX_FPR, Tally
from medrd.workflows.versions import versions

logger = logging.getLogger("medrd.evaluate")

RESAMPLES = 1000
"""Of the bootstrap behind the intervals."""

FROC_FACTORS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
"""Multiples of the calibrated threshold at which a report counts lesions."""


@dataclass
class Evaluation:
    """Numbers of a model on test subjects.

    Attributes
    ----------
    metrics
        By the names of :data:`medrd.workflows.tally.KEYS`. Of several categories their mean.
    bounds
        Between which the exact values of those metrics lie that were not computed exactly.
    categories
        The metrics of each category, where there are several.
    subjects
        A row a subject: its score, Dice and lesions.
    counts
        Of subjects, images and voxels that the numbers stand on.
    units
        By category, what a bootstrap needs.
    images_per_s
        How fast maps were made, without reading and judging.
    froc
        See :meth:`medrd.workflows.tally.Tally.froc`; empty unless asked for.
    errors
        Subjects that failed; they are in no number.
    """

    metrics: dict[str, float | None]
    bounds: dict[str, list[float]]
    categories: dict[str, dict[str, float | None]]
    subjects: list[dict[str, Any]]
    counts: dict[str, int]
    units: dict[str, Units]
    images_per_s: float | None
    froc: list[dict[str, float | None]] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Contender:
    """What is evaluated: a detector at work, with its calibration and recipe."""

    name: str
    predictor: Predictor
    calibration: Calibration | None
    recipe: AnyRecipeConfig


def evaluate(
    model: str | Path | Model,
    config: Config,
    out: str | Path,
    *,
    device: str = "auto",
    baseline: bool = True,
    report: bool = False,
) -> Path:
    """Evaluate a model on the test side of a config's split.

    Parameters
    ----------
    model
        A run folder, its ``model/``, or a loaded model.
    config
        Names the data and the split; recipe, scoring and calibration are the model's own.
    out
        Gets ``metrics.json``, ``subjects.json``, a model card with the metrics, ``units/`` (what
        a bootstrap over subjects needs) and, if subjects failed, ``errors.json``.
    baseline
        Evaluate the intensity baseline on the same subjects beside it.
    report
        Also count lesions at other thresholds (``froc.json``), predict the best and the worst
        subjects into ``cases/``, and write ``report.html``.

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
    # What an earlier evaluation left must not stand beside a failure.
    if (out / "metrics.json").is_file():
        shutil.rmtree(out / CASES_NAME, ignore_errors=True)
    for stale in ("metrics.json", "subjects.json", "errors.json", FROC_NAME, CARD_NAME):
        remove(out / stale)
    shutil.rmtree(out / "units", ignore_errors=True)
    execution = choose_execution(device, loaded.config.train.precision)
    predictor = Predictor(loaded.detector, loaded.scoring(), execution)
    contender = Contender(
        loaded.config.model.name, predictor, loaded.calibration, loaded.config.recipe
    )
    beside, baseline_protocol = None, None
    uncalibrated: list[MedrdError] = []
    with stop_on_signals() as stop:
        factors = FROC_FACTORS if report else ()
        result = evaluate_subjects(
            contender, subjects, config, stop, unseen_by=loaded, froc_factors=factors
        )
        if baseline and contender.name != "intensity":
            intensity = intensity_baseline(cohort, loaded, config, device, out)
            baseline_protocol = intensity.protocol
            rival = Contender(
                "intensity", intensity.predictor, intensity.calibration, intensity.recipe
            )
            beside = evaluate_subjects(rival, subjects, config, stop)
            uncalibrated = intensity.errors
    write_errors(out, [*result.errors, *uncalibrated])
    if not result.subjects:
        raise result.errors[0]
    metrics: dict[str, Any] = dict(result.metrics)
    # A test subject that failed is in no number, and who reads one must know.
    metrics["complete"] = not result.errors
    metrics["bounds"] = result.bounds
    metrics["intervals"] = _intervals(result.units, result.categories)
    if result.categories:
        metrics["categories"] = result.categories
    if beside is not None:
        metrics["baseline"] = {"intensity": beside.metrics}
        if beside.categories:
            metrics["baseline_categories"] = {"intensity": beside.categories}
    metrics["counts"] = result.counts
    metrics["images_per_s"] = result.images_per_s
    metrics["protocol"] = _protocol(cohort, loaded, config, result, execution.precision)
    metrics["protocol"]["baseline"] = baseline_protocol
    for category, units in result.units.items():
        save_units(out / "units" / f"{category}.npz", units)
    write_json(out / "subjects.json", result.subjects)
    if result.froc:
        write_json(out / FROC_NAME, result.froc)
    write_json(out / "metrics.json", metrics)
    write_text(out / CARD_NAME, model_card(loaded.description, loaded.hash, metrics))
    if report:
        predict_some(loaded, subjects, result.subjects, out / CASES_NAME, device)
        write_report(out)
    return out / "metrics.json"


def evaluate_subjects(
    contender: Contender,
    subjects: Sequence[Subject],
    config: Config,
    stop: StopRequest,
    *,
    unseen_by: Model | None = None,
    froc_factors: Sequence[float] = (),
) -> Evaluation:
    """Predict subjects one at a time and gather what the metrics need.

    Parameters
    ----------
    unseen_by
        A model whose training and calibration scans must not be among them.
    froc_factors
        Multiples of the calibrated threshold at which lesions are counted too.

    Raises
    ------
    LeakageError
        A subject's scan is one that the model has seen, under whatever name.
    InterruptedRunError
        On a requested stop, between subjects.
    """
    threshold = contender.calibration.threshold if contender.calibration else None
    groups: dict[str, list[Subject]] = {}
    for subject in subjects:
        groups.setdefault(subject.category, []).append(subject)
    domain = domain_of(contender.recipe)
    names = {content: name for name, content in _seen(unseen_by).items()} if unseen_by else {}

    def read(subject: Subject) -> TestItem:
        item = domain.test_item(subject, contender.recipe, budget=config.data.budget)
        same = names.get(item.content)
        if unseen_by and same is not None:
            raise _leakage(subject.id, same, unseen_by)
        return item

    rows: list[dict[str, Any]] = []
    errors: list[InputError] = []
    by_category: dict[str, dict[str, float | None]] = {}
    bounds: dict[str, list[float]] = {}
    units: dict[str, Units] = {}
    counts: Counter[str] = Counter()
    seconds = 0.0
    with progress(f"evaluating {contender.name}", len(subjects)) as advance:
        for category, members in groups.items():
            tally = Tally(threshold=threshold, expected=len(members), froc_factors=froc_factors)
            for subject, item in read_ahead(members, read):
                if stop:
                    raise InterruptedRunError("stopped; nothing was written. Run it again.")
                if isinstance(item, InputError):
                    logger.error("%s", item)
                    errors.append(item)
                    advance(note=f"{subject.id}: failed")
                    continue
                start = time.perf_counter()
                prediction = contender.predictor.on_grid(item.prepared)
                seconds += time.perf_counter() - start
                tally.add(subject.id, item, prediction)
                advance(note=subject.id)
            rows += tally.rows
            by_category[category], found = tally.metrics()
            bounds |= {f"{category}.{k}" if len(groups) > 1 else k: v for k, v in found.items()}
            gathered = tally.units()
            if gathered is not None:
                units[category or "all"] = gathered
            counts.update(tally.counts())
            froc = tally.froc()
    several = len(groups) > 1
    return Evaluation(
        metrics=_mean(list(by_category.values())),
        bounds=bounds,
        categories=by_category if several else {},
        subjects=rows,
        counts={**counts, "subjects_failed": len(errors)},
        units=units,
        images_per_s=round(counts["images"] / seconds, 3) if seconds else None,
        froc=[] if several else froc,
        errors=errors,
    )


def _mean(categories: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Over the categories; a metric that one of them lacks is undefined."""
    result: dict[str, float | None] = {}
    for key in KEYS:
        values = [metrics[key] for metrics in categories]
        known = [value for value in values if value is not None]
        result[key] = sum(known) / len(known) if known and len(known) == len(values) else None
    return result


def _intervals(units: Mapping[str, Units], categories: Mapping[str, Any]) -> dict[str, Any]:
    """95 % percentile intervals by bootstrap over subjects (of several categories, of the mean)."""
    if not units or (categories and len(units) < len(categories)):
        return {}
    groups = list(units.values())
    found = bootstrap_intervals(groups, resamples=RESAMPLES)
    return {
        "level": 0.95,
        "over": "subjects",
        "subjects": count_units(groups),
        "resamples": RESAMPLES,
        **{key: list(pair) for key, pair in found.items()},
    }


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
        remedy=f"Use the split that it was trained with: its seed was {seed}."
        if subject == same
        else "The data set holds it twice: remove one of the two.",
    )


def _protocol(
    cohort: Cohort, model: Model, config: Config, result: Evaluation, precision: str
) -> dict[str, Any]:
    return {
        "data_set": config.data.root.name if config.data.root else None,
        "subjects": [row["subject"] for row in result.subjects],
        "split_hash": cohort.split.hash,
        "seed": config.seed,
        **domain_of(model.config.recipe).protocol(model.config.recipe),
        "aupro": (
            f"data-set level, components of slices (8-connected), FPR <= {MAX_FPR}, "
            "false positives counted in the region"
        ),
        "aupro_rd4ad": (
            "mean over anomalous images of an area of their own, as RD4AD's released code has it; "
            "over whole images, 0 where there is no score"
        ),
        "mean_over": sorted(result.categories) or None,
        "model": model.config.model.name,
        "model_hash": model.hash,
        "scoring": model.config.scoring.model_dump(mode="json"),
        "calibration": model.calibration.to_dict() if model.calibration else None,
        "precision": precision,
        "versions": versions(),
    }
