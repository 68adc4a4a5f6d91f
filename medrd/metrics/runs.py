"""Sorted runs: a volume reduced to what exact metrics need, and the merging of many.

The pixels of a data set do not fit in memory at once. A run keeps one volume's (or picture's)
distinct scores in ascending order and, at each, how many pixels of either class have it. That
is all that rank metrics depend on, so nothing is binned or approximated. The arrays of a run
may be memory-mapped: merging reads them piece by piece, from the highest scores to the lowest.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.metrics.ordinals import from_ordinals, to_ordinals

MAX_ENTRIES = 2_000_000
"""Entries merged at a time: some 200 MB at the peak."""

_WEIGHT_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Run:
    """The distinct scores of some pixels and what lies at each.

    Parameters
    ----------
    scores
        ``(U,)`` float32, finite, strictly ascending.
    negatives, positives
        ``(U,)`` int64 or uint32: pixels of either class with that score.
    pro_weights
        ``(U,)`` float64: the sum, over the positive pixels with that score, of one over the
        size of the pixel's component (see :func:`medrd.metrics.region_weights`).
    components
        How many components the weights stand for; they add up to it.
    """

    scores: NDArray[np.float32]
    negatives: NDArray[np.int64] | NDArray[np.uint32]
    positives: NDArray[np.int64] | NDArray[np.uint32]
    pro_weights: NDArray[np.float64]
    components: int

    def __post_init__(self) -> None:
        shape = self.scores.shape
        others = (self.negatives.shape, self.positives.shape, self.pro_weights.shape)
        if len(shape) != 1 or any(other != shape for other in others):
            msg = f"a run's arrays must be (U,) and of one length, got {(shape, *others)}"
            raise ValueError(msg)
        if self.scores.dtype != np.float32:
            msg = f"a run's scores must be float32, got {self.scores.dtype}"
            raise ValueError(msg)


def make_run(
    scores: NDArray[np.float32],
    labels: NDArray[np.bool_],
    pro_weights: NDArray[np.float64] | None,
    components: int,
) -> Run:
    """Reduce the pixels of one volume or picture to a run.

    Pass the pixels of the evaluated region only (for MRI those inside the brain), and the
    weights computed for the same region.

    Parameters
    ----------
    scores
        ``(N,)`` anomaly scores, higher is more anomalous; rounded to float32.
    labels
        ``(N,)`` bool, True where anomalous.
    pro_weights
        ``(N,)`` from :func:`medrd.metrics.region_weights`, or None to go without AUPRO.
    components
        The number of components that came with the weights; 0 without weights.

    Raises
    ------
    ValueError
        NaN or infinite scores, labels that are not bool, shapes that differ, or weights that
        do not add up to the number of components (made for another region than this).
    """
    scores, labels, weights = check_pixels(scores, labels, pro_weights, components)
    values, counts = np.unique(scores, return_counts=True)
    negatives = counts.astype(np.int64)
    positives = np.zeros_like(negatives)
    merged_weights = np.zeros(values.size)
    # Positives are few: sorting them apart is far cheaper than an argsort of everything.
    if labels.any():
        order = np.argsort(scores[labels], kind="stable")
        ascending = scores[labels][order]
        starts = group_starts(ascending)
        at = np.searchsorted(values, ascending[starts])
        positives[at] = np.diff(starts, append=ascending.size)
        merged_weights[at] = np.add.reduceat(weights[order], starts)
        negatives -= positives
    return Run(values, negatives, positives, merged_weights, int(components))


def check_pixels(
    scores: NDArray[np.float32],
    labels: NDArray[np.bool_],
    pro_weights: NDArray[np.float64] | None,
    components: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """``(N,)`` float32 scores, labels and the positives' weights; see :func:`make_run`."""
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused below
        scores = np.asarray(scores, dtype=np.float32)
    labels = np.asarray(labels)
    if labels.dtype != np.bool_:
        msg = f"labels must be bool, got {labels.dtype}: say which values are anomalous"
        raise ValueError(msg)
    if scores.ndim != 1 or labels.shape != scores.shape:
        msg = f"scores and labels must both be (N,), got {scores.shape} and {labels.shape}"
        raise ValueError(msg)
    if not np.isfinite(scores).all():
        bad = int(scores.size - np.isfinite(scores).sum())
        msg = f"scores must be finite, got {bad} NaN or infinite values of {scores.size}"
        raise ValueError(msg)
    return scores, labels, _positive_weights(pro_weights, labels, components)


def descending_chunks(runs: Sequence[Run], max_entries: int = MAX_ENTRIES) -> Iterator[Run]:
    """Merge runs, range by range, from the highest scores to the lowest.

    Every distinct score comes in exactly one chunk, so ties never straddle two. Memory is
    bounded by ``max_entries`` (or by one entry a run where there are more runs than that).

    Yields
    ------
    Run
        A range of the merged data set, ascending within, with int64 counts. ``components`` is
        that of the whole data set, for a component may have pixels in many chunks.
    """
    if max_entries < 1:
        msg = f"max_entries must be at least 1, got {max_entries}"
        raise ValueError(msg)
    stops = [int(run.scores.size) for run in runs]
    while any(stops):
        starts = _chunk_starts(runs, stops, max_entries)
        yield _merge(runs, starts, stops)
        stops = starts


def release_pages(run: Run) -> None:
    """Let go of what has been read of a memory-mapped run; it is read again when needed.

    The pages belong to the file and could be reclaimed at any time, but until then they count
    as this process's memory, and a limit on it (of a batch system, say) would be reached.
    """
    for array in (run.scores, run.negatives, run.positives, run.pro_weights):
        mapping = getattr(array, "_mmap", None)
        if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)


def group_starts(
    ascending: NDArray[np.float32] | NDArray[np.int32],
) -> NDArray[np.intp]:
    """Where each distinct value of a sorted ``(N,)`` array, N > 0, begins."""
    return np.append(0, np.flatnonzero(ascending[1:] != ascending[:-1]) + 1)


def _positive_weights(
    pro_weights: NDArray[np.float64] | None, labels: NDArray[np.bool_], components: int
) -> NDArray[np.float64]:
    """The weights of the positive pixels, checked against the number of components."""
    if pro_weights is None:
        weights = np.zeros(int(labels.sum()))
    else:
        pro_weights = np.asarray(pro_weights, dtype=np.float64)
        if pro_weights.shape != labels.shape:
            msg = f"pro_weights must be {labels.shape} as the labels, got {pro_weights.shape}"
            raise ValueError(msg)
        weights = pro_weights[labels]
    total = float(weights.sum())
    if not abs(total - components) <= _WEIGHT_TOLERANCE * max(1, components):
        msg = (
            f"pro_weights of the positive pixels must add up to the {components} components, "
            f"got {total:.6g}: were they made for the same region?"
        )
        raise ValueError(msg)
    return weights


def _chunk_starts(runs: Sequence[Run], stops: list[int], max_entries: int) -> list[int]:
    """For every run, where the next chunk begins; it ends at ``stops``.

    A bisection over the float32 numbers themselves for a cut at and above which there are at
    most ``max_entries`` entries. It ends early once the chunk is half full, since the exact
    optimum would cost more searches than it saves.
    """
    left = [(run, stop) for run, stop in zip(runs, stops, strict=True) if stop]
    low = min(int(to_ordinals(run.scores[0])) for run, _ in left)
    high = max(int(to_ordinals(run.scores[stop - 1])) for run, stop in left)

    def starts_at(ordinal: int) -> list[int]:
        cut = from_ordinals(np.array([ordinal]))[0]
        starts = []
        for run, stop in zip(runs, stops, strict=True):
            starts.append(int(np.searchsorted(run.scores[:stop], cut)))
            release_pages(run)  # a search touches pages all over the file
        return starts

    remaining = sum(stops)
    if remaining <= max_entries:
        return [0] * len(stops)
    best = starts_at(high)  # the highest value alone, however many runs have it
    while low < high:
        middle = (low + high) // 2
        starts = starts_at(middle)
        entries = remaining - sum(starts)
        if entries > max_entries:
            low = middle + 1
            continue
        best, high = starts, middle
        if 2 * entries >= max_entries:
            break
    return best


def _merge(runs: Sequence[Run], starts: list[int], stops: list[int]) -> Run:
    pieces = [
        (run, slice(start, stop))
        for run, start, stop in zip(runs, starts, stops, strict=True)
        if start < stop
    ]

    components = sum(run.components for run in runs)

    def gather(name: str) -> NDArray[Any]:
        gathered = np.concatenate([getattr(run, name)[piece] for run, piece in pieces])
        for run, _ in pieces:
            release_pages(run)
        return gathered

    scores = gather("scores")
    if len(pieces) == 1:  # nothing to merge
        return Run(
            scores=scores,
            negatives=gather("negatives").astype(np.int64, copy=False),
            positives=gather("positives").astype(np.int64, copy=False),
            pro_weights=gather("pro_weights"),
            components=components,
        )
    # Stable: equal scores keep the order of the runs, so that the float sums do not depend on
    # how the range was cut. It is also quick on pieces that are sorted already.
    order = np.argsort(scores, kind="stable")
    scores = scores[order]
    groups = group_starts(scores)

    negatives, positives, weights = (
        gather("negatives"),
        gather("positives"),
        gather("pro_weights"),
    )
    return Run(
        scores=scores[groups],
        negatives=np.add.reduceat(negatives[order], groups, dtype=np.int64),
        positives=np.add.reduceat(positives[order], groups, dtype=np.int64),
        pro_weights=np.add.reduceat(weights[order], groups),
        components=components,
    )
