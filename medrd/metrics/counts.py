"""AUROC, average precision, best Dice and AUPRO from counts of pixels (or images) in bins.

Everything is computed for ``B`` data sets at once, as a bootstrap needs it; a single data set is
the case ``B = 1``. All pixels of a bin count as having the same score.

AUPRO is the area under the per-region overlap curve, as MVTec AD defines it (Bergmann et al.,
IJCV 2021). At a threshold, PRO is the mean over *all components of the data set* of the share of
the component's pixels that are flagged, and the false-positive rate is over *all normal pixels of
the data set*; the area under PRO for rates from 0 to 0.3 is divided by 0.3. The curve starts at
(0, 0), has a point for every distinct score, and is interpolated linearly at the end of the
interval. RD4AD's released code calls another metric PRO: :func:`medrd.metrics.aupro_rd4ad`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medrd.metrics.histogram import Histogram

MAX_FPR = 0.3
"""The false-positive rate at which AUPRO's interval ends."""

_ROUNDING = 1e-9
"""Added to both sides of bounds: more than the rounding error of a sum of four million terms."""

Floats = NDArray[np.float64]


class Confusion(NamedTuple):
    """False and true positives at a threshold, and the number of all positives."""

    fp: int
    tp: int
    positives: int

    @classmethod
    def of(cls, flagged: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Confusion:
        """Compare two masks of one shape."""
        tp = int(np.count_nonzero(flagged & truth))
        return cls(int(np.count_nonzero(flagged)) - tp, tp, int(np.count_nonzero(truth)))

    @property
    def dice(self) -> float | None:
        """Dice, or None without positives."""
        flagged_and_positive = self.fp + self.tp + self.positives
        return 2 * self.tp / flagged_and_positive if self.positives else None


@dataclass(frozen=True, eq=False)
class Counts:
    """``B`` data sets in ``K`` bins, **highest scores first**; metrics are ``(B,)``.

    A metric is NaN for a data set in which a class is empty.

    Attributes
    ----------
    negatives, positives
        ``(B, K)`` counts of pixels of either class.
    pro_weights, components
        For AUPRO: ``(B, K)`` sums of the positives' PRO weights, and their totals ``(B,)``.
    """

    negatives: Floats
    positives: Floats
    pro_weights: Floats | None = None
    components: Floats | None = None
    max_fpr: float = MAX_FPR
    """The false-positive rate at which AUPRO's interval ends, in (0, 1]."""

    def __post_init__(self) -> None:
        if not 0 < self.max_fpr <= 1:
            raise ValueError(f"max_fpr must be in (0, 1], got {self.max_fpr}")

    @cached_property
    def fp(self) -> Floats:
        """``(B, K)`` false positives at each bin's lowest score."""
        return np.cumsum(self.negatives, axis=1)

    @cached_property
    def tp(self) -> Floats:
        """``(B, K)`` true positives."""
        return np.cumsum(self.positives, axis=1)

    def auroc(self) -> Floats:
        """The share of pairs in which the positive has the higher score; a tie counts half."""
        wins = np.einsum("bk,bk->b", self.negatives, self.tp - self.positives / 2)
        return _divided(wins, self.fp[:, -1] * self.tp[:, -1])

    def average_precision(self) -> Floats:
        """The mean of the precision over the positives, as in scikit-learn."""
        precision = self.tp / np.maximum(self.fp + self.tp, 1)
        value = _divided(np.einsum("bk,bk->b", precision, self.positives), self.tp[:, -1])
        return np.where(self.fp[:, -1] > 0, value, np.nan)

    def best_dice(self) -> Floats:
        """The highest Dice over all thresholds: an oracle, for comparison with other papers."""
        with np.errstate(invalid="ignore"):  # 0 / 0 of an empty class
            best = (2 * self.tp / (self.fp + self.tp + self.tp[:, -1:])).max(axis=1)
        return np.where((self.fp[:, -1] > 0) & (self.tp[:, -1] > 0), best, np.nan)

    def aupro(self) -> Floats:
        """AUPRO as defined at the top of this module; NaN also without PRO weights."""
        if self.pro_weights is None or self.components is None:
            return np.full(len(self.negatives), np.nan)
        width, limit = self._widths()
        # How far into a segment the interval reaches: 1 for all but the one that crosses its end.
        reach = width / np.maximum(self.negatives, 1)
        overlap = np.cumsum(self.pro_weights, axis=1)
        height = overlap - self.pro_weights * (1 - reach / 2)
        area = _divided(np.einsum("bk,bk->b", width, height), limit * self.components)
        return np.minimum(area, 1.0)

    def bounds(self) -> dict[str, tuple[Floats, Floats]]:
        """Bounds of each metric if the pixels of a bin do not have the same score.

        The order of bins is known, the order of pixels inside one is not. The ends of bins are
        operating points of the data in any case, so the best and the worst order inside each bin
        give certain bounds of each metric.

        Returns
        -------
        dict
            Low and high ends, ``(B,)`` each, by the names of
            :func:`medrd.metrics.columns.pixel_metrics`.
        """
        # A tie counts as half a pair won: at worst the pair is lost, at best won.
        open_pairs = np.einsum("bk,bk->b", self.negatives, self.positives)
        half = _divided(open_pairs, 2 * self.fp[:, -1] * self.tp[:, -1])
        auroc, dice = self.auroc(), self.best_dice()
        fp_before, tp_before = self.fp - self.negatives, self.tp - self.positives
        dice_high = _divided(2 * self.tp, fp_before + self.tp + self.tp[:, -1:]).max(axis=1)
        # Negatives first and then positives one by one, or all positives first. With F and T
        # flagged above a bin of n and p, the k-th positive finds a precision between
        # (T + k) / (F + n + T + k) and (T + p) / (F + T + p). The sum of the first over k is
        # p - (F + n) * sum(1 / (F + n + T + k)); 1 / x is convex, so each of its terms is at most
        # the integral over an interval of length 1 around it.
        p, first = self.positives, self.fp + tp_before + 0.5
        low = np.where(
            p == 1,
            _divided(self.tp, self.fp + self.tp),
            p - self.fp * np.log1p(p / first),
        )
        high = _divided(p * self.tp, fp_before + self.tp)
        precision = [
            _divided(np.where(p > 0, each, 0).sum(axis=1), self.tp[:, -1]) for each in (low, high)
        ]
        found = {
            "pixel_auroc": (auroc - half, auroc + half),
            "pixel_ap": (precision[0], precision[1]),
            "pixel_dice_best": (dice, dice_high),
        }
        if self.pro_weights is not None and self.components is not None:
            # The curve ascends, so between a bin's ends it stays between the overlaps there.
            width, limit = self._widths()
            overlap = np.cumsum(self.pro_weights, axis=1)
            area = limit * self.components
            found["aupro"] = (
                _divided(np.einsum("bk,bk->b", width, overlap - self.pro_weights), area),
                _divided(np.einsum("bk,bk->b", width, overlap), area),
            )
        slack = max(_ROUNDING, self.negatives.shape[1] * 2.0**-52)
        return {
            name: (np.maximum(low - slack, 0), np.minimum(high + slack, 1))
            for name, (low, high) in found.items()
        }

    def _widths(self) -> tuple[Floats, Floats]:
        """``(B, K)`` false positives that each bin adds below the limit, and the ``(B,)`` limit."""
        limit = self.max_fpr * self.fp[:, -1:]
        before = self.fp - self.negatives
        return np.minimum(self.fp, limit) - np.minimum(before, limit), limit[:, 0]


def count_scores(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> Counts:
    """Count scores in a bin for each distinct one, so that metrics are exact; ``B = 1``."""
    distinct, at = np.unique(-scores, return_inverse=True)
    negatives, positives = (
        np.bincount(at[of_class], minlength=max(distinct.size, 1))[None].astype(np.float64)
        for of_class in (~labels, labels)
    )
    return Counts(negatives, positives)


def count_histogram(histogram: Histogram, max_fpr: float = MAX_FPR) -> Counts:
    """The counts of one data set (``B = 1``); runs of bins without a positive become one bin.

    This changes no metric and no bound, as the order of negatives among themselves does not
    matter. Anomalous pixels are few, so there may be many times fewer bins.
    """
    some = histogram.positives > 0
    starts = np.flatnonzero(some | np.append(True, some[:-1])[: some.size])

    def descending(counts: NDArray[np.int64] | NDArray[np.float64]) -> Floats:
        if not starts.size:
            return np.zeros((1, 1))
        return np.add.reduceat(counts, starts)[None, ::-1].astype(np.float64)

    weighed = bool(histogram.components)
    return Counts(
        descending(histogram.negatives),
        descending(histogram.positives),
        descending(histogram.pro_weights) if weighed else None,
        np.array([histogram.components], np.float64) if weighed else None,
        max_fpr,
    )


def _divided(numerator: Floats, denominator: Floats) -> Floats:
    """Divide, with NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: Floats = np.where(denominator > 0, numerator / denominator, np.nan)
    return quotient
