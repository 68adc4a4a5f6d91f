"""Judged subjects put together: the numbers of one contender."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from medrd.data.layouts import Subject
from medrd.errors import InputError
from medrd.evaluation.examine import Outcome
from medrd.evaluation.tally import KEYS, Tally
from medrd.metrics import Units
from medrd.run.progress import progress
from medrd.run.signals import InterruptedRunError

logger = logging.getLogger("medrd.evaluate")


@dataclass
class Evaluation:
    """Numbers of a model on test subjects.

    Attributes
    ----------
    metrics
        By the names of :data:`medrd.evaluation.tally.KEYS`. Of several categories their mean.
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
        How fast maps were made, without reading and judging; of one process, where several did.
    precision
        In which numbers; several where processes on several kinds of device did it.
    froc
        See :meth:`medrd.evaluation.tally.Tally.froc`; empty unless asked for.
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
    precision: str | None
    froc: list[dict[str, float | None]] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)


def gather(name: str, subjects: Sequence[Subject], outcomes: Iterator[Outcome]) -> Evaluation:
    """Take in what came of each subject, one at a time.

    Parameters
    ----------
    name
        The contender's, for people who watch.
    subjects
        Those of a category together (:func:`medrd.evaluation.examine.by_category`).
    outcomes
        In the same order; as many are taken from it.

    Raises
    ------
    InterruptedRunError
        They end before the subjects do.
    """
    rows: list[dict[str, Any]] = []
    errors: list[InputError] = []
    by_category: dict[str, dict[str, float | None]] = {}
    bounds: dict[str, dict[str, list[float]]] = {}
    units: dict[str, Units] = {}
    counts: Counter[str] = Counter()
    precisions: set[str] = set()
    seconds = 0.0
    froc: list[dict[str, float | None]] = []
    with progress(f"evaluating {name}", len(subjects)) as advance:
        for category, members in itertools.groupby(subjects, key=lambda s: s.category):
            tally = Tally()
            for subject in members:
                outcome = next(outcomes, None)
                if outcome is None:
                    raise InterruptedRunError("stopped; nothing was written. Run it again.")
                if isinstance(outcome, InputError):
                    logger.error("%s", outcome)
                    errors.append(outcome)
                    advance(note=f"{subject.id}: failed")
                    continue
                tally.add(outcome.judged)
                seconds += outcome.seconds
                precisions.add(outcome.precision)
                advance(note=subject.id)
            rows += tally.rows
            by_category[category], bounds[category] = tally.metrics()
            gathered = tally.units()
            if gathered is not None:
                units[category or "all"] = gathered
            counts.update(tally.counts())
            froc = tally.froc()
    several = len(by_category) > 1
    return Evaluation(
        metrics=_mean(list(by_category.values())),
        bounds={
            f"{category}.{key}" if several else key: pair
            for category, found in bounds.items()
            for key, pair in found.items()
        },
        categories=by_category if several else {},
        subjects=rows,
        counts={**counts, "subjects_failed": len(errors)},
        units=units,
        images_per_s=round(counts["images"] / seconds, 3) if seconds else None,
        precision=", ".join(sorted(precisions)) or None,
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
