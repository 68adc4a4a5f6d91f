"""Counts of each unit (subject or picture) in common bins of scores, for resampling.

Confidence intervals come from resampling subjects a thousand times. Rank metrics need only counts
at thresholds, and counts add up: if every unit is counted in the same bins of scores, a resample
is a weighted sum of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medrd.metrics.columns import RESAMPLED, metrics_of_images, metrics_of_pixels
from medrd.metrics.counts import Confusion, Counts, Floats
from medrd.metrics.histogram import Histogram, merge

_NO_THRESHOLD = -1
"""Fills ``Units.flagged`` in files if there is no calibrated threshold."""

MAX_CELLS = 1_000_000
"""Most elements of a temporary array; some 100 MB at the peak."""


@dataclass(frozen=True, eq=False)
class Units:
    """``U`` subjects or pictures under one model, ``I`` images, ``K`` bins of pixel scores.

    Attributes
    ----------
    ids
        ``U`` different names, by which units of several seeds or models are matched.
    scores
        ``(K,)`` float32 ascending: the lowest score in each bin.
    negatives, positives
        ``(U, K)`` uint32 pixels of either class.
    pro_weights
        ``(U, K)`` float32 sums of the pixels' PRO weights.
    components
        ``(U,)`` int64 numbers of components.
    image_scores, image_labels, image_units
        ``(I,)`` float32, bool and int64: each slice's or picture's score, label, and the index
        of its unit in ``ids``.
    dice
        ``(U,)`` float64, Dice at the calibrated threshold, NaN if undefined.
    flagged
        ``(U, 3)`` int64, a :class:`medrd.metrics.Confusion` a row: false positives, true
        positives and positives at the calibrated threshold; None without a threshold.
    """

    ids: tuple[str, ...]
    scores: NDArray[np.float32]
    negatives: NDArray[np.uint32]
    positives: NDArray[np.uint32]
    pro_weights: NDArray[np.float32]
    components: NDArray[np.int64]
    image_scores: NDArray[np.float32]
    image_labels: NDArray[np.bool_]
    image_units: NDArray[np.int64]
    dice: NDArray[np.float64]
    flagged: NDArray[np.int64] | None

    def __post_init__(self) -> None:
        count, bins, images = len(self.ids), self.scores.shape[0], self.image_scores.shape
        expected: dict[str, tuple[int, ...]] = {
            "scores": (bins,),
            "negatives": (count, bins),
            "positives": (count, bins),
            "pro_weights": (count, bins),
            "components": (count,),
            "image_scores": images[:1],
            "image_labels": images,
            "image_units": images,
            "dice": (count,),
        }
        if self.flagged is not None:
            expected["flagged"] = (count, 3)
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                msg = f"{name} must be {shape} for {count} units, got {getattr(self, name).shape}"
                raise ValueError(msg)
        if len(set(self.ids)) != count:
            msg = f"ids must differ, got {count} with {len(set(self.ids))} different ones"
            raise ValueError(msg)
        if self.image_units.size and not (
            self.image_units.min() >= 0 and self.image_units.max() < count
        ):
            msg = f"image_units must be indices into the {count} ids"
            raise ValueError(msg)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays for ``np.savez_compressed``."""
        arrays = {item.name: getattr(self, item.name) for item in fields(self)}
        if self.flagged is None:
            arrays["flagged"] = np.full((len(self.ids), 3), _NO_THRESHOLD, dtype=np.int64)
        return arrays | {"ids": np.array(self.ids, dtype=np.str_)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild units from the arrays of :meth:`to_arrays`.

        Raises
        ------
        KeyError, ValueError
            An array is missing, or the shapes do not fit together.
        """
        values: dict[str, Any] = {item.name: arrays[item.name] for item in fields(cls)}
        values["ids"] = tuple(str(name) for name in arrays["ids"])
        if (values["flagged"] == _NO_THRESHOLD).any():
            values["flagged"] = None
        return cls(**values)


def make_units(
    ids: Sequence[str],
    histograms: Sequence[Histogram],
    *,
    image_scores: ArrayLike,
    image_labels: ArrayLike,
    image_units: ArrayLike,
    dice: ArrayLike | None = None,
    flagged: Sequence[Confusion] | None = None,
    bins: int = 2048,
) -> Units:
    """Count every unit's pixels in common bins.

    The bins follow the data. From the highest score downwards, three shares grow from 0 to 1: that
    of the positives, that of the negatives, and the logarithm of the number of flagged pixels
    relative to that of all. A bin ends whenever the sum of the three has grown by ``3 / bins``. So
    both classes are resolved where they are dense, and the logarithm resolves the top, where a
    few false positives decide the precision. A score whose ties alone reach that limit has its own
    bin; so do all scores if there are no more than ``bins``. A bin with several scores has less
    than ``6 / bins`` of either class, so binning changes a data set's AUROC by at most
    ``1.5 / bins`` and its AUPRO by ``3 / bins / MAX_FPR``, and usually by a hundredth of that.

    Parameters
    ----------
    ids
        ``U`` names of subjects or pictures.
    histograms
        One per unit, in the same order (see :func:`medrd.metrics.count_pixels`).
    image_scores, image_labels, image_units
        ``(I,)``: each slice's or picture's score, label (True if anomalous) and unit index.
    dice
        ``(U,)`` at the calibrated threshold, NaN if undefined; without it, all are NaN.
    flagged
        ``U`` confusions at that threshold; without them there is no pixel Dice.
    bins
        Approximate number of bins; with many ties there may be up to twice as many.

    Raises
    ------
    ValueError
        Lengths that differ, repeated ids, image labels that are not bool, fewer than 2 bins, or
        PRO weights in some histograms only.
    """
    count = len(ids)
    if count != len(histograms):
        msg = f"ids and histograms must be of one length, got {count} and {len(histograms)}"
        raise ValueError(msg)
    if bins < 2:
        msg = f"bins must be at least 2, got {bins}"
        raise ValueError(msg)
    labels = np.asarray(image_labels)
    if labels.size and labels.dtype != np.bool_:
        msg = f"image_labels must be bool, got {labels.dtype}"
        raise ValueError(msg)
    whole = merge(histograms)
    starts = _common_bins(whole, bins)
    shape = (count, starts.size)
    negatives, positives = np.zeros(shape, np.uint32), np.zeros(shape, np.uint32)
    pro_weights = np.zeros(shape)
    for unit, part in enumerate(histograms):
        own = part.keys >> (whole.shift - part.shift)
        at = np.searchsorted(whole.keys[starts], own, side="right") - 1
        np.add.at(negatives[unit], at, part.negatives.astype(np.uint32))
        np.add.at(positives[unit], at, part.positives.astype(np.uint32))
        np.add.at(pro_weights[unit], at, part.pro_weights)
    return Units(
        ids=tuple(ids),
        scores=whole.scores[starts],
        negatives=negatives,
        positives=positives,
        pro_weights=pro_weights.astype(np.float32),
        components=np.array([part.components for part in histograms], dtype=np.int64),
        image_scores=np.asarray(image_scores, dtype=np.float32),
        image_labels=labels.astype(np.bool_),
        image_units=np.asarray(image_units, dtype=np.int64),
        dice=np.full(count, np.nan) if dice is None else np.asarray(dice, dtype=np.float64),
        flagged=None if flagged is None else np.array(flagged, np.int64).reshape(-1, 3),
    )


def weighted_metrics(units: Units, weights: NDArray[np.integer]) -> dict[str, Floats]:
    """Metrics of data sets in which every unit occurs a number of times.

    Parameters
    ----------
    weights
        ``(B, U)`` integers: how often each unit occurs in each of ``B`` data sets. If all are 1,
        the metrics are those of the data set: exact for image metrics and Dice, up to the binning
        for the others (see :func:`make_units`).

    Returns
    -------
    dict
        ``(B,)`` for each name in :data:`medrd.metrics.columns.RESAMPLED`; NaN if a class is empty,
        or if the units lack what the metric needs (PRO weights, a calibrated threshold).

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
    pixels, images = _Pixels.of(units), _Images.of(units)
    results = {name: np.full(len(weights), np.nan) for name in RESAMPLED}
    step = max(1, MAX_CELLS // max(units.scores.size, images.units.size, count, 1))
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        times = weights[rows].astype(np.float64)  # exact up to 2**53, and quick to multiply
        for name, values in (
            images.metrics(times) | pixels.metrics(times) | _dice(units, times)
        ).items():
            results[name][rows] = values
    return results


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Counts ``(U, K)``, highest scores first, and components ``(U,)``."""

    negatives: Floats
    positives: Floats
    pro_weights: Floats
    components: NDArray[np.int64]

    @classmethod
    def of(cls, units: Units) -> _Pixels:
        def descending(counts: NDArray[np.uint32] | NDArray[np.float32]) -> Floats:
            return counts[:, ::-1].astype(np.float64, order="C")

        return cls(
            descending(units.negatives),
            descending(units.positives),
            descending(units.pro_weights),
            units.components,
        )

    def metrics(self, times: Floats) -> dict[str, Floats]:
        if not self.negatives.size:
            return {}
        counts = Counts(
            times @ self.negatives,
            times @ self.positives,
            times @ self.pro_weights,
            times @ self.components,
        )
        return metrics_of_pixels(counts)


@dataclass(frozen=True, eq=False)
class _Images:
    """``(I,)`` images by descending score, and the index at which each distinct score begins."""

    labels: NDArray[np.bool_]
    units: NDArray[np.int64]
    starts: NDArray[np.intp]

    @classmethod
    def of(cls, units: Units) -> _Images:
        order = np.argsort(-units.image_scores, kind="stable")
        scores = units.image_scores[order]
        starts = np.flatnonzero(np.diff(scores, prepend=np.nan) != 0)
        return cls(units.image_labels[order], units.image_units[order], starts)

    def metrics(self, times: Floats) -> dict[str, Floats]:
        if not self.units.size:
            return {}
        each = times[:, self.units]
        counts = Counts(
            np.add.reduceat(each * ~self.labels, self.starts, axis=1),
            np.add.reduceat(each * self.labels, self.starts, axis=1),
        )
        return metrics_of_images(counts)


def _dice(units: Units, times: Floats) -> dict[str, Floats]:
    """Dice at the calibrated threshold: over all pixels, and the mean over units."""
    defined = ~np.isnan(units.dice)
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 without such units is NaN
        dice = {
            "subject_dice": times[:, defined] @ units.dice[defined] / times[:, defined].sum(axis=1)
        }
        if units.flagged is not None:
            fp, tp, positives = (times @ units.flagged).T
            dice["pixel_dice"] = np.where(positives > 0, 2 * tp / (fp + tp + positives), np.nan)
    return dice


def _common_bins(whole: Histogram, bins: int) -> NDArray[np.intp]:
    """``(K,)`` ascending: indices of the data set's bins at which a common bin begins."""
    if whole.keys.size <= bins:
        return np.arange(whole.keys.size)
    tp, fp = (np.cumsum(counts[::-1]) for counts in (whole.positives, whole.negatives))
    # Grows from 0 to `bins` with falling scores; each of the three terms adds a third.
    reached = (bins / 3) * (
        tp / max(tp[-1], 1) + fp / max(fp[-1], 1) + np.log1p(tp + fp) / np.log1p(tp[-1] + fp[-1])
    )
    own_bin = np.diff(reached, prepend=0) >= 1
    ends = np.append(np.diff(np.floor(reached)) != 0, True)
    # With falling scores, a bin ends before the next step, and after a score with its own bin.
    ends[:-1] |= own_bin[:-1]
    return np.flatnonzero(ends[::-1])
