"""Objectives for hyperparameter search that never read a test subject.

Without labels: average precision on anomalies simulated in held-out healthy slices. They are
the same for all trials of a search, and of kinds that no trial trains on. With labels: average
precision on validation subjects, as an evaluation computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medrd.config import Config
from medrd.data.cache import CachedSubject
from medrd.data.kinds import kind_of
from medrd.data.margin import none_healthy
from medrd.data.slices import HealthySlices
from medrd.data.subject import Subject
from medrd.errors import ConfigError, ModelError
from medrd.evaluation.subject import EvaluatedModel, SubjectScorer, by_category
from medrd.evaluation.summary import summarise
from medrd.evaluation.work import EvaluateWorker
from medrd.metrics import count_pixels, pixel_metrics
from medrd.run.cohort import Cohort, try_sides
from medrd.run.predictor import Predictor
from medrd.runner.runner import work_through
from medrd.training.simulation import Simulator, make_simulator
from medrd.tuning.config import AnyObjective, SimulatedObjective

Objective = Callable[[Predictor], float]
"""Scores a detector from 0 to 1; higher is better."""

_BATCH = 16


@dataclass(frozen=True, eq=False)
class SimulatedSet:
    """Held-out healthy slices with anomalies in them.

    Attributes
    ----------
    images
        (N, C, H, W) float32 in [0, 1].
    region
        (N, H, W) bool: the pixels that are scored.
    mask
        (N, H, W) bool: the pixels that show an anomaly.
    """

    images: NDArray[np.float32]
    region: NDArray[np.bool_]
    mask: NDArray[np.bool_]


def make_objective(settings: AnyObjective, config: Config, cohort: Cohort) -> Objective:
    """The objective of a search, for a trial that is trained with this config.

    Raises
    ------
    ConfigError
        If no held-out subject has a healthy slice to simulate in.
    InputError
        If a scan cannot be read. Unreadable pictures are left out, as in training, unless none
        can be read.
    """
    if settings.kind == "labelled":
        subjects = [cohort.subjects[id] for id in settings.validation]
        return lambda predictor: _labelled_ap(predictor, subjects, config)
    cached, errors = try_sides(cohort, ("calibration",), config)
    held_out = [cached[id] for id in cohort.split.calibration if id in cached]
    if errors and not (held_out and kind_of(config.recipe).spares_damaged):
        raise errors[0]
    anomalies = simulate_set(held_out, settings, config)
    return lambda predictor: simulated_ap(predictor, anomalies)


def simulate_set(
    subjects: Sequence[CachedSubject], settings: SimulatedObjective, config: Config
) -> SimulatedSet:
    """Put anomalies into the healthy slices of held-out subjects, deterministically.

    Raises
    ------
    ConfigError
        If no subject has a healthy slice, or no anomaly is visible.
    """
    slices = HealthySlices(subjects, margin=config.data.healthy_margin)
    if len(slices) == 0:
        raise none_healthy(
            "calibration",
            len(subjects),
            wanted="held-out subjects with healthy slices to simulate anomalies in",
        )
    chosen = _evenly(len(slices), settings.max_slices)
    # Neighbours look alike; after shuffling, the content `slice` comes from a distant slice.
    healthy = slices.batch(np.random.default_rng(settings.seed).permutation(chosen).tolist())
    simulator = make_simulator("anomalies", settings.simulation, recipe=config.recipe)
    generator = torch.Generator().manual_seed(settings.seed)
    copies = [
        _with_anomalies(simulator, healthy.images, healthy.region, generator)
        for _ in range(settings.copies)
    ]
    images, masks = (np.concatenate(part) for part in zip(*copies, strict=True))
    region = np.tile(healthy.region, (settings.copies, 1, 1))
    if not masks.any() or masks[region].all():
        raise ConfigError(
            "objective.simulation",
            expected="visible anomalies, and healthy pixels around them",
            found=f"{np.count_nonzero(masks)} anomalous pixels of {np.count_nonzero(region)}",
            remedy="Raise objective.simulation.probability, or lower its min_change or min_pixels.",
        )
    return SimulatedSet(images, region, masks)


def simulated_ap(predictor: Predictor, anomalies: SimulatedSet) -> float:
    """Average precision of the smoothed maps over the pixels of all regions.

    Raises
    ------
    ModelError
        If the maps are not finite.
    """
    maps, _ = predictor.maps(anomalies.images, anomalies.region)
    scores = maps[anomalies.region]
    if not np.isfinite(scores).all():
        raise ModelError(
            "objective",
            expected="finite anomaly maps",
            found=f"{np.count_nonzero(~np.isfinite(scores))} pixels that are not finite",
            remedy="Lower the model's learning rate, or train with train.precision=fp32.",
        )
    value = pixel_metrics(count_pixels(scores, anomalies.mask[anomalies.region]))["pixel_ap"]
    assert value is not None  # a set has both healthy and anomalous pixels
    return value


def _evenly(available: int, limit: int) -> NDArray[np.int64]:
    """Up to ``limit`` of the available positions, evenly spaced."""
    count = min(available, limit)
    return np.linspace(0, available - 1, count).round().astype(np.int64)


def _with_anomalies(
    simulator: Simulator,
    images: NDArray[np.float32],
    region: NDArray[np.bool_],
    generator: torch.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Images with anomalies (N, C, H, W) and masks of their visible pixels (N, H, W)."""
    changed, masks = [], []
    for start in range(0, len(images), _BATCH):
        batch = slice(start, start + _BATCH)
        simulated = simulator(
            torch.from_numpy(images[batch]), torch.from_numpy(region[batch]), generator
        )
        changed.append(simulated.images.numpy())
        masks.append(simulated.mask.numpy())
    return np.concatenate(changed), np.concatenate(masks)


def _labelled_ap(predictor: Predictor, subjects: Sequence[Subject], config: Config) -> float:
    subjects = by_category(subjects)
    evaluated = EvaluatedModel(config.model.name, config, threshold=None)
    worker = EvaluateWorker([SubjectScorer(evaluated, predictor)])
    outcomes = work_through(worker, [(0, subject) for subject in subjects])
    result = summarise(evaluated.name, subjects, outcomes)
    if result.errors:
        raise result.errors[0]
    value = result.metrics["pixel_ap"]
    if value is None:
        raise nothing_outlined()
    return value


def nothing_outlined() -> ConfigError:
    """The error for validation subjects without a single outlined anomaly."""
    return ConfigError(
        "objective.validation",
        expected="subjects with outlined anomalies",
        found="no subject with an outlined anomaly",
        remedy="Name subjects that have lesions.",
    )
