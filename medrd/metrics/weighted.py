"""The metrics of many weighted data sets at once: what a bootstrap over units needs.

Everything is computed for ``B`` resamples together, on arrays ``(B, K)`` of counts in bins,
scores descending. A bin counts as one score, as ties do in the exact metrics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medrd.metrics.units import Units

METRICS = (
    "image_auroc",
    "image_ap",
    "pixel_auroc",
    "pixel_ap",
    "pixel_dice_best",
    "pixel_dice",
    "aupro",
    "subject_dice",
)

_CELLS = 1_000_000
"""Elements of the largest temporary array, so some 100 MB at the peak."""

Floats = NDArray[np.float64]


def weighted_metrics(
    units: Units, weights: NDArray[np.integer], *, max_fpr: float = 0.3
) -> dict[str, Floats]:
    """Metrics of data sets in which every unit occurs a number of times.

    Parameters
    ----------
    weights
        ``(B, U)`` whole numbers: how often each unit occurs in each of ``B`` data sets. All
        ones give the metrics of the data set itself; image metrics, Dice at the threshold and
        the subjects' Dice exactly, the others up to the binning (see
        :func:`medrd.metrics.make_units`).
    max_fpr
        Where the AUPRO's interval ends, in (0, 1].

    Returns
    -------
    dict
        ``(B,)`` for each name in :data:`METRICS`; NaN where a class is empty, and for what the
        units do not hold (no PRO weights, no calibrated threshold).

    Raises
    ------
    ValueError
        Weights that are not whole numbers from 0 up, or not ``(B, U)``.
    """
    weights = np.asarray(weights)
    count = len(units.ids)
    if weights.ndim != 2 or weights.shape[1] != count or weights.dtype.kind not in "iu":
        msg = f"weights must be whole numbers (B, {count}), got {weights.dtype} {weights.shape}"
        raise ValueError(msg)
    if weights.size and weights.min() < 0:
        msg = f"weights must not be negative, got {weights.min()}"
        raise ValueError(msg)
    if not 0 < max_fpr <= 1:
        msg = f"max_fpr must be in (0, 1], got {max_fpr}"
        raise ValueError(msg)
    bins = _Bins.of(units)
    images = _Images.of(units)
    results = {name: np.full(len(weights), np.nan) for name in METRICS}
    step = max(1, _CELLS // max(bins.negatives.shape[1], images.units.size, count, 1))
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 of an empty class is NaN
        for start in range(0, len(weights), step):
            rows = slice(start, start + step)
            times = weights[rows].astype(np.float64)  # exact up to 2**53, and quick to multiply
            for name, values in (
                _image_metrics(images, times)
                | _pixel_metrics(bins, times, max_fpr)
                | _dice(units, times)
            ).items():
                results[name][rows] = values
    return results


@dataclass(frozen=True, eq=False)
class _Bins:
    """A row a unit, ``(U, K)``, scores descending."""

    negatives: Floats
    positives: Floats
    pro_weights: Floats
    components: NDArray[np.int64]

    @classmethod
    def of(cls, units: Units) -> _Bins:
        def descending(counts: NDArray[np.uint32] | NDArray[np.float32]) -> Floats:
            return counts[:, ::-1].astype(np.float64, order="C")

        return cls(
            descending(units.negatives),
            descending(units.positives),
            descending(units.pro_weights),
            units.components,
        )


@dataclass(frozen=True, eq=False)
class _Images:
    """``(I,)`` images, scores descending, and where each distinct score begins."""

    labels: NDArray[np.bool_]
    units: NDArray[np.int64]
    starts: NDArray[np.intp]

    @classmethod
    def of(cls, units: Units) -> _Images:
        order = np.argsort(-units.image_scores, kind="stable")
        scores = units.image_scores[order]
        starts = np.flatnonzero(np.diff(scores, prepend=np.nan) != 0)
        return cls(units.image_labels[order], units.image_units[order], starts)


def _image_metrics(images: _Images, times: Floats) -> dict[str, Floats]:
    if not images.units.size:
        return {}
    each = times[:, images.units]
    positives = np.add.reduceat(each * images.labels, images.starts, axis=1)
    negatives = np.add.reduceat(each * ~images.labels, images.starts, axis=1)
    fp, tp = np.cumsum(negatives, axis=1), np.cumsum(positives, axis=1)
    return {
        "image_auroc": _auroc(negatives, positives, fp, tp),
        "image_ap": _average_precision(negatives, positives, fp, tp),
    }


def _pixel_metrics(bins: _Bins, times: Floats, max_fpr: float) -> dict[str, Floats]:
    if not bins.negatives.shape[1]:
        return {}
    negatives, positives = times @ bins.negatives, times @ bins.positives
    fp, tp = np.cumsum(negatives, axis=1), np.cumsum(positives, axis=1)
    return {
        "pixel_auroc": _auroc(negatives, positives, fp, tp),
        "pixel_ap": _average_precision(negatives, positives, fp, tp),
        "pixel_dice_best": _best_dice(fp, tp),
        "aupro": _aupro(negatives, fp, times @ bins.pro_weights, times @ bins.components, max_fpr),
    }


def _dice(units: Units, times: Floats) -> dict[str, Floats]:
    """Dice at the calibrated threshold: over all pixels, and the mean over units."""
    defined = ~np.isnan(units.dice)
    subject = times[:, defined] @ units.dice[defined] / times[:, defined].sum(axis=1)
    if (units.flagged < 0).any():
        return {"subject_dice": subject, "pixel_dice": np.full(len(times), np.nan)}
    fp, tp, positives = (times @ units.flagged).T
    pixel = np.where(positives > 0, 2 * tp / (fp + tp + positives), np.nan)
    return {"subject_dice": subject, "pixel_dice": pixel}


# All below: (B, K) counts and running sums, scores descending, to (B,).


def _auroc(negatives: Floats, positives: Floats, fp: Floats, tp: Floats) -> Floats:
    wins = np.einsum("bk,bk->b", negatives, tp - positives / 2)
    value: Floats = wins / (fp[:, -1] * tp[:, -1])
    return value


def _average_precision(negatives: Floats, positives: Floats, fp: Floats, tp: Floats) -> Floats:
    precision = tp / np.maximum(fp + tp, 1)
    value = np.einsum("bk,bk->b", precision, positives) / tp[:, -1]
    return np.where(fp[:, -1] > 0, value, np.nan)


def _best_dice(fp: Floats, tp: Floats) -> Floats:
    best = (2 * tp / (fp + tp + tp[:, -1:])).max(axis=1)
    return np.where((fp[:, -1] > 0) & (tp[:, -1] > 0), best, np.nan)


def _aupro(
    negatives: Floats, fp: Floats, pro_weights: Floats, components: Floats, max_fpr: float
) -> Floats:
    """As :func:`medrd.metrics.aupro.aupro_terms`, for many at once."""
    limit = max_fpr * fp[:, -1:]
    before = fp - negatives
    width = np.minimum(fp, limit) - np.minimum(before, limit)
    reach = width / np.maximum(negatives, 1)
    covered = np.cumsum(pro_weights, axis=1)
    height = covered - pro_weights * (1 - reach / 2)
    area = np.einsum("bk,bk->b", width, height) / (limit[:, 0] * components)
    return np.minimum(area, 1.0)
