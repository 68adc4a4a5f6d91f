"""The operating points of a data set: what is flagged at every distinct threshold.

A pixel is flagged when its score is **at least** the threshold; medrd holds to this everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medrd.metrics.runs import MAX_ENTRIES, Run, descending_chunks, release_pages


@dataclass(frozen=True)
class Totals:
    """The pixels of either class and the components of a whole data set."""

    negatives: int
    positives: int
    components: int


@dataclass(frozen=True, eq=False)
class Points:
    """Consecutive operating points, thresholds descending; all arrays ``(K,)``.

    ``negatives`` and ``positives`` are the pixels with exactly that score, ``false_positives``
    and ``true_positives`` those with at least that score. ``covered`` is the sum over all
    components of the share flagged (so PRO times the number of components), ``covered_before``
    the same at the point before.
    """

    thresholds: NDArray[np.float32]
    negatives: NDArray[np.int64]
    positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    true_positives: NDArray[np.int64]
    covered: NDArray[np.float64]
    covered_before: NDArray[np.float64]


def count_totals(runs: Sequence[Run]) -> Totals:
    """Add up the runs' pixels and components.

    Raises
    ------
    ValueError
        Some runs with positive pixels have PRO weights and others do not.
    """
    positives, negatives = [], 0
    for run in runs:
        positives.append(int(run.positives.sum(dtype=np.int64)))
        negatives += int(run.negatives.sum(dtype=np.int64))
        release_pages(run)
    components = sum(run.components for run in runs)
    for index, (run, count) in enumerate(zip(runs, positives, strict=True)):
        if components and count and not run.components:
            msg = f"run {index} has {count} positive pixels but no PRO weights, others have them"
            raise ValueError(msg)
    return Totals(negatives, sum(positives), components)


def operating_points(
    runs: Sequence[Run], totals: Totals, max_entries: int = MAX_ENTRIES
) -> Iterator[Points]:
    """The data set's operating points in chunks, from the highest threshold to the lowest."""
    false_positives, true_positives, covered = 0, 0, 0.0
    for chunk in descending_chunks(runs, max_entries):
        negatives = np.asarray(chunk.negatives[::-1], dtype=np.int64)
        positives = np.asarray(chunk.positives[::-1], dtype=np.int64)
        fp = false_positives + np.cumsum(negatives)
        tp = true_positives + np.cumsum(positives)
        sums = running_sum(covered, chunk.pro_weights[::-1])
        sums[1:][tp == totals.positives] = totals.components  # whatever rounding made of it
        yield Points(
            thresholds=chunk.scores[::-1],
            negatives=negatives,
            positives=positives,
            false_positives=fp,
            true_positives=tp,
            covered=sums[1:],
            covered_before=sums[:-1],
        )
        false_positives, true_positives, covered = int(fp[-1]), int(tp[-1]), float(sums[-1])


def running_sum(start: float, terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(K,)`` terms to ``(K + 1,)`` sums, beginning with ``start``.

    Strictly one after the other, so that the last sum, carried into the next chunk, gives to
    the bit what one uncut pass would have given.
    """
    return np.cumsum(np.concatenate(([start], terms)))
