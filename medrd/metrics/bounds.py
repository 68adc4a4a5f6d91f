"""How far the metrics of binned scores can lie from those of the scores themselves.

Between bins the order of pixels is known, inside one it is not, and pixels there may or may not
tie. The ends of bins are operating points of the data themselves, whatever happens in between;
so the best and the worst order inside each bin, all bins taken together, bound each metric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medrd.metrics.aupro import segment_widths
from medrd.metrics.curve import Points, Totals, count_totals, operating_points
from medrd.metrics.pixel import pixel_metrics
from medrd.metrics.runs import Run
from medrd.metrics.sketch import Sketch

_ROUNDING = 1e-9
"""Added to either side: more than a sum of four million terms of one sign can be off by."""

_ENTRIES = 2**17
"""Taken at a time; the steps on so many stay in the processor's cache."""


@dataclass(frozen=True)
class Bounded:
    """A metric as the bins give it (each a tie), and between which numbers the exact one lies."""

    value: float
    low: float
    high: float


def sketch_metrics(sketch: Sketch, *, max_fpr: float = 0.3) -> dict[str, Bounded | None]:
    """Pixel metrics of a sketch, with an interval that holds the exact value.

    Parameters
    ----------
    max_fpr
        Where the AUPRO's interval ends, in (0, 1].

    Returns
    -------
    dict
        ``pixel_auroc``, ``pixel_ap``, ``pixel_dice_best`` and ``aupro``, as
        :func:`medrd.metrics.pixel_metrics` defines them and None where it says None. While the
        sketch is exact, ``low == value == high``. Otherwise the exact value lies between them
        for certain, rounding included; the interval says nothing of chance (for that see
        :func:`medrd.metrics.bootstrap`).
    """
    if not sketch.exact:
        return binned_metrics(sketch.condensed_run(), max_fpr=max_fpr)
    values = pixel_metrics([sketch.run()], max_fpr=max_fpr, max_entries=_ENTRIES)
    del values["pixel_dice_best_threshold"]
    return {
        name: None if value is None else Bounded(value, value, value)
        for name, value in values.items()
    }


def binned_metrics(run: Run, *, max_fpr: float = 0.3) -> dict[str, Bounded | None]:
    """As :func:`sketch_metrics`, of a run each entry of which is a bin of scores."""
    values = pixel_metrics([run], max_fpr=max_fpr, max_entries=_ENTRIES)
    del values["pixel_dice_best_threshold"]
    if values["pixel_auroc"] is None:
        return dict.fromkeys(values)
    totals = count_totals([run])
    lows, highs = dict.fromkeys(values, 0.0), dict.fromkeys(values, 0.0)
    open_pairs = 0.0
    for points in operating_points([run], totals, _ENTRIES):
        open_pairs += float(np.sum(points.negatives * points.positives.astype(np.float64)))
        for name, sums in (
            ("pixel_ap", _precision_sums(points, totals)),
            ("aupro", _overlap_sums(points, totals, max_fpr)),
        ):
            lows[name] += sums[0]
            highs[name] += sums[1]
        highs["pixel_dice_best"] = max(highs["pixel_dice_best"], _dice_high(points, totals))
    # A tie is half a pair won: at the worst it is lost, at the best won.
    half = open_pairs / (2 * totals.negatives * totals.positives)
    lows["pixel_auroc"] = values["pixel_auroc"] - half
    highs["pixel_auroc"] = values["pixel_auroc"] + half
    lows["pixel_dice_best"] = values["pixel_dice_best"] or 0.0  # found at the end of a bin
    slack = max(_ROUNDING, run.scores.size * 2.0**-52)
    found: dict[str, Bounded | None] = {}
    for name, value in values.items():
        if value is None:
            found[name] = None
            continue
        low, high = max(lows[name] - slack, 0.0), min(highs[name] + slack, 1.0)
        found[name] = Bounded(value, min(low, value), max(high, value))
    return found


def _precision_sums(points: Points, totals: Totals) -> tuple[float, float]:
    """Average precision of these bins, negatives first and one by one, or positives first.

    With ``F`` and ``T`` flagged above a bin of ``n`` and ``p``, the ``k``-th positive finds a
    precision between ``(T + k) / (F + n + T + k)`` and ``(T + p) / (F + T + p)``. The sum of the
    first over ``k`` is ``p - (F + n) * sum(1 / (F + n + T + k))``; ``1 / x`` is convex, so each
    of its terms is at most the integral over an interval of length 1 around it.
    """
    some = points.positives > 0
    p = points.positives[some].astype(np.float64)
    tp = points.true_positives[some]
    fp = points.false_positives[some]
    flagged = fp + tp - p + 0.5
    low = np.where(p == 1, tp / (fp + tp), p - fp * np.log1p(p / flagged))
    high = p * tp / (fp - points.negatives[some] + tp)
    return float(low.sum()) / totals.positives, float(high.sum()) / totals.positives


def _overlap_sums(points: Points, totals: Totals, max_fpr: float) -> tuple[float, float]:
    """AUPRO of these bins with all overlap gained at their ends, or at their beginnings.

    The curve ascends, so between a bin's ends it stays between the overlaps there, also where
    it is interpolated and where the interval cuts it.
    """
    if not totals.components:
        return 0.0, 0.0
    limit = max_fpr * totals.negatives
    widths = segment_widths(points, limit) / (limit * totals.components)
    return float(widths @ points.covered_before), float(widths @ points.covered)


def _dice_high(points: Points, totals: Totals) -> float:
    """The best Dice of these bins if all their positives came first."""
    tp: NDArray[np.int64] = points.true_positives
    flagged = points.false_positives - points.negatives + tp
    return float((2 * tp / (flagged + totals.positives)).max())
