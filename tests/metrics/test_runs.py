"""Runs keep what lies at each score, and merging loses nothing whatever the chunk size."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medrd.metrics import Run, descending_chunks, make_run, pixel_metrics

FIELDS = ("scores", "negatives", "positives", "pro_weights")


def random_run(seed: int, size: int = 400, distinct: int = 60) -> Run:
    rng = np.random.default_rng(seed)
    scores = rng.choice(rng.normal(size=distinct).astype(np.float32), size)
    labels = rng.random(size) < 0.2
    weights = np.where(labels, 3 / labels.sum(), 0)
    return make_run(scores, labels, weights, 3)


def as_dict(runs: list[Run]) -> dict[float, tuple[int, int]]:
    counts: Counter[tuple[float, str]] = Counter()
    for run in runs:
        for score, negative, positive in zip(
            run.scores.tolist(), run.negatives.tolist(), run.positives.tolist(), strict=True
        ):
            counts[score, "negatives"] += negative
            counts[score, "positives"] += positive
    return {s: (counts[s, "negatives"], counts[s, "positives"]) for s, _ in counts}


def test_a_run_holds_counts_and_weights_at_each_distinct_score() -> None:
    run = make_run(
        np.array([2, 1, 2, 2, -1, 1], dtype=np.float32),
        np.array([True, False, False, True, True, False]),
        np.array([0.25, 0, 0, 0.75, 1.0, 0]),
        2,
    )
    assert run.scores.dtype == np.float32
    assert run.scores.tolist() == [-1, 1, 2]
    assert run.negatives.tolist() == [0, 2, 1]
    assert run.positives.tolist() == [1, 0, 2]
    assert run.pro_weights.tolist() == [1, 0, 1]


def test_negative_zero_and_zero_are_one_score() -> None:
    run = make_run(np.array([-0.0, 0.0], dtype=np.float32), np.array([True, False]), None, 0)
    assert run.scores.size == 1
    assert (run.negatives[0], run.positives[0]) == (1, 1)


def test_a_run_of_no_pixels_is_empty() -> None:
    run = make_run(np.empty(0, np.float32), np.empty(0, np.bool_), None, 0)
    assert run.scores.size == 0
    assert list(descending_chunks([run])) == []


@pytest.mark.parametrize(
    ("scores", "labels", "weights", "components", "message"),
    [
        ([1, np.nan], [True, False], None, 0, "1 NaN or infinite"),
        ([1, np.inf], [True, False], None, 0, "1 NaN or infinite"),
        ([1, 1e300], [True, False], None, 0, "1 NaN or infinite"),
        ([1, 2, 3], [True, False], None, 0, r"\(3,\) and \(2,\)"),
        ([[1, 2]], [[True, False]], None, 0, r"must both be \(N,\)"),
        ([1, 2], [1, 0], None, 0, "labels must be bool"),
        ([1, 2], [True, False], [1.0], 1, r"pro_weights must be \(2,\)"),
        ([1, 2], [True, False], [0.5, 0.5], 1, "add up to the 1 components, got 0.5"),
        ([1, 2], [True, False], [np.nan, 0], 1, "add up to"),
        ([1, 2], [True, False], None, 1, "add up to the 1 components, got 0"),
    ],
)
def test_what_make_run_refuses(
    scores: list[float],
    labels: list[bool],
    weights: list[float] | None,
    components: int,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        make_run(
            np.array(scores),
            np.array(labels),
            None if weights is None else np.array(weights),
            components,
        )


def test_a_run_refuses_arrays_that_do_not_belong_together() -> None:
    ones = np.ones(2, dtype=np.int64)
    with pytest.raises(ValueError, match="of one length"):
        Run(np.zeros(3, np.float32), ones, ones, np.ones(2), 0)
    with pytest.raises(ValueError, match="must be float32"):
        Run(np.array([0.0, 1.0]), ones, ones, np.ones(2), 0)


@pytest.mark.parametrize("max_entries", [1, 2, 3, 7, 50, 10**6])
def test_chunks_descend_and_hold_every_score_once(max_entries: int) -> None:
    runs = [random_run(seed) for seed in range(4)] + [random_run(0)]  # the last ties with the first
    chunks = list(descending_chunks(runs, max_entries))
    for chunk in chunks:
        assert np.all(np.diff(chunk.scores) > 0)
        assert chunk.components == 15
    for higher, lower in itertools.pairwise(chunks):
        assert lower.scores[-1] < higher.scores[0]
    assert as_dict(chunks) == as_dict(runs)
    total = sum(float(chunk.pro_weights.sum()) for chunk in chunks)
    assert total == pytest.approx(15)


@pytest.mark.parametrize("max_entries", [1, 5, 64])
def test_a_chunk_gathers_no_more_entries_than_allowed(max_entries: int) -> None:
    runs = [random_run(seed) for seed in range(4)]
    for chunk in descending_chunks(runs, max_entries):
        gathered = sum(
            int(((run.scores >= chunk.scores[0]) & (run.scores <= chunk.scores[-1])).sum())
            for run in runs
        )
        # A single value may occur in every run and cannot be divided.
        assert gathered <= max(max_entries, chunk.scores.size == 1 and len(runs))


def test_chunks_are_at_least_half_full() -> None:
    # Crowded at the low end, thin over many powers of two: the hardest for a bisection.
    values = np.concatenate([1 + np.arange(2_400) / 4096, 2.0 ** np.arange(1, 81)])
    pieces = np.random.default_rng(2).permutation(values).astype(np.float32).reshape(8, 310)
    runs = [make_run(piece, np.zeros(310, np.bool_), None, 0) for piece in pieces]
    sizes = [chunk.scores.size for chunk in descending_chunks(runs, 400)]
    assert sum(sizes) == values.size  # no ties, so a chunk's scores are all that it gathered
    assert all(200 <= size <= 400 for size in sizes[:-1])


def test_memory_is_bounded_by_the_chunk_not_by_the_data() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(20_000, dtype=np.bool_)
    labels[0] = True

    def peak_bytes(count: int) -> int:
        runs = [
            make_run(rng.random(20_000).astype(np.float32), labels, None, 0) for _ in range(count)
        ]
        tracemalloc.start()
        pixel_metrics(runs, max_entries=5_000)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    assert peak_bytes(32) < 1.5 * peak_bytes(4) < 2_000_000


def test_chunks_of_no_entries_are_refused() -> None:
    with pytest.raises(ValueError, match="max_entries must be at least 1"):
        next(descending_chunks([random_run(0)], 0))


def test_memory_mapped_runs_with_uint32_counts_give_the_same_numbers(tmp_path: Path) -> None:
    runs = [random_run(seed) for seed in range(3)]
    mapped = []
    for index, run in enumerate(runs):
        arrays = {}
        for field in FIELDS:
            array = getattr(run, field)
            path = tmp_path / f"{index}_{field}.npy"
            np.save(path, array.astype(np.uint32) if array.dtype == np.int64 else array)
            arrays[field] = np.load(path, mmap_mode="r")
        mapped.append(Run(**arrays, components=run.components))
    assert isinstance(mapped[0].scores, np.memmap)
    assert pixel_metrics(mapped, max_entries=10) == pixel_metrics(runs)


def test_counts_beyond_uint32_do_not_wrap() -> None:
    one = np.ones(1, dtype=np.uint32)
    run = Run(np.zeros(1, np.float32), one * np.uint32(2**32 - 1), one, np.ones(1), 1)
    (chunk,) = descending_chunks([run, run])
    assert chunk.negatives.dtype == np.int64
    assert chunk.negatives.tolist() == [2 * (2**32 - 1)]
