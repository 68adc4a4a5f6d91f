"""Random batches of healthy slices, in an order that a resumed run can continue."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medrd.data.cache import CachedSubject
from medrd.data.margin import away_from


@dataclass(frozen=True, eq=False)
class SliceBatch:
    """Images (B, C, H, W) float32 in [0, 1] and region (B, H, W) bool.

    ``which`` are their indices in :class:`HealthySlices`; None if they come from elsewhere.
    """

    images: NDArray[np.float32]
    region: NDArray[np.bool_]
    which: Sequence[int] | None = None


# A batch, the reader's error, or None at the end.
_Items = queue.Queue[SliceBatch | BaseException | None]


class HealthySlices:
    """All slices of the subjects that are far enough from any lesion.

    Parameters
    ----------
    subjects
        Prepared, memory-mapped subjects.
    margin
        Margin in slices; see :func:`medrd.data.margin.away_from`.
    """

    def __init__(self, subjects: Sequence[CachedSubject], *, margin: int) -> None:
        self.subjects = list(subjects)
        self.index: list[tuple[int, int]] = [
            (s, int(i))
            for s, subject in enumerate(self.subjects)
            for i in np.flatnonzero(
                away_from(subject.numbers, subject.lesion_slices, margin=margin)
            )
        ]

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, which: Sequence[int]) -> SliceBatch:
        """The slices at these indices."""
        places = [self.index[i] for i in which]
        return SliceBatch(
            images=np.stack([self.subjects[s].images[i] for s, i in places]).astype(np.float32),
            region=np.stack([self.subjects[s].region[i] for s, i in places]),
            which=tuple(which),
        )


def epoch_order(
    length: int, *, batch_size: int, seed: int, epoch: int, drop_last: bool = True
) -> list[list[int]]:
    """The batches of an epoch as indices; they depend on the arguments alone.

    With ``drop_last`` a smaller last batch is dropped (a batch of one slice makes BatchNorm noisy),
    unless it is the only one.
    """
    order = np.random.default_rng([seed, epoch]).permutation(length).tolist()
    batches = [order[i : i + batch_size] for i in range(0, length, batch_size)]
    if drop_last and len(batches) > 1 and len(batches[-1]) < batch_size:
        batches.pop()
    return batches


class Prefetcher:
    """Reads the next batches in a thread while the current one is computed.

    Attributes
    ----------
    waited_s
        Seconds that the consumer has spent waiting for data.
    """

    def __init__(
        self, slices: HealthySlices, batches: Sequence[Sequence[int]], *, ahead: int = 3
    ) -> None:
        self.waited_s = 0.0
        self._slices = slices
        self._batches = batches
        self._ahead = ahead

    def __iter__(self) -> Iterator[SliceBatch]:
        # A new queue per pass: items left unread by an earlier one must not reappear.
        items: _Items = queue.Queue(self._ahead)
        stop = threading.Event()
        thread = threading.Thread(target=self._fill, args=(items, stop), daemon=True)
        thread.start()
        try:
            while True:
                start = time.perf_counter()
                item = items.get()
                self.waited_s += time.perf_counter() - start
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join()

    def _fill(self, items: _Items, stop: threading.Event) -> None:
        try:
            for which in self._batches:
                if not _put(self._slices.batch(which), items, stop):
                    return
            _put(None, items, stop)
        except BaseException as error:  # whatever it is, the thread that waits for items raises it
            _put(error, items, stop)


def _put(item: SliceBatch | BaseException | None, items: _Items, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            items.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
