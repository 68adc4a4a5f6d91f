"""Curves to look at, from the same units that the intervals come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from medrd.metrics.units import Units


@dataclass(frozen=True, eq=False)
class Curve:
    """Points ``(K,)`` from the highest threshold to the lowest."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


def image_curves(units: Sequence[Units]) -> dict[str, Curve]:
    """``roc`` (false against true positive rate) and ``pr`` (recall against precision).

    Of the images of all units together; empty where a class is.
    """
    scores = np.concatenate([group.image_scores for group in units])
    labels = np.concatenate([group.image_labels for group in units])
    if not labels.any() or labels.all():
        return {}
    false, true, _ = roc_curve(labels, scores)
    precision, recall, _ = precision_recall_curve(labels, scores)
    return {"roc": Curve(false, true), "pr": Curve(recall[::-1], precision[::-1])}


def pixel_curves(units: Units) -> dict[str, Curve]:
    """``roc``, ``pr`` and, where components were weighed, ``pro`` (false positive rate against
    the mean share of each component that is flagged).

    Exact at the units' bins (see :func:`medrd.metrics.make_units`) and straight between them.
    """
    negatives, positives = (
        counts.sum(axis=0, dtype=np.float64)[::-1] for counts in (units.negatives, units.positives)
    )
    if not negatives.sum() or not positives.sum():
        return {}
    false, true = _from_zero(negatives), _from_zero(positives)
    false_rate, recall = false / false[-1], true / true[-1]
    flagged = false + true
    # Of nothing flagged the precision is undefined: it begins where the first pixels are.
    precision = np.divide(true, flagged, out=np.ones_like(true), where=flagged > 0)
    precision[0] = precision[1]
    curves = {"roc": Curve(false_rate, recall), "pr": Curve(recall, precision)}
    components = int(units.components.sum())
    if components:
        covered = _from_zero(units.pro_weights.sum(axis=0, dtype=np.float64)[::-1])
        curves["pro"] = Curve(false_rate, covered / components)
    return curves


def _from_zero(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate(([0.0], np.cumsum(counts)))
