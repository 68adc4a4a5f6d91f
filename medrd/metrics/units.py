"""What every subject (or picture) adds to a data set, on common bins: ready to be drawn again.

Confidence intervals come from drawing subjects anew, a thousand times, and a thousand exact
evaluations would take days. Rank metrics need only counts at thresholds, though, and counts add
up: with every unit counted on the same bins of scores, a resample is a weighted sum of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medrd.metrics.curve import count_totals, operating_points
from medrd.metrics.runs import Run, release_pages

NO_THRESHOLD = -1
"""Stands in ``Units.flagged`` where no calibrated threshold exists."""


@dataclass(frozen=True, eq=False)
class Units:
    """``U`` subjects or pictures under one model, ``I`` images, ``K`` bins of pixel scores.

    Attributes
    ----------
    ids
        ``U`` different names; groups under several seeds or models are matched by them.
    scores
        ``(K,)`` float32 ascending: the lowest score in each bin.
    negatives, positives
        ``(U, K)`` uint32 pixels of either class.
    pro_weights
        ``(U, K)`` float32 sums of the pixels' PRO weights.
    components
        ``(U,)`` int64, the components that the weights stand for.
    image_scores, image_labels, image_units
        ``(I,)`` float32, bool and int64: slices or pictures, and whose they are (an index into
        ``ids``).
    dice
        ``(U,)`` float64, Dice at the calibrated threshold, NaN where undefined.
    flagged
        ``(U, 3)`` int64: false positives, true positives and positives at the calibrated
        threshold; -1 without one.
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
    flagged: NDArray[np.int64]

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
            "flagged": (count, 3),
        }
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
        """Arrays for ``np.savez_compressed``, none of them pickled."""
        arrays = {item.name: getattr(self, item.name) for item in fields(self)}
        return arrays | {"ids": np.array(self.ids, dtype=np.str_)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Undo :meth:`to_arrays`.

        Raises
        ------
        KeyError, ValueError
            An array is missing, or the shapes do not fit together.
        """
        values: dict[str, Any] = {item.name: arrays[item.name] for item in fields(cls)}
        return cls(**(values | {"ids": tuple(str(name) for name in arrays["ids"])}))


def make_units(
    ids: Sequence[str],
    runs: Sequence[Run],
    *,
    image_scores: ArrayLike,
    image_labels: ArrayLike,
    image_units: ArrayLike,
    dice: ArrayLike | None = None,
    flagged: ArrayLike | None = None,
    bins: int = 2048,
) -> Units:
    """Count every unit's pixels on bins common to all.

    The bins follow the data. On its way down from the highest score, the data set gathers a
    share of all positives, a share of all negatives, and the logarithm of what is flagged
    relative to the logarithm of everything; a bin ends whenever the three together have grown
    by ``3 / bins``. So positives and negatives are both resolved where they lie dense, and the
    logarithm resolves the top, where a few false positives decide the precision. A score that
    alone makes up so much (a plateau of ties) has a bin for itself; so have all scores if there
    are no more than ``bins``. A bin with several scores holds less than ``6 / bins`` of either
    class; by that the binning changes a data set's AUROC by at most ``1.5 / bins`` and its AUPRO
    by ``3 / bins / max_fpr``, and usually by a hundredth of that. Average precision and
    the best Dice have no such simple bound; :func:`medrd.metrics.binned_metrics` gives one for
    the data at hand.

    Parameters
    ----------
    ids
        ``U`` names of subjects or pictures.
    runs
        One a unit, in the same order (see :func:`medrd.metrics.make_run`).
    image_scores, image_labels, image_units
        ``(I,)``: slices' or pictures' scores, whether they are anomalous, and the unit's index.
    dice
        ``(U,)`` at the calibrated threshold; NaN, as without the argument, where undefined.
    flagged
        ``(U, 3)``, see :class:`Units`; without it, no pixel Dice.
    bins
        About how many; at most twice as many come out, where there are many plateaus.

    Raises
    ------
    ValueError
        Lengths that differ, repeated ids, image labels that are not bool, fewer than 2 bins, or
        PRO weights in some runs only.
    """
    if len(ids) != len(runs):
        msg = f"ids and runs must be of one length, got {len(ids)} and {len(runs)}"
        raise ValueError(msg)
    if bins < 2:
        msg = f"bins must be at least 2, got {bins}"
        raise ValueError(msg)
    labels = np.asarray(image_labels)
    if labels.size and labels.dtype != np.bool_:
        msg = f"image_labels must be bool, got {labels.dtype}"
        raise ValueError(msg)
    scores = _common_bins(runs, bins)
    shape = (len(runs), scores.size)
    negatives, positives = np.zeros(shape, np.uint32), np.zeros(shape, np.uint32)
    pro_weights = np.zeros(shape, np.float32)
    for unit, run in enumerate(runs):
        stops = np.append(np.searchsorted(run.scores, scores[1:]), run.scores.size)
        for sums, counts in (
            (negatives, run.negatives),
            (positives, run.positives),
            (pro_weights, run.pro_weights),
        ):
            sums[unit] = _sums_to(counts, stops)
        release_pages(run)
    return Units(
        ids=tuple(ids),
        scores=scores,
        negatives=negatives,
        positives=positives,
        pro_weights=pro_weights,
        components=np.array([run.components for run in runs], dtype=np.int64),
        image_scores=np.asarray(image_scores, dtype=np.float32),
        image_labels=labels.astype(np.bool_),
        image_units=np.asarray(image_units, dtype=np.int64),
        dice=np.full(len(runs), np.nan) if dice is None else np.asarray(dice, dtype=np.float64),
        flagged=(
            np.full((len(runs), 3), NO_THRESHOLD, dtype=np.int64)
            if flagged is None
            else np.asarray(flagged, dtype=np.int64)
        ),
    )


def _common_bins(runs: Sequence[Run], bins: int) -> NDArray[np.float32]:
    """``(K,)`` ascending: the lowest score in each bin."""
    totals = count_totals(runs)
    pixels = totals.negatives + totals.positives
    before = np.full(1, np.nan, np.float32)  # the score above the one at hand
    every, lowest = [before], [np.empty(0, np.float32)]
    distinct, gathered, cell, heavy = 0, 0.0, -1, False
    for points in operating_points(runs, totals):
        distinct += points.thresholds.size
        if distinct <= bins:
            every.append(points.thresholds)
        # From 0 to `bins` on the way down, a third of it from each of the three.
        reached = (bins / 3) * (
            points.true_positives / max(totals.positives, 1)
            + points.false_positives / max(totals.negatives, 1)
            + np.log1p(points.true_positives + points.false_positives) / np.log1p(pixels)
        )
        alone = np.diff(reached, prepend=gathered) >= 1
        cells = np.floor(reached).astype(np.int64)
        begins = (np.diff(cells, prepend=cell) != 0) | np.append(heavy, alone[:-1])
        # Where a bin begins, the one above it has ended: with the score above.
        lowest.append(np.append(before, points.thresholds[:-1])[begins])
        before, gathered = points.thresholds[-1:], float(reached[-1])
        cell, heavy = int(cells[-1]), bool(alone[-1])
    descending = np.concatenate(every if distinct <= bins else [*lowest, before])
    return descending[:0:-1].copy()  # all but the first, which is above the highest score


def _sums_to(counts: NDArray[Any], stops: NDArray[np.intp]) -> NDArray[Any]:
    """Sums of ``counts`` up to the first stop, from there to the second, and so on."""
    running = np.concatenate(([0], np.cumsum(counts, dtype=np.result_type(counts, np.int64))))
    return np.diff(running[stops], prepend=0)
