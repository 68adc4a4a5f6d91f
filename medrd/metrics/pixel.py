"""Pixel-level metrics of a data set, exact, in one pass over its sorted runs.

A pixel is flagged when its score is at least the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medrd.metrics.aupro import aupro_terms
from medrd.metrics.curve import Points, Totals, count_totals, operating_points, running_sum
from medrd.metrics.runs import MAX_ENTRIES, Run, release_pages


def pixel_metrics(
    runs: Sequence[Run], *, max_fpr: float = 0.3, max_entries: int = MAX_ENTRIES
) -> dict[str, float | None]:
    """Threshold-free metrics and the oracle Dice of a data set.

    Parameters
    ----------
    runs
        One a volume or picture.
    max_fpr
        Where the AUPRO's interval ends, in (0, 1].
    max_entries
        Bounds the memory; the results do not depend on it.

    Returns
    -------
    dict
        ``pixel_auroc``; ``pixel_ap``, the average precision as scikit-learn defines it;
        ``pixel_dice_best``, the best Dice over all thresholds on these very pixels (an oracle,
        for comparison with published figures), and ``pixel_dice_best_threshold``, the highest
        that reaches it; ``aupro``. All are None if either class is empty, ``aupro`` also where
        the runs have no PRO weights.
    """
    if not 0 < max_fpr <= 1:
        msg = f"max_fpr must be in (0, 1], got {max_fpr}"
        raise ValueError(msg)
    totals = count_totals(runs)
    if not totals.negatives or not totals.positives:
        return dict.fromkeys(
            ("pixel_auroc", "pixel_ap", "pixel_dice_best", "pixel_dice_best_threshold", "aupro")
        )
    doubled_wins, precision, aupro = 0, 0.0, 0.0
    best = _BestDice(-1.0, math.inf)
    for points in operating_points(runs, totals, max_entries):
        doubled_wins += _doubled_wins(points)
        precision = float(running_sum(precision, _precision_terms(points))[-1])
        best = max(best, _best_dice(points, totals), key=lambda found: found.dice)
        if totals.components:
            aupro = float(running_sum(aupro, aupro_terms(points, totals, max_fpr))[-1])
    return {
        "pixel_auroc": doubled_wins / (2 * totals.negatives * totals.positives),
        "pixel_ap": precision / totals.positives,
        "pixel_dice_best": best.dice,
        "pixel_dice_best_threshold": best.threshold,
        "aupro": min(aupro, 1.0) if totals.components else None,
    }


def dice_at(runs: Sequence[Run], threshold: float) -> float | None:
    """Dice over all pixels of the data set at a threshold; None without positive pixels.

    The threshold is rounded to float32, as NumPy does when it compares a float32 map with it.
    """
    flagged_negatives, flagged_positives = _flagged(runs, threshold)
    positives = count_totals(runs).positives
    if not positives:
        return None
    return 2 * flagged_positives / (flagged_negatives + flagged_positives + positives)


def rates_at(runs: Sequence[Run], threshold: float) -> tuple[float | None, float | None]:
    """False- and true-positive rate at a threshold; None where that class is empty."""
    flagged_negatives, flagged_positives = _flagged(runs, threshold)
    totals = count_totals(runs)
    return (
        flagged_negatives / totals.negatives if totals.negatives else None,
        flagged_positives / totals.positives if totals.positives else None,
    )


def threshold_at_fpr(runs: Sequence[Run], fpr: float) -> float:
    """The smallest float32 threshold at which at most a share ``fpr`` of negatives is flagged.

    It lies just above the highest score that, with all its ties, would exceed the share.

    Raises
    ------
    ValueError
        ``fpr`` outside [0, 1), or no negative pixels.
    """
    if not 0 <= fpr < 1:
        msg = f"fpr must be in [0, 1), got {fpr}"
        raise ValueError(msg)
    totals = count_totals(runs)
    if not totals.negatives:
        msg = "a threshold for a false-positive rate needs negative pixels, got none"
        raise ValueError(msg)
    for points in operating_points(runs, totals):
        exceeding = np.flatnonzero(points.false_positives / totals.negatives > fpr)
        if exceeding.size:
            highest = points.thresholds[exceeding[0]]
            return float(np.nextafter(highest, np.float32(np.inf)))
    msg = "unreachable: at the lowest score every negative is flagged"
    raise AssertionError(msg)


@dataclass(frozen=True)
class _BestDice:
    dice: float
    threshold: float


def _doubled_wins(points: Points) -> int:
    """Twice the pairs that these points' negatives lose to a positive, a tie being half lost.

    Whole numbers, so exact. Positives of earlier chunks are counted with Python's integers,
    which do not overflow.
    """
    earlier = int(points.true_positives[0] - points.positives[0])
    within = 2 * (points.true_positives - earlier) - points.positives
    return 2 * earlier * int(points.negatives.sum()) + int((points.negatives * within).sum())


def _precision_terms(points: Points) -> NDArray[np.float64]:
    flagged = points.false_positives + points.true_positives
    terms: NDArray[np.float64] = points.true_positives / flagged * points.positives
    return terms


def _best_dice(points: Points, totals: Totals) -> _BestDice:
    flagged = points.false_positives + points.true_positives
    dice = 2 * points.true_positives / (flagged + totals.positives)
    at = int(np.argmax(dice))
    return _BestDice(float(dice[at]), float(points.thresholds[at]))


def _flagged(runs: Sequence[Run], threshold: float) -> tuple[int, int]:
    """Negative and positive pixels with a score of at least the threshold."""
    if math.isnan(threshold):
        msg = "a threshold must be a number, got NaN"
        raise ValueError(msg)
    negatives = positives = 0
    for run in runs:
        # A float32 needle: any other type would convert the whole haystack.
        start = int(np.searchsorted(run.scores, np.float32(threshold)))
        negatives += int(run.negatives[start:].sum(dtype=np.int64))
        positives += int(run.positives[start:].sum(dtype=np.int64))
        release_pages(run)
    return negatives, positives
