"""``medrd evaluate``: a model on test subjects, the numbers, and how they were got.

Maps are scored where they are delivered: on the scan's or picture's own grid, against the label
at its original resolution.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from medrd.config import Config, digest, make_config
from medrd.data.layouts import Subject
from medrd.data.persons import person_of
from medrd.errors import ConfigError
from medrd.evaluation.baseline import Baseline, intensity_baseline
from medrd.evaluation.outputs import CASES_NAME, FROC_NAME, predict_some, save_units
from medrd.evaluation.report import report_run
from medrd.evaluation.shards import ShardedScores
from medrd.evaluation.subject import EvaluatedModel, by_category, leakage
from medrd.evaluation.summary import Summary, summarise
from medrd.evaluation.work import EvaluateWork
from medrd.files import write_json, write_text
from medrd.metrics import MAX_FPR, Units, bootstrap_intervals, count_units
from medrd.run.card import CARD_NAME, model_card
from medrd.run.cohort import Cohort, load_cohort
from medrd.run.failures import write_errors
from medrd.run.model_folder import Model, load_model
from medrd.run.outputs import make_folder, remove
from medrd.run.provenance import versions
from medrd.run.shard import Shard
from medrd.run.signals import stop_on_signals
from medrd.runner.runner import HERE, Runner, in_order
from medrd.runner.shared_model import SharedModel

logger = logging.getLogger("medrd.evaluate")

RESAMPLES = 1000
"""Resamples of the bootstrap behind the intervals."""

FROC_FACTORS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
"""Multiples of the calibrated threshold at which a report counts lesions."""


def evaluate(
    model: str | Path | Model,
    config: Config,
    out: str | Path,
    *,
    device: str = "auto",
    baseline: bool = True,
    report: bool = False,
    runner: Runner = HERE,
    shard: Shard | None = None,
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
    runner
        Who does the work: this process, or :class:`medrd.runner.on_ray.Ray`.
    shard
        Score only this part of the test subjects, into ``shards/``. The call after which all shards
        are done writes the results; the others leave no ``metrics.json``.

    Returns
    -------
    Path
        The path of ``metrics.json``.

    Raises
    ------
    LeakageError
        The model was trained, calibrated or chosen on a test subject, by id or by the scan itself.
    MedrdError
        Unusable model, config or data; every test subject failed.
    InterruptedRunError
        On SIGTERM or Ctrl-C, between subjects.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    out = Path(out)
    config = _with_models_own(config, loaded)
    cohort = load_cohort(config)
    subjects = by_category(cohort.side("test"))
    if not subjects:
        raise ConfigError(
            "data.split.test",
            expected="test subjects",
            found="none",
            remedy="Give some subjects to data.split.test.",
        )
    _refuse_seen_names(subjects, loaded, config)
    make_folder(out)
    # What an earlier evaluation left must not stand beside a failure.
    if (out / "metrics.json").is_file():
        shutil.rmtree(out / CASES_NAME, ignore_errors=True)
    for stale in ("metrics.json", "subjects.json", "errors.json", FROC_NAME, CARD_NAME):
        remove(out / stale)
    shutil.rmtree(out / "units", ignore_errors=True)
    evaluated = [_evaluated(loaded, config, FROC_FACTORS if report else ())]
    intensity: Baseline | None = None
    with stop_on_signals() as stop:
        if baseline and evaluated[0].name != "intensity":
            intensity = intensity_baseline(cohort, loaded, config, device)
            evaluated.append(_evaluated_baseline(intensity))
        work = EvaluateWork(SharedModel(loaded), device, evaluated)
        items = [(number, subject) for number in range(len(evaluated)) for subject in subjects]
        if shard:
            scores = ShardedScores(out, shard, items, _identity(loaded, evaluated))
            scores.score(runner, work, lambda: bool(stop))
            if missing := scores.missing():
                logger.info(
                    "shard %s is done; still missing: %s", shard, ", ".join(map(str, missing))
                )
                return out / "metrics.json"
        with closing(
            scores.read() if shard else runner.map(work, items, lambda: bool(stop))
        ) as results:
            outcomes = in_order(results)
            result, *beside = (summarise(each.name, subjects, outcomes) for each in evaluated)
    write_errors(out, [*result.errors, *(intensity.errors if intensity else ())])
    if not result.subjects:
        raise result.errors[0]
    for row in result.subjects:
        if text := row.get("warnings"):
            logger.warning("%s: %s", row["subject"], text)
    metrics: dict[str, Any] = dict(result.metrics)
    # A test subject that failed is in no number, and who reads one must know.
    metrics["complete"] = not result.errors
    metrics["bounds"] = result.bounds
    metrics["intervals"] = _intervals(result.units, result.categories)
    if result.categories:
        metrics["categories"] = result.categories
    for other in beside:
        metrics["baseline"] = {"intensity": other.metrics}
        if other.categories:
            metrics["baseline_categories"] = {"intensity": other.categories}
    metrics["counts"] = result.counts
    metrics["images_per_s"] = result.images_per_s
    metrics["protocol"] = _protocol(cohort, loaded, config, result)
    metrics["protocol"]["baseline"] = intensity.protocol if intensity else None
    for category, units in result.units.items():
        save_units(out / "units" / f"{category}.npz", units)
    write_json(out / "subjects.json", result.subjects)
    if result.froc:
        write_json(out / FROC_NAME, result.froc)
    write_json(out / "metrics.json", metrics)
    write_text(out / CARD_NAME, model_card(loaded.description, loaded.hash, metrics))
    if report:
        predict_some(loaded, subjects, result.subjects, out / CASES_NAME, device)
        report_run(out)
    return out / "metrics.json"


def _identity(model: Model, evaluated: Sequence[EvaluatedModel]) -> dict[str, Any]:
    """What the scores of a subject depend on, besides its files."""
    return {
        "model": model.hash,
        "config": digest([each.config.to_dict() for each in evaluated]),
        "evaluated": [
            {"name": e.name, "threshold": e.threshold, "froc_factors": e.froc_factors}
            for e in evaluated
        ],
    }


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
    """Hashes of the scans that a model was trained, calibrated or chosen on, by subject id."""
    training = model.training
    chosen_on = training.get("validation_subjects", {})
    return {**chosen_on, **training["calibration_subjects"], **training["subjects"]}


def _refuse_seen_names(subjects: Sequence[Subject], model: Model, config: Config) -> None:
    """Refuse ids that the model has seen, and other scans of the same person."""
    pattern = getattr(config.data, "subject_pattern", None)
    seen = _seen(model)
    persons = {person_of(id, pattern): id for id in seen} if model.kind.volumetric else {}
    for subject in subjects:
        seed = model.training["seed"]
        remedy = f"Use the split that it was trained with: its seed was {seed}."
        if subject.id in seen:
            raise leakage(subject.id, subject.id, remedy=remedy)
        if other := persons.get(person_of(subject.id, pattern)):
            remedy += " If they are two people, set data.subject_pattern."
            raise leakage(subject.id, f"{other}, of the same person", remedy=remedy)


def _evaluated(model: Model, config: Config, froc_factors: Sequence[float]) -> EvaluatedModel:
    return EvaluatedModel(
        model.config.model.name,
        config,
        threshold=model.calibration.threshold if model.calibration else None,
        froc_factors=tuple(froc_factors),
        seen={content: name for name, content in _seen(model).items()},
    )


def _evaluated_baseline(baseline: Baseline) -> EvaluatedModel:
    return EvaluatedModel(
        "intensity",
        baseline.config,
        threshold=baseline.calibration.threshold if baseline.calibration else None,
        is_baseline=True,
    )


def _protocol(cohort: Cohort, model: Model, config: Config, result: Summary) -> dict[str, Any]:
    return {
        "data_set": config.data.root.name if config.data.root else None,
        "subjects": [row["subject"] for row in result.subjects],
        "split_hash": cohort.split.hash,
        "seed": config.seed,
        **model.kind.protocol(),
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
        "precision": result.precision,
        "versions": versions(),
    }
