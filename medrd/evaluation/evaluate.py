"""``medrd evaluate``: evaluates a model on test subjects and records the protocol.

Maps are compared with labels on the scan's or picture's own grid, at the original resolution.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from medrd.config import Config, SplitConfig, digest, make_config
from medrd.data.persons import person_of
from medrd.data.subject import Subject
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
"""Number of bootstrap resamples behind the intervals."""

FROC_FACTORS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
"""A report counts lesions at these multiples of the calibrated threshold."""


def evaluate(
    model: str | Path | Model | None,
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
        A run folder, its ``model/``, or a loaded model; None for the built-in one.
    config
        Defines the data and the split; recipe, scoring and calibration come from the model. Without
        ``data.split``, all subjects test the built-in model.
    out
        The folder for ``metrics.json``, ``subjects.json``, a model card with the metrics,
        ``units/`` (for a bootstrap over subjects) and, if subjects failed, ``errors.json``.
    baseline
        Also evaluate the intensity baseline on the same subjects.
    report
        Also count lesions at other thresholds (``froc.json``), predict the best and the worst
        subjects into ``cases/``, and write ``report.html``.
    runner
        Runs the work in this process, or in others with :class:`medrd.runner.on_ray.Ray`.
    shard
        Score only this part of the test subjects, into ``shards/``. The call that finds all shards
        done writes the results; the others leave no ``metrics.json``.

    Returns
    -------
    Path
        The path of ``metrics.json``.

    Raises
    ------
    LeakageError
        The model was trained, calibrated or chosen on a test subject, as its id or its scan shows.
    MedrdError
        The model, the config or the data cannot be used, or every test subject failed.
    InterruptedRunError
        SIGTERM or Ctrl-C stopped it between subjects.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    if model is None and "split" not in config.data.model_fields_set:
        config = _all_to_test(config)  # the built-in model has seen none of them
    out = Path(out)
    config = with_models_own(config, loaded)
    cohort = load_cohort(config)
    subjects = _test_subjects(cohort, loaded, config)
    _make_clean_folder(out)
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
            if not scores.score(runner, work, lambda: bool(stop)):
                return out / "metrics.json"
        scored = scores.read() if shard else runner.map(work, items, lambda: bool(stop))
        with closing(scored) as results:
            outcomes = in_order(results)
            result, *others = (summarise(each.name, subjects, outcomes) for each in evaluated)
    write_errors(out, [*result.errors, *(intensity.errors if intensity else ())])
    if not result.subjects:
        raise result.errors[0]
    protocol = _protocol(cohort, loaded, config, result, intensity)
    _write_results(out, loaded, _metrics(result, others, protocol), result)
    if report:
        predict_some(loaded, subjects, result.subjects, out / CASES_NAME, device)
        report_run(out)
    return out / "metrics.json"


def _test_subjects(cohort: Cohort, model: Model, config: Config) -> list[Subject]:
    """The test side, by category; refused if the model has seen one of its ids, or if empty."""
    subjects = by_category(cohort.side("test"))
    if not subjects:
        raise ConfigError(
            "data.split.test",
            expected="test subjects",
            found="none",
            remedy="Assign some subjects to data.split.test.",
        )
    _refuse_seen_names(subjects, model, config)
    return subjects


def _make_clean_folder(out: Path) -> None:
    """Make the folder. If this evaluation fails, no results of an earlier one may remain in it."""
    make_folder(out)
    if (out / "metrics.json").is_file():
        shutil.rmtree(out / CASES_NAME, ignore_errors=True)
    for stale in ("metrics.json", "subjects.json", "errors.json", FROC_NAME, CARD_NAME):
        remove(out / stale)
    shutil.rmtree(out / "units", ignore_errors=True)


def _metrics(
    result: Summary, baselines: Sequence[Summary], protocol: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of ``metrics.json``."""
    metrics: dict[str, Any] = dict(result.metrics)
    # Failed test subjects are left out of all numbers, which readers must know.
    metrics["complete"] = not result.errors
    metrics["bounds"] = result.bounds
    metrics["intervals"] = _intervals(result.units, result.categories)
    if result.categories:
        metrics["categories"] = result.categories
    for baseline in baselines:
        metrics["baseline"] = {"intensity": baseline.metrics}
        if baseline.categories:
            metrics["baseline_categories"] = {"intensity": baseline.categories}
    return metrics | {
        "counts": result.counts,
        "images_per_s": result.images_per_s,
        "protocol": protocol,
    }


def _write_results(out: Path, model: Model, metrics: dict[str, Any], result: Summary) -> None:
    for row in result.subjects:
        if text := row.get("warnings"):
            logger.warning("%s: %s", row["subject"], text)
    for category, units in result.units.items():
        save_units(out / "units" / f"{category}.npz", units)
    write_json(out / "subjects.json", result.subjects)
    if result.froc:
        write_json(out / FROC_NAME, result.froc)
    write_json(out / "metrics.json", metrics)
    write_text(out / CARD_NAME, model_card(model.description, model.hash, metrics))


def _identity(model: Model, evaluated: Sequence[EvaluatedModel]) -> dict[str, Any]:
    """Everything but the subject's files that its scores depend on."""
    return {
        "model": model.hash,
        "config": digest([each.config.to_dict() for each in evaluated]),
        "evaluated": [
            {"name": e.name, "threshold": e.threshold, "froc_factors": e.froc_factors}
            for e in evaluated
        ],
    }


def _intervals(units: Mapping[str, Units], categories: Mapping[str, Any]) -> dict[str, Any]:
    """95 % bootstrap intervals over subjects; with categories, of the mean over them."""
    if not units or (categories and len(units) < len(categories)):
        return {}
    groups = list(units.values())
    intervals = bootstrap_intervals(groups, resamples=RESAMPLES)
    return {
        "level": 0.95,
        "over": "subjects",
        "subjects": count_units(groups),
        "resamples": RESAMPLES,
        **{key: list(pair) for key, pair in intervals.items()},
    }


def _all_to_test(config: Config) -> Config:
    """The config with no subject held back from the test."""
    data = config.data.model_copy(update={"split": SplitConfig.all_to_test()})
    return config.model_copy(update={"data": data})


def with_models_own(config: Config, model: Model) -> Config:
    """The model's config, with the data and the seed of another."""
    own, given = model.config.to_dict(), config.to_dict()
    for section in ("recipe", "scoring"):
        if given[section] != own[section]:
            logger.warning(
                "the config's %s differs from the model's, which is used instead", section
            )
    return make_config(own | {key: given[key] for key in ("data", "seed")}, where="config")


def _seen(model: Model) -> Mapping[str, str]:
    """Subject id -> hash of the scan, for all that the model was trained or chosen on."""
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
        remedy = f"Use the split with which the model was trained: its seed was {seed}."
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


def _protocol(
    cohort: Cohort, model: Model, config: Config, result: Summary, baseline: Baseline | None
) -> dict[str, Any]:
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
            "mean over anomalous images of the area that RD4AD's released code computes per image, "
            "over whole images, with 0 where there is no score"
        ),
        "mean_over": sorted(result.categories) or None,
        "model": model.config.model.name,
        "model_hash": model.hash,
        "scoring": model.config.scoring.to_dict(),
        "calibration": model.calibration.to_dict() if model.calibration else None,
        "precision": result.precision,
        "versions": versions(),
        "baseline": baseline.protocol if baseline else None,
    }
