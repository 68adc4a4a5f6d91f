"""Sketches: exact while they fit, the same whatever came first, and honest about thresholds."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

import medrd.metrics.sketch as module
from medrd.metrics import Sketch, binned_metrics, make_run, pixel_metrics
from medrd.metrics.ordinals import to_ordinals


class Picture(NamedTuple):
    scores: NDArray[np.float32]
    labels: NDArray[np.bool_]
    pro_weights: NDArray[np.float64]
    components: int


def pictures(seed: int, count: int = 12, size: int = 300, positive: float = 0.1) -> list[Picture]:
    """Some without a lesion, some with ties, with scores of both signs and many magnitudes."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        labels = rng.random(size) < (positive if index % 3 else 0)
        scores = rng.normal(size=size) * 10.0 ** rng.integers(-8, 8, size) + labels
        if index % 4 == 0:
            scores = np.round(scores)  # -0.0 among them
        components = 3 if labels.any() else 0
        weights = np.where(labels, components / max(1, labels.sum()), 0)
        made.append(Picture(scores.astype(np.float32), labels, weights, components))
    return made


def sketch_of(made: list[Picture], max_entries: int) -> Sketch:
    sketch = Sketch(max_entries)
    for picture in made:
        sketch.add(*picture)
    return sketch


def assert_same(first: Sketch, second: Sketch) -> None:
    ours, theirs = first.to_arrays(), second.to_arrays()
    assert np.allclose(ours.pop("pro_weights"), theirs.pop("pro_weights"), rtol=1e-12, atol=0)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def as_it_is(sketch: Sketch) -> Sketch:
    return sketch


def through_arrays(sketch: Sketch) -> Sketch:
    return Sketch.from_arrays(sketch.to_arrays())


def through_pickle(sketch: Sketch) -> Sketch:
    copy = pickle.loads(pickle.dumps(sketch))
    assert isinstance(copy, Sketch)
    return copy


def test_while_it_fits_a_sketch_is_the_exact_run() -> None:
    made = pictures(0)
    sketch = sketch_of(made, 10_000)
    assert (sketch.level, sketch.exact) == (0, True)
    joined = Picture(*(np.concatenate(arrays) for arrays in list(zip(*made, strict=True))[:3]), 24)
    exact, run = make_run(*joined), sketch.run()
    assert np.array_equal(run.scores, exact.scores)
    assert np.array_equal(run.negatives, exact.negatives)
    assert np.array_equal(run.positives, exact.positives)
    assert np.allclose(run.pro_weights, exact.pro_weights, rtol=1e-13)
    assert run.components == 24
    assert pixel_metrics([run]) == pytest.approx(pixel_metrics([exact]), abs=1e-13)


@pytest.mark.parametrize("way", [as_it_is, through_arrays, through_pickle])
@pytest.mark.parametrize("max_entries", [2, 64, 700, 10_000])
def test_neither_order_nor_grouping_matters(
    max_entries: int, way: Callable[[Sketch], Sketch], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pictures(1)
    expected = sketch_of(made, max_entries)
    monkeypatch.setattr(module, "_BUFFERED", 128)  # counted in pieces cut anywhere
    monkeypatch.setattr(module, "_BLOCK", 16)
    rng = np.random.default_rng(max_entries)
    for _ in range(4):
        order = rng.permutation(len(made))
        cuts = np.sort(rng.integers(0, len(made) + 1, 3))
        trees = [sketch_of([made[i] for i in part], max_entries) for part in np.split(order, cuts)]
        while len(trees) > 1:
            taken = trees.pop(int(rng.integers(len(trees))))
            trees[int(rng.integers(len(trees)))].merge(way(taken))
        assert_same(way(trees[0]), expected)


@pytest.mark.parametrize("max_entries", [2, 3, 64, 700])
def test_the_level_is_the_lowest_that_fits(max_entries: int) -> None:
    made = pictures(2)
    ordinals = to_ordinals(np.concatenate([picture.scores for picture in made]))
    level = sketch_of(made, max_entries).level
    assert np.unique(ordinals >> level).size <= max_entries < np.unique(ordinals >> level - 1).size


def test_a_threshold_at_a_bin_flags_what_it_flags_in_the_data() -> None:
    made = pictures(3)
    sketch = sketch_of(made, 200)
    assert sketch.level > 0
    run = sketch.run()
    scores, labels, weights = (np.concatenate(a) for a in list(zip(*made, strict=True))[:3])
    for index, threshold in enumerate(run.scores):
        flagged = scores >= threshold
        assert run.negatives[index:].sum() == (flagged & ~labels).sum()
        assert run.positives[index:].sum() == (flagged & labels).sum()
        assert run.pro_weights[index:].sum() == pytest.approx(weights[flagged].sum())


@pytest.mark.parametrize("max_entries", [64, 700, 10_000])
def test_a_condensed_run_gives_the_same_metrics(max_entries: int) -> None:
    sketch = sketch_of(pictures(6, positive=0.01), max_entries)
    run, condensed = sketch.run(), sketch.condensed_run()
    assert condensed.scores.size <= 2 * np.count_nonzero(run.positives) + 1
    assert np.isin(condensed.scores, run.scores).all()
    assert (np.diff(condensed.scores) > 0).all()
    assert pixel_metrics([condensed]) == pytest.approx(pixel_metrics([run]), abs=1e-12)
    for name, bounded in binned_metrics(run).items():
        assert bounded is not None
        assert vars(binned_metrics(condensed)[name]) == pytest.approx(vars(bounded), abs=1e-12)


def test_the_widest_range_in_the_fewest_bins() -> None:
    limits = np.finfo(np.float32)
    scores = np.array(
        [limits.max, limits.min, 0.0, -0.0, limits.smallest_subnormal, -limits.smallest_subnormal],
        np.float32,
    )
    sketch = Sketch(2)
    sketch.add(scores, np.array([1, 0, 0, 0, 1, 0], np.bool_))
    run = sketch.run()
    assert sketch.level == 31
    assert run.scores.tolist() == [limits.min, 0.0]
    assert run.negatives.tolist() == [2, 2]
    assert run.positives.tolist() == [0, 2]


def test_positives_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    # Weights stay with their pixels where the buffer cuts a picture.
    monkeypatch.setattr(module, "_BUFFERED", 7)
    size = 100
    scores = np.arange(size, dtype=np.float32)
    weights = np.arange(1, size + 1) * 2 / (size * (size + 1)) * 4
    sketch = Sketch()
    sketch.add(scores, np.ones(size, np.bool_), weights, 4)
    assert np.array_equal(sketch.run().pro_weights, weights)


def test_an_empty_sketch() -> None:
    sketch = Sketch()
    sketch.add(np.empty(0, np.float32), np.empty(0, np.bool_))
    assert sketch.run().scores.size == 0
    assert set(pixel_metrics([sketch.run()]).values()) == {None}
    other = sketch_of(pictures(4), 64)
    expected = through_arrays(other)
    other.merge(Sketch(64))
    assert_same(other, expected)


def test_what_a_sketch_refuses_leaves_it_as_it_was() -> None:
    made = pictures(5)
    sketch = sketch_of(made, 64)
    before = through_arrays(sketch)
    scores, labels, weights, components = made[1]
    with pytest.raises(ValueError, match="finite"):
        sketch.add(np.full_like(scores, np.nan), labels, weights, components)
    with pytest.raises(ValueError, match="add up to the 4 components"):
        sketch.add(scores, labels, weights, 4)
    with pytest.raises(ValueError, match="PRO weights and others do not"):
        sketch.add(scores, labels)
    with pytest.raises(ValueError, match="got 64 and 65"):
        sketch.merge(Sketch(65))
    bare = Sketch(64)
    bare.add(scores, labels)
    with pytest.raises(ValueError, match="PRO weights and others do not"):
        sketch.merge(through_arrays(bare))
    assert_same(sketch, before)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        Sketch(1)
