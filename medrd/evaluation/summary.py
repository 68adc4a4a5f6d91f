"""The metrics of one model, accumulated from the scores of its test subjects.

Memory does not grow with the number of pixels: a :class:`medrd.metrics.Histogram` of the whole
data set is exact until it is full, and then has a known error. A smaller histogram of each subject
is kept for confidence intervals over subjects.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.data.subject import Subject
from medrd.errors import InputError
from medrd.evaluation.subject import Outcome, SubjectScores
from medrd.metrics import (
    Confusion,
    Histogram,
    LesionCounts,
    Units,
    bins_each,
    count_pixels,
    image_metrics,
    make_units,
    merge,
    pixel_bounds,
    pixel_metrics,
    summarise_lesions,
)
from medrd.metrics.columns import KEYS
from medrd.metrics.histogram import MAX_BINS
from medrd.run.progress import progress
from medrd.run.signals import InterruptedRunError

logger = logging.getLogger("medrd.evaluate")

Metrics = dict[str, float | None]
"""Values by the names of :data:`medrd.metrics.columns.KEYS`; None if a metric is not defined."""

_NO_PIXELS = count_pixels(np.zeros(0, np.float32), np.zeros(0, np.bool_))


@dataclass
class Summary:
    """Metrics of a model on test subjects.

    Attributes
    ----------
    metrics
        The metrics; with several categories, their means.
    bounds
        For each metric that was not computed exactly, the limits of its exact value.
    categories
        The metrics of each category, if there are several.
    subjects
        One row per subject, with its score, Dice and lesions.
    counts
        Numbers of subjects, images and voxels behind the metrics.
    units
        Category -> units for a bootstrap over subjects.
    images_per_s
        Speed of computing maps, without reading and scoring, per process.
    precision
        The precision of the computation; several if processes ran on different devices.
    froc
        See :meth:`MetricsAccumulator.froc`; empty unless requested.
    errors
        Errors of failed subjects, which are left out of all numbers.
    """

    metrics: Metrics
    bounds: dict[str, list[float]]
    categories: dict[str, Metrics]
    subjects: list[dict[str, Any]]
    counts: dict[str, int]
    units: dict[str, Units]
    images_per_s: float | None
    precision: str | None
    froc: list[Metrics] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)


class MetricsAccumulator:
    """Accumulates the scores of the subjects of one category (or of a whole cohort).

    Counts do not depend on the order of subjects; the last bits of sums of floats do.

    Parameters
    ----------
    expected
        Approximate number of subjects, which share the memory for intervals.
    """

    def __init__(self, expected: int = 1) -> None:
        self._bins = bins_each(expected)
        self._subjects: list[SubjectScores] = []
        self._waiting: list[Histogram] = []

    def add(self, scores: SubjectScores) -> None:
        """Add one subject."""
        if scores.pixels is not None:
            self._waiting.append(scores.pixels)
            # A merge passes over all bins, so several histograms are merged at once.
            if sum(each.keys.size for each in self._waiting) > 2 * MAX_BINS:
                self._waiting = [merge(self._waiting)]
            scores = replace(scores, pixels=merge([scores.pixels], max_bins=self._bins))
        self._subjects.append(scores)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The subjects' entries in ``subjects.json``."""
        return [subject.row for subject in self._subjects]

    def metrics(self) -> tuple[Metrics, dict[str, list[float]]]:
        """All metrics, and the limits of those that are not exact."""
        values: Metrics = dict.fromkeys(KEYS)
        if not self._subjects:
            return values, {}
        values |= image_metrics(*self._images())
        if not self._outlined:
            return values, {}
        pixels = merge(self._waiting)
        values |= pixel_metrics(pixels)
        areas = [area for subject in self._subjects for area in subject.aupro_rd4ad]
        if areas:
            values["aupro_rd4ad"] = float(np.mean(areas))
        if confusions := self._confusions():
            values["pixel_dice"] = Confusion(*map(sum, zip(*confusions, strict=True))).dice
        if lesions := self._lesions():
            values |= summarise_lesions(lesions)
        return values, {name: list(pair) for name, pair in pixel_bounds(pixels).items()}

    def units(self) -> Units | None:
        """Units for a bootstrap over subjects; without pixels unless all are outlined."""
        if not self._subjects:
            return None
        scores, labels = self._images()
        images = [subject.image_scores.size for subject in self._subjects]
        lesions = self._lesions() if self._outlined else []
        return make_units(
            [subject.id for subject in self._subjects],
            [s.pixels if s.pixels and self._outlined else _NO_PIXELS for s in self._subjects],
            image_scores=scores,
            image_labels=labels,
            image_units=np.repeat(np.arange(len(images)), images),
            dice=[np.nan if c.dice is None else c.dice for c in lesions] if lesions else None,
            flagged=(self._confusions() or None) if self._outlined else None,
        )

    def froc(self) -> list[Metrics]:
        """Lesion sensitivity and false positives per scan at multiples of the threshold.

        This is the free-response ROC (Bunch et al. 1978) over volumes, with lesions as in
        :func:`medrd.metrics.lesion_counts`. Empty without lesions or threshold.
        """
        by_factor: dict[float, list[LesionCounts]] = {}
        for subject in self._subjects:
            for factor, counts in subject.froc.items():
                by_factor.setdefault(factor, []).append(counts)
        summaries = {factor: summarise_lesions(counts) for factor, counts in by_factor.items()}
        return [
            {"factor": factor, **{k: v for k, v in numbers.items() if k != "subject_dice"}}
            for factor, numbers in summaries.items()
            if numbers["lesion_sensitivity"] is not None
        ]

    def counts(self) -> dict[str, int]:
        """Numbers of subjects, images and voxels (or pixels) behind the metrics."""
        pixels = [s.pixels for s in self._subjects if s.pixels is not None]
        return {
            "subjects": len(self._subjects),
            "images": sum(s.image_scores.size for s in self._subjects),
            "images_with_lesion": sum(int(s.image_labels.sum()) for s in self._subjects),
            "voxels": sum(int(each.negatives.sum() + each.positives.sum()) for each in pixels),
            "lesion_voxels": sum(s.lesion_voxels for s in self._subjects),
            "lesion_voxels_not_scored": sum(s.lesion_voxels_not_scored for s in self._subjects),
        }

    @property
    def _outlined(self) -> bool:
        return all(subject.pixels is not None for subject in self._subjects)

    def _images(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        return (
            np.concatenate([subject.image_scores for subject in self._subjects]),
            np.concatenate([subject.image_labels for subject in self._subjects]),
        )

    def _confusions(self) -> list[Confusion]:
        return [s.confusion for s in self._subjects if s.confusion is not None]

    def _lesions(self) -> list[LesionCounts]:
        return [s.lesions for s in self._subjects if s.lesions is not None]


def summarise(name: str, subjects: Sequence[Subject], outcomes: Iterator[Outcome]) -> Summary:
    """Accumulate the outcome of each subject, one at a time.

    Parameters
    ----------
    name
        The model's name, for the progress bar.
    subjects
        Sorted by category (:func:`medrd.evaluation.subject.by_category`).
    outcomes
        The outcomes of these subjects in the same order; further ones are left.

    Raises
    ------
    InterruptedRunError
        There are fewer outcomes than subjects.
    """
    rows: list[dict[str, Any]] = []
    errors: list[InputError] = []
    categories: dict[str, Metrics] = {}
    bounds: dict[str, dict[str, list[float]]] = {}
    units: dict[str, Units] = {}
    counts: Counter[str] = Counter()
    precisions: set[str] = set()
    seconds = 0.0
    froc: list[Metrics] = []
    with progress(f"evaluating {name}", len(subjects)) as advance:
        for category, group in itertools.groupby(subjects, key=lambda s: s.category):
            members = list(group)
            accumulator = MetricsAccumulator(len(members))
            for subject in members:
                outcome = next(outcomes, None)
                if outcome is None:
                    raise InterruptedRunError("stopped; nothing was written. Run it again.")
                if isinstance(outcome, InputError):
                    logger.error("%s", outcome)
                    errors.append(outcome)
                    advance(note=f"{subject.id}: failed")
                    continue
                accumulator.add(outcome.scores)
                seconds += outcome.seconds
                precisions.add(outcome.precision)
                advance(note=subject.id)
            rows += accumulator.rows
            categories[category], bounds[category] = accumulator.metrics()
            if (made := accumulator.units()) is not None:
                units[category or "all"] = made
            counts.update(accumulator.counts())
            froc = accumulator.froc()
    several = len(categories) > 1
    return Summary(
        metrics=_mean(list(categories.values())),
        bounds={
            f"{category}.{key}" if several else key: pair
            for category, limits in bounds.items()
            for key, pair in limits.items()
        },
        categories=categories if several else {},
        subjects=rows,
        counts={**counts, "subjects_failed": len(errors)},
        units=units,
        images_per_s=round(counts["images"] / seconds, 3) if seconds else None,
        precision=", ".join(sorted(precisions)) or None,
        froc=[] if several else froc,
        errors=errors,
    )


def _mean(categories: Sequence[Metrics]) -> Metrics:
    """The means over categories; None for a metric that one of them lacks."""
    result: Metrics = {}
    for key in KEYS:
        values = [value for metrics in categories if (value := metrics[key]) is not None]
        complete = values and len(values) == len(categories)
        result[key] = sum(values) / len(values) if complete else None
    return result
