"""Histograms of pixel scores, from which rank metrics are computed in bounded memory.

Scores are kept as integers in the order of float32. While a histogram has room, each distinct
score has its own bin and every metric is exact. If there are more distinct scores than bins, the
lowest bits of all keys are dropped, as few as suffice, so that neighbouring scores share a bin.
Their number depends only on the scores: merging histograms in any order and grouping gives the
same counts. Bins do not overlap, so counts above a bin's lowest score are exact at any resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BINS = 2**21
"""Most bins for a whole data set: some 60 MB."""

_LARGEST_SHARE, _SMALLEST_SHARE = 2**20, 2**11
_ALL_SHARES = 2**22

_LOWEST, _INFINITY = -0x7F7FFFFF, 0x7F800000
"""Ordinals of the lowest finite number, and of the first above the highest."""

_BLOCK = 2**16
"""Numbers converted at a time, so that intermediate results stay in the processor's cache."""

_WEIGHT_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of pixels in bins of scores; the arrays are ``(K,)``.

    Attributes
    ----------
    shift
        Number of dropped bits: a bin spans up to ``2 ** shift`` neighbouring float32 numbers, or
        a share of ``2 ** (shift - 23)`` of the score. With 0 the histogram is exact.
    keys
        int32 ascending: the bins' ordinals (see :func:`to_ordinals`) without the dropped bits.
    negatives, positives
        int64: pixels of either class.
    pro_weights
        float64: the sum of the positives' weights (see :func:`medrd.metrics.region_weights`).
    components
        The number of components, to which the weights add up.
    """

    shift: int
    keys: NDArray[np.int32]
    negatives: NDArray[np.int64]
    positives: NDArray[np.int64]
    pro_weights: NDArray[np.float64]
    components: int

    def __reduce__(self) -> tuple[Any, ...]:
        # Positives are few, so a sparse form (for other processes) takes 8 bytes per bin, not 28.
        at = np.flatnonzero(self.positives)
        fits = self.negatives.max(initial=0) < 2**32
        negatives = self.negatives.astype(np.uint32) if fits else self.negatives
        sparse = (at.astype(np.int32), self.positives[at], self.pro_weights[at])
        return _unpacked, (self.shift, self.keys, negatives, *sparse, self.components)

    @property
    def exact(self) -> bool:
        """True if every distinct score has its own bin."""
        return self.shift == 0

    @property
    def scores(self) -> NDArray[np.float32]:
        """``(K,)`` ascending: the lowest score that falls into each bin."""
        return from_ordinals(np.maximum(self.keys.astype(np.int64) << self.shift, _LOWEST))


def _unpacked(
    shift: int,
    keys: NDArray[np.int32],
    negatives: NDArray[np.integer],
    at: NDArray[np.int32],
    positives: NDArray[np.int64],
    pro_weights: NDArray[np.float64],
    components: int,
) -> Histogram:
    """Rebuild a histogram from the bins with positives and their counts."""
    everywhere, weights = np.zeros(keys.size, np.int64), np.zeros(keys.size)
    everywhere[at], weights[at] = positives, pro_weights
    return Histogram(shift, keys, negatives.astype(np.int64), everywhere, weights, components)


def count_pixels(
    scores: NDArray[np.float32],
    labels: NDArray[np.bool_],
    pro_weights: NDArray[np.float64] | None = None,
    components: int = 0,
    *,
    max_bins: int = MAX_BINS,
) -> Histogram:
    """Count the evaluated pixels of one volume or picture, or of several.

    Parameters
    ----------
    scores
        ``(N,)`` anomaly scores, higher is more anomalous; rounded to float32.
    labels
        ``(N,)`` bool, True where anomalous.
    pro_weights
        ``(P,)`` weights of the anomalous pixels in their order, from
        :func:`medrd.metrics.region_weights` for the same pixels; None if AUPRO is not needed.
    components
        The number of components that came with the weights; 0 without weights.
    max_bins
        At least 2, so that some resolution always fits.

    Raises
    ------
    ValueError
        NaN or infinite scores, labels that are not bool, shapes that differ, weights that do not
        add up to the number of components (made for another region than this), or fewer than two
        bins.
    """
    scores, labels, weights = _checked(scores, labels, pro_weights, components)
    keys = to_ordinals(scores)
    of_positives = keys[labels]
    keys.sort()
    shift, begins = _begins(keys, max_bins)
    bins = keys[begins] >> shift
    # Positives are few: an argsort of only these is far cheaper than one of all pixels.
    order = np.argsort(of_positives)
    at = np.searchsorted(bins, of_positives[order] >> shift)
    positives = np.bincount(at, minlength=bins.size)
    return Histogram(
        shift,
        bins,
        np.diff(begins, append=keys.size) - positives,
        positives,
        np.asarray(np.bincount(at, weights[order], minlength=bins.size), np.float64),
        int(components),
    )


def merge(
    histograms: Sequence[Histogram], *, max_bins: int = MAX_BINS, min_shift: int = 0
) -> Histogram:
    """Add histograms up, at the finest resolution that all share and that fits.

    No component may have pixels in two of them.

    Parameters
    ----------
    min_shift
        The fewest bits to drop.

    Raises
    ------
    ValueError
        Positive pixels of some have PRO weights and those of others do not, or fewer than two
        bins.
    """
    if len(histograms) == 1 and min_shift <= histograms[0].shift:
        (only,) = histograms
        if only.keys.size <= max_bins:
            return only
    components = sum(part.components for part in histograms)
    if components and any(not part.components and part.positives.any() for part in histograms):
        msg = "some positive pixels have PRO weights and others do not"
        raise ValueError(msg)
    coarsest = max((part.shift for part in histograms), default=0)
    coarsest = max(coarsest, min_shift)
    ascending = np.sort(
        np.concatenate(
            [np.empty(0, np.int32), *(p.keys >> (coarsest - p.shift) for p in histograms)]
        )
    )
    dropped, begins = _begins(ascending, max_bins)
    shift, bins = coarsest + dropped, ascending[begins] >> dropped
    negatives, positives = np.zeros(bins.size, np.int64), np.zeros(bins.size, np.int64)
    weights = np.zeros(bins.size)
    for part in histograms:
        at = np.searchsorted(bins, part.keys >> (shift - part.shift))
        np.add.at(negatives, at, part.negatives)
        np.add.at(positives, at, part.positives)
        np.add.at(weights, at, part.pro_weights)
    return Histogram(shift, bins, negatives, positives, weights, components)


def bins_each(members: int) -> int:
    """Most bins for each subject's histogram, so that all ``members`` fit into memory together."""
    return min(max(_ALL_SHARES // max(members, 1), _SMALLEST_SHARE), _LARGEST_SHARE)


def threshold_at_fpr(histogram: Histogram, fpr: float) -> float:
    """The smallest threshold between bins at which at most a share ``fpr`` of negatives is flagged.

    It is just above the highest bin that would exceed the share if all of it were flagged. So it
    keeps the rate at any resolution, and for an exact histogram it is the smallest float32 number
    that does. Everywhere in medrd, a pixel is flagged if its score is **at least** the threshold.

    Raises
    ------
    ValueError
        ``fpr`` outside [0, 1), or no negative pixels.
    """
    if not 0 <= fpr < 1:
        msg = f"fpr must be in [0, 1), got {fpr}"
        raise ValueError(msg)
    negatives = int(histogram.negatives.sum())
    if not negatives:
        msg = "a threshold for a false-positive rate needs negative pixels, got none"
        raise ValueError(msg)
    flagged = np.cumsum(histogram.negatives[::-1])[::-1]
    highest = np.flatnonzero(flagged / negatives > fpr)[-1]
    above = (int(histogram.keys[highest]) + 1) << histogram.shift
    return float(from_ordinals(np.array([min(above, _INFINITY)]))[0])


def fpr_at(histogram: Histogram, threshold: float) -> float:
    """The share of negatives that a threshold flags.

    The share is exact for thresholds between bins, for example from :func:`threshold_at_fpr` of
    this histogram or a coarser one; others are rounded down to the lower end of their bin. NaN
    without negatives.
    """
    ordinal = int(to_ordinals(np.array([threshold], np.float32))[0])
    start = int(np.searchsorted(histogram.keys, ordinal >> histogram.shift))
    if ordinal >= _INFINITY:  # no score reaches it, though it could share the last bin
        start = histogram.keys.size
    total = int(histogram.negatives.sum())
    return int(histogram.negatives[start:].sum()) / total if total else float("nan")


def to_ordinals(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Convert float32 of any shape, without NaN, to integers in the same order.

    The bits of a float32 without the sign, read as an integer, ascend with its magnitude. With
    the sign applied to that integer, neighbours differ by one, and -0.0 and 0.0 are both 0.
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.int32)
    ordinals = np.empty(bits.size, np.int32)
    for start in range(0, bits.size, _BLOCK):
        block = bits.ravel()[start : start + _BLOCK]
        sign = block >> 31  # -1 for a negative number, else 0
        # -(bits without the sign) for negative numbers; np.where would take many times as long.
        np.subtract(block ^ (sign & 0x7FFFFFFF), sign, out=ordinals[start : start + _BLOCK])
    return ordinals.reshape(bits.shape)


def from_ordinals(ordinals: NDArray[np.integer]) -> NDArray[np.float32]:
    """Invert :func:`to_ordinals`; 0 becomes 0.0."""
    ordinals = np.asarray(ordinals, dtype=np.int32)
    magnitudes = np.abs(ordinals).view(np.float32)
    return np.where(ordinals < 0, -magnitudes, magnitudes)


def _begins(ascending: NDArray[np.int32], max_bins: int) -> tuple[int, NDArray[np.intp]]:
    """The number of low bits to drop so that at most ``max_bins`` keys differ, and the index at
    which each distinct key begins."""
    if max_bins < 2:
        msg = f"max_bins must be at least 2, got {max_bins}"
        raise ValueError(msg)
    # Neighbours still differ without their lowest bits where a higher bit does.
    steps = np.empty(ascending.size, np.uint32)
    steps[:1] = 2**32 - 1  # the first begins a bin at any resolution
    np.bitwise_xor(ascending[1:], ascending[:-1], out=steps[1:].view(np.int32))
    bits = 0
    while (distinct := int(np.count_nonzero(steps >= np.uint32(1 << bits)))) > max_bins:
        # Without one bit more there are at least half as many; so this leaves out no answer.
        bits += (-(-distinct // max_bins) - 1).bit_length()
    return bits, np.flatnonzero(steps >= np.uint32(1 << bits))


def _checked(
    scores: NDArray[np.float32],
    labels: NDArray[np.bool_],
    pro_weights: NDArray[np.float64] | None,
    components: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """``(N,)`` float32 scores and labels, and ``(P,)`` weights; see :func:`count_pixels`."""
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused below
        scores = np.asarray(scores, dtype=np.float32)
    labels = np.asarray(labels)
    if labels.dtype != np.bool_:
        msg = f"labels must be bool, got {labels.dtype}: say which values are anomalous"
        raise ValueError(msg)
    if scores.ndim != 1 or labels.shape != scores.shape:
        msg = f"scores and labels must both be (N,), got {scores.shape} and {labels.shape}"
        raise ValueError(msg)
    finite = np.isfinite(scores)
    if not finite.all():
        bad = int(scores.size - finite.sum())
        msg = f"scores must be finite, got {bad} NaN or infinite values of {scores.size}"
        raise ValueError(msg)
    count = int(np.count_nonzero(labels))
    weights = np.zeros(count) if pro_weights is None else np.asarray(pro_weights, np.float64)
    if weights.shape != (count,):
        msg = f"pro_weights must be ({count},), one per positive pixel, got {weights.shape}"
        raise ValueError(msg)
    total = float(weights.sum())
    if not abs(total - components) <= _WEIGHT_TOLERANCE * max(1, components):
        msg = (
            f"pro_weights must add up to the {components} components, "
            f"got {total:.6g}: were they made for the same region?"
        )
        raise ValueError(msg)
    return scores, labels, weights
