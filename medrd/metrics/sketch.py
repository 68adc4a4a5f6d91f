"""A data set's scores in bounded memory: exact while they fit, then coarser step by step.

A sketch is a sorted run (see :mod:`medrd.metrics.runs`) of a whole data set. Scores are kept as
whole numbers in the order of float32 (:mod:`medrd.metrics.ordinals`). When there are more
distinct ones than it may hold, it drops their lowest bit, and again until they fit: neighbouring
scores fall into one bin. The number of dropped bits, the *level*, is the smallest at which
everything fits, whatever came first; so sketches merge, across processes too, into the same
one in any order. What the bins leave open is bounded by :func:`medrd.metrics.sketch_metrics`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medrd.metrics.ordinals import LOWEST, from_ordinals, to_ordinals
from medrd.metrics.runs import Run, check_pixels, group_starts

SKETCH_ENTRIES = 2**22
"""Bins of a sketch by default: some 60 MB, and up to 900 MB while pixels are counted."""

_BUFFERED = 2**26
"""Pixels that wait to be counted together; each count costs a pass over all bins."""

_BLOCK = 2**16
"""Pixels converted at a time, so that the steps in between stay in the processor's cache."""


class Sketch:
    """Scores, labels and PRO weights of any number of pixels.

    Parameters
    ----------
    max_entries
        How many distinct scores, and from then on how many bins, it may hold; at least 2, so
        that the highest level (a bin for each sign) fits.
    """

    def __init__(self, max_entries: int = SKETCH_ENTRIES) -> None:
        if max_entries < 2:
            msg = f"max_entries must be at least 2, got {max_entries}"
            raise ValueError(msg)
        self.max_entries = max_entries
        self._bins = _EMPTY
        self._components = 0
        self._bare = False  # were there positives without PRO weights?
        self._pixels = _Pixels()

    def add(
        self,
        scores: NDArray[np.float32],
        labels: NDArray[np.bool_],
        pro_weights: NDArray[np.float64] | None = None,
        components: int = 0,
    ) -> None:
        """Add the evaluated pixels of one volume or picture.

        The arguments are those of :func:`medrd.metrics.make_run`; a component must not have
        pixels in two calls. After an error the sketch is as it was.

        Raises
        ------
        ValueError
            As :func:`medrd.metrics.make_run`; positive pixels without PRO weights where others
            have them, or the other way round.
        """
        scores, labels, weights = check_pixels(scores, labels, pro_weights, components)
        self._note_components(components, bare=bool(weights.size) and not components)
        taken, used = 0, 0
        while taken < scores.size:
            piece = slice(taken, taken + self._pixels.room)
            taken += scores[piece].size
            used += self._pixels.put(scores[piece], labels[piece], weights[used:])
            if not self._pixels.room:
                self._settle()

    def merge(self, other: Sketch) -> None:
        """Add all that another sketch holds; the other stays as it is.

        Raises
        ------
        ValueError
            The two may hold different numbers of entries, or one has PRO weights for its
            positive pixels and the other not.
        """
        if other.max_entries != self.max_entries:
            msg = (
                f"sketches of one max_entries can be merged, "
                f"got {self.max_entries} and {other.max_entries}"
            )
            raise ValueError(msg)
        theirs = other._settle()
        self._note_components(other._components, bare=other._bare)
        self._bins = _merge(self._settle(), theirs, self.max_entries)

    @property
    def level(self) -> int:
        """Dropped bits: a bin holds up to ``2 ** level`` neighbouring float32 numbers."""
        return self._settle().level

    @property
    def exact(self) -> bool:
        """Whether every distinct score still has an entry of its own."""
        return self.level == 0

    def run(self) -> Run:
        """The sketch as one run, for all that takes runs.

        A bin's score is the lowest float32 number that falls into it. So a threshold at a bin's
        score flags the same pixels as in the data themselves. The arrays are copies.
        """
        bins = self._settle()
        at = np.searchsorted(bins.keys, bins.positive_keys)
        positives, pro_weights = np.zeros_like(bins.pixels), np.zeros(bins.keys.size)
        positives[at], pro_weights[at] = bins.positives, bins.pro_weights
        return self._as_run(bins.keys, bins.pixels - positives, positives, pro_weights)

    def condensed_run(self) -> Run:
        """As :meth:`run`, with the bins between two that hold positives taken together.

        Rank metrics and their bounds do not depend on the order of negatives alone (up to
        rounding), and anomalous pixels are few: this is several times smaller. Thresholds
        between positives, such as one for a false-positive rate, are lost.
        """
        bins = self._settle()
        at = np.searchsorted(bins.keys, bins.positive_keys)
        # Bins with positives alternate with what lies between: [gap, bin, gap, …, bin, gap].
        begins = np.column_stack([np.append(0, at + 1), np.append(at, bins.keys.size)]).ravel()
        until = np.zeros(bins.keys.size + 1, np.int64)
        np.cumsum(bins.pixels, out=until[1:])
        pixels = np.diff(until[begins])
        positives, pro_weights = np.zeros_like(pixels), np.zeros(pixels.size)
        positives[1::2], pro_weights[1::2] = bins.positives, bins.pro_weights
        some = pixels > 0
        return self._as_run(
            bins.keys[begins[:-1][some]],
            (pixels - positives)[some],
            positives[some],
            pro_weights[some],
        )

    def _as_run(
        self,
        keys: NDArray[np.int32],
        negatives: NDArray[np.int64],
        positives: NDArray[np.int64],
        pro_weights: NDArray[np.float64],
    ) -> Run:
        lowest = np.maximum(keys << self._bins.level, LOWEST)
        return Run(from_ordinals(lowest), negatives, positives, pro_weights, self._components)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays, for a file or another process."""
        bins = self._settle()
        header = [self.max_entries, bins.level, self._components, self._bare]
        return {name: getattr(bins, name) for name in _BIN_ARRAYS} | {"header": np.array(header)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Undo :meth:`to_arrays`."""
        max_entries, level, components, bare = (int(number) for number in arrays["header"])
        sketch = cls(max_entries)
        sketch._bins = _Bins(level, *(arrays[name] for name in _BIN_ARRAYS))
        sketch._components, sketch._bare = components, bool(bare)
        return sketch

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_arrays, (self.to_arrays(),)  # without the buffer

    def _note_components(self, components: int, *, bare: bool) -> None:
        if (bare or self._bare) and (components or self._components):
            msg = "some positive pixels have PRO weights and others do not"
            raise ValueError(msg)
        self._components += int(components)
        self._bare |= bare

    def _settle(self) -> _Bins:
        """Count the waiting pixels into the bins."""
        counted = self._pixels.count(self._bins.level, self.max_entries)
        if counted is not None:
            self._bins = _merge(self._bins, counted, self.max_entries)
        return self._bins


@dataclass(frozen=True, eq=False)
class _Bins:
    """``(K,)`` ascending keys (ordinals without their ``level`` lowest bits) and their pixels.

    Positives are few, as a rule, and stand by themselves: ``(P,)`` of the keys.
    """

    level: int
    keys: NDArray[np.int32]
    pixels: NDArray[np.int64]
    positive_keys: NDArray[np.int32]
    positives: NDArray[np.int64]
    pro_weights: NDArray[np.float64]


_BIN_ARRAYS = ("keys", "pixels", "positive_keys", "positives", "pro_weights")
_NO_SCORES = np.empty(0, np.float32)
_NO_KEYS, _NO_PIXELS = np.empty(0, np.int32), np.empty(0, np.int64)
_EMPTY = _Bins(0, _NO_KEYS, _NO_PIXELS, _NO_KEYS, _NO_PIXELS, np.empty(0))


class _Pixels:
    """Pixels that wait: the scores of all, and once more those of the few positives."""

    def __init__(self) -> None:
        self._scores = np.empty(0, np.float32)
        self._filled = 0
        self._positives: list[NDArray[np.float32]] = []
        self._weights: list[NDArray[np.float64]] = []

    @property
    def room(self) -> int:
        return _BUFFERED - self._filled

    def put(
        self,
        scores: NDArray[np.float32],
        labels: NDArray[np.bool_],
        weights: NDArray[np.float64],
    ) -> int:
        """Take pixels, at most as many as there is room for; how many weights were used."""
        if not self._scores.size:
            self._scores = np.empty(_BUFFERED, np.float32)  # takes memory as it is filled
        self._scores[self._filled : self._filled + scores.size] = scores
        self._filled += scores.size
        positives = scores[labels]
        if positives.size:
            self._positives.append(positives)
            self._weights.append(weights[: positives.size].copy())
        return positives.size

    def count(self, level: int, max_entries: int) -> _Bins | None:
        """What waited, as bins of at least this level; None if nothing did."""
        if not self._filled:
            return None
        scores, self._filled = self._scores[: self._filled], 0
        # Sorting plain numbers is many times as fast as an argsort that would carry the labels.
        scores.sort()
        keys = scores.view(np.int32)
        for start in range(0, keys.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            keys[block] = to_ordinals(scores[block]) >> level
        dropped = _bits_to_drop(keys, max_entries)
        bounds = _group_bounds(keys, dropped)
        level += dropped
        positives = np.concatenate([_NO_SCORES, *self._positives])
        weights = np.concatenate([np.empty(0), *self._weights])
        self._positives, self._weights = [], []
        return _Bins(
            level,
            keys[bounds[:-1]] >> dropped,
            np.diff(bounds),
            *_sum_by_key(
                to_ordinals(positives) >> level, np.ones(positives.size, np.int64), weights
            ),
        )


def _merge(first: _Bins, second: _Bins, max_entries: int) -> _Bins:
    """Bins of both at the lowest level, from theirs on, at which they fit."""
    if not first.keys.size:
        return second
    parts = (first, second)
    level = max(first.level, second.level)
    keys = np.concatenate([part.keys >> (level - part.level) for part in parts])
    order = np.argsort(keys, kind="stable")  # quick: two ascending parts
    keys = keys[order]
    dropped = _bits_to_drop(keys, max_entries)
    bounds = _group_bounds(keys, dropped)
    running = np.cumsum(np.concatenate([part.pixels for part in parts])[order])
    return _Bins(
        level + dropped,
        keys[bounds[:-1]] >> dropped,
        np.diff(running[bounds[1:] - 1], prepend=0),
        *_sum_by_key(
            np.concatenate([p.positive_keys >> (level + dropped - p.level) for p in parts]),
            np.concatenate([part.positives for part in parts]),
            np.concatenate([part.pro_weights for part in parts]),
        ),
    )


def _bits_to_drop(ascending: NDArray[np.int32], max_entries: int) -> int:
    """The fewest lowest bits without which at most so many of the keys differ."""
    bits = 0
    while True:
        distinct = 1 + sum(int(np.count_nonzero(new)) for new in _news(ascending, bits))
        if distinct <= max_entries:
            return bits
        # Without one bit more there are at least half as many; so this leaves out no answer.
        bits += (-(-distinct // max_entries) - 1).bit_length()


def _group_bounds(ascending: NDArray[np.int32], bits: int) -> NDArray[np.intp]:
    """Where each distinct key begins once its lowest bits are dropped, and the end of all."""
    bounds = [np.zeros(1, np.intp)]
    for block, new in enumerate(_news(ascending, bits)):
        bounds.append(np.flatnonzero(new) + (block * _BLOCK + 1))
    return np.concatenate([*bounds, [ascending.size]])


def _news(ascending: NDArray[np.int32], bits: int) -> Iterator[NDArray[np.bool_]]:
    """From the second key on, whether it differs from the one before without those bits."""
    for start in range(0, ascending.size - 1, _BLOCK):
        block = ascending[start : start + _BLOCK + 1]
        yield (block[1:] ^ block[:-1]).view(np.uint32) >= np.uint32(1 << bits)


def _sum_by_key(
    keys: NDArray[np.int32], counts: NDArray[np.int64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]:
    """Distinct keys, ascending, and the sums at each."""
    if not keys.size:
        return keys, counts, weights
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = group_starts(keys)
    return (
        keys[starts],
        np.add.reduceat(counts[order], starts),
        np.add.reduceat(weights[order], starts),
    )
