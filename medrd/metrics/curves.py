"""Curves to look at, from the same units that the intervals come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medrd.metrics.counts import Counts, Floats, count_scores
from medrd.metrics.units import Units


@dataclass(frozen=True, eq=False)
class Curve:
    """Points ``(K,)`` from the highest threshold to the lowest."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


def image_curves(units: Sequence[Units]) -> dict[str, Curve]:
    """``roc`` (false against true positive rate) and ``pr`` (recall against precision).

    For the images of all units together; empty where a class is.
    """
    scores = np.concatenate([group.image_scores for group in units])
    labels = np.concatenate([group.image_labels for group in units])
    return _roc_and_pr(count_scores(scores, labels))


def pixel_curves(units: Units) -> dict[str, Curve]:
    """``roc``, ``pr`` and, where components were weighed, ``pro`` (false positive rate against
    the mean share of each component that is flagged).

    Exact at the units' bins (see :func:`medrd.metrics.make_units`) and straight between them.
    """
    if not units.scores.size:
        return {}
    negatives, positives, pro_weights = (
        counts.sum(axis=0, dtype=np.float64)[None, ::-1]
        for counts in (units.negatives, units.positives, units.pro_weights)
    )
    curves = _roc_and_pr(Counts(negatives, positives))
    components = int(units.components.sum())
    if curves and components:
        overlap = _from_zero(np.cumsum(pro_weights)) / components
        curves["pro"] = Curve(curves["roc"].x, overlap)
    return curves


def _roc_and_pr(counts: Counts) -> dict[str, Curve]:
    """Of one data set; empty where a class is."""
    false, true = _from_zero(counts.fp[0]), _from_zero(counts.tp[0])
    if not false[-1] or not true[-1]:
        return {}
    flagged = false + true
    # With nothing flagged the precision is undefined: it begins where the first pixels are.
    precision = np.divide(true, flagged, out=np.ones_like(true), where=flagged > 0)
    precision[0] = precision[1]
    recall = true / true[-1]
    return {"roc": Curve(false / false[-1], recall), "pr": Curve(recall, precision)}


def _from_zero(sums: Floats) -> Floats:
    return np.concatenate(([0.0], sums))
