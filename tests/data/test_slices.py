"""Healthy slices only, in an order that can be repeated, read ahead without surprises."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from medrd.data.cache import CachedSubject
from medrd.data.slices import HealthySlices, Prefetcher, SliceBatch, epoch_order

DEPTH = 40


def cached(number: int, lesions: np.ndarray, numbers: np.ndarray) -> CachedSubject:
    """A subject whose pixels say which subject and slice they are of."""
    images = np.zeros((numbers.size, 2, 4, 4), np.float16)
    images[:, 0] = number
    images[:, 1] = numbers[:, None, None]
    return CachedSubject(
        id=str(number),
        images=images,
        region=np.broadcast_to((numbers % 2 == 0)[:, None, None], (numbers.size, 4, 4)),
        numbers=numbers,
        positions_mm=numbers.astype(np.float64),
        lesion_slices=np.flatnonzero(lesions.any(axis=(1, 2))),
        content="",
        warnings=(),
    )


def slices_of(length: int) -> HealthySlices:
    numbers = np.arange(length)
    return HealthySlices([cached(0, np.zeros((length, 1, 1), bool), numbers)], margin=0)


@pytest.mark.parametrize("margin", [0, 1, 2, 5])
def test_no_slice_within_the_margin_of_a_lesion_is_ever_drawn(margin: int) -> None:
    rng = np.random.default_rng(margin)
    for _ in range(20):
        masks = rng.random((3, DEPTH, 4, 4)) < rng.choice([0, 0.002, 0.02])
        numbers = [np.flatnonzero(rng.random(DEPTH) < 0.6) for _ in masks]
        slices = HealthySlices(
            [
                cached(n, mask, kept)
                for n, (mask, kept) in enumerate(zip(masks, numbers, strict=True))
            ],
            margin=margin,
        )
        allowed = {
            (n, int(number))
            for n, (mask, kept) in enumerate(zip(masks, numbers, strict=True))
            for number in kept
            if not mask[max(0, number - margin) : number + margin + 1].any()
        }
        assert len(slices) == len(allowed)
        if allowed:
            batch = slices.batch(range(len(slices)))
            assert {(int(i[0, 0, 0]), int(i[1, 0, 0])) for i in batch.images} == allowed


def test_a_batch_holds_the_slices_asked_for_in_their_order() -> None:
    numbers = np.arange(5)
    slices = HealthySlices(
        [cached(n, np.zeros((5, 1, 1), bool), numbers) for n in range(2)], margin=2
    )
    batch = slices.batch([7, 0, 7])
    assert (batch.images.shape, batch.images.dtype) == ((3, 2, 4, 4), np.float32)
    assert (batch.region.shape, batch.region.dtype) == ((3, 4, 4), bool)
    assert batch.images[:, :, 0, 0].tolist() == [[1, 2], [0, 0], [1, 2]]
    assert batch.region.all()
    assert not slices.batch([1]).region.any()


@pytest.mark.parametrize(
    ("length", "batch_size", "sizes"),
    [
        (12, 4, [4, 4, 4]),
        (14, 4, [4, 4, 4]),  # the smaller last one is left out
        (4, 4, [4]),
        (3, 4, [3]),  # unless it is the only one
        (1, 4, [1]),
        (0, 4, []),
        (5, 1, [1] * 5),
    ],
)
def test_an_epoch_covers_every_slice_once(length: int, batch_size: int, sizes: list[int]) -> None:
    batches = epoch_order(length, batch_size=batch_size, seed=3, epoch=0)
    assert [len(batch) for batch in batches] == sizes
    drawn = [i for batch in batches for i in batch]
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(length))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        np.random.random(3)  # the global generator plays no part
        return epoch_order(40, batch_size=4, seed=seed, epoch=epoch)

    orders = {(s, e): order(s, e) for s in range(5) for e in range(5)}
    assert all(order(*key) == value for key, value in orders.items())
    assert len({str(value) for value in orders.values()}) == 25
    # What one epoch leaves out, others bring: nobody's last slices are always missed.
    left = [
        set(range(42)) - {i for b in epoch_order(42, batch_size=4, seed=0, epoch=e) for i in b}
        for e in range(10)
    ]
    assert not set.intersection(*left)


def test_the_order_stays_what_it_was() -> None:
    # A checkpoint holds a position in this order; another one would repeat and skip slices.
    assert epoch_order(7, batch_size=3, seed=1, epoch=2) == [[0, 6, 5], [1, 4, 3]]


# --- Prefetcher ------------------------------------------------------------------------


def threads_come_down_to(count: int) -> bool:
    deadline = time.monotonic() + 5
    while threading.active_count() > count and time.monotonic() < deadline:
        time.sleep(0.01)
    return threading.active_count() <= count


def first_pixels(batches: Sequence[SliceBatch]) -> list[list[float]]:
    return [batch.images[:, 1, 0, 0].tolist() for batch in batches]


@pytest.mark.parametrize("ahead", [1, 3, 50])
def test_batches_come_in_order_each_time_it_is_iterated(ahead: int) -> None:
    slices = slices_of(20)
    order = epoch_order(20, batch_size=2, seed=0, epoch=0)
    prefetcher = Prefetcher(slices, order, ahead=ahead)
    before = threading.active_count()
    assert first_pixels(list(prefetcher)) == order
    assert prefetcher.waited_s > 0
    for batch in prefetcher:  # left early: the next pass must start afresh all the same
        assert first_pixels([batch]) == order[:1]
        break
    assert first_pixels(list(prefetcher)) == order
    assert threads_come_down_to(before)
    assert list(Prefetcher(slices, [])) == []


class Reader(HealthySlices):
    """Counts what is read, and fails where told to."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__(slices_of(20).subjects, margin=0)
        self.read = 0
        self.fail_at = fail_at

    def batch(self, which: Sequence[int]) -> SliceBatch:
        if self.read == self.fail_at:
            raise OSError("the disk is gone")
        self.read += 1
        return super().batch(which)


def test_the_thread_stops_when_the_consumer_leaves_early() -> None:
    reader, before = Reader(), threading.active_count()
    batches = iter(Prefetcher(reader, [[0]] * 1000, ahead=2))
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert reader.read <= 4  # one given, two ahead, one in hand


def test_the_readers_error_arrives_after_the_batches_before_it() -> None:
    before = threading.active_count()
    batches = iter(Prefetcher(Reader(fail_at=3), [[i] for i in range(10)]))
    assert first_pixels([next(batches) for _ in range(3)]) == [[0], [1], [2]]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert threads_come_down_to(before)


def test_reading_goes_on_while_the_consumer_computes_and_waiting_is_counted() -> None:
    class Slow(Reader):
        def batch(self, which: Sequence[int]) -> SliceBatch:
            time.sleep(0.03 if self.read else 0.3)
            return super().batch(which)

    reader = Slow()
    prefetcher = Prefetcher(reader, [[0]] * 8, ahead=2)
    batches = iter(prefetcher)
    next(batches)
    assert prefetcher.waited_s > 0.1  # there was nothing to do but wait for the first
    deadline = time.monotonic() + 5
    while reader.read < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reader.read == 4, "two batches ahead and one in hand, though none was asked for"
    batches.close()  # type: ignore[attr-defined]
