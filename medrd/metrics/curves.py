"""Curves for figures, from the same units as the intervals."""

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
    """The curves of all units' images together; none if a class is empty.

    ``roc`` has the true over the false positive rate, ``pr`` the precision over the recall.
    """
    scores = np.concatenate([group.image_scores for group in units])
    labels = np.concatenate([group.image_labels for group in units])
    return _roc_and_pr(count_scores(scores, labels))


def pixel_curves(units: Units) -> dict[str, Curve]:
    """The curves of all units' pixels together: ``roc``, ``pr`` and, with PRO weights, ``pro``.

    ``pro`` has the mean flagged share of the components over the false positive rate. Curves are
    exact at the units' bins (see :func:`medrd.metrics.make_units`) and linear between them.
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
    """The curves ``roc`` and ``pr`` of one data set; none if a class is empty."""
    false, true = _from_zero(counts.fp[0]), _from_zero(counts.tp[0])
    if not false[-1] or not true[-1]:
        return {}
    flagged = false + true
    # With nothing flagged the precision is undefined, so it starts with that of the first pixels.
    precision = np.divide(true, flagged, out=np.ones_like(true), where=flagged > 0)
    precision[0] = precision[1]
    recall = true / true[-1]
    return {"roc": Curve(false / false[-1], recall), "pr": Curve(recall, precision)}


def _from_zero(sums: Floats) -> Floats:
    return np.concatenate(([0.0], sums))
