"""Bounds: the exact value lies inside, whatever the scores, and bounds are as tight as claimed."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from medrd.metrics import Run, Sketch, binned_metrics, make_run, pixel_metrics, sketch_metrics

Pixels = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64], int]


def pixels(
    seed: int,
    size: int = 20_000,
    prevalence: float = 0.02,
    change: Callable[[NDArray[np.float64]], NDArray[np.float64]] = np.positive,
    components: int = 5,
) -> Pixels:
    rng = np.random.default_rng(seed)
    labels = np.zeros(size, np.bool_)
    labels[rng.choice(size, max(1, round(size * prevalence)), replace=False)] = True
    scores = change(rng.normal(size=size) + 1.5 * labels).astype(np.float32)
    shares = np.where(labels, rng.random(size), 0)
    return scores, labels, shares * (components / shares.sum()), components


CASES: dict[str, Callable[[int], Pixels]] = {
    "random": pixels,
    "even classes": lambda seed: pixels(seed, prevalence=0.5),
    "ties": lambda seed: pixels(seed, change=lambda s: np.round(s * 100)),
    "plateau": lambda seed: pixels(seed, change=lambda s: np.maximum(s, 0.5)),
    "constant map": lambda seed: pixels(seed, change=np.ones_like),
    "constant but for one": lambda seed: pixels(seed, change=lambda s: (s == s.max()) * s),
    "one-pixel lesions": lambda seed: pixels(seed, prevalence=0.001, components=20),
    "one pixel": lambda seed: pixels(seed, prevalence=0, components=1),
    "prevalence 1e-6": lambda seed: pixels(seed, 1_000_000, 1e-6, components=1),
    "cubed": lambda seed: pixels(seed, change=lambda s: s**3),
    "exponential": lambda seed: pixels(seed, change=np.exp),
    "tiny": lambda seed: pixels(seed, change=lambda s: s * 1e-6),
    "far from zero": lambda seed: pixels(seed, change=lambda s: s + 1000),
    "inverted": lambda seed: pixels(seed, change=np.negative),
    "signed zeros": lambda seed: pixels(
        seed, change=lambda s: np.where(abs(s) < 1, np.copysign(0, s), s)
    ),
}


@pytest.mark.parametrize("max_entries", [2, 64, 2048])
@pytest.mark.parametrize("case", CASES)
def test_the_exact_value_lies_inside(case: str, max_entries: int) -> None:
    for seed in range(1 if case == "prevalence 1e-6" else 4):
        data = CASES[case](seed)
        run = make_run(*data)
        sketch = Sketch(max_entries)
        sketch.add(*data)
        for max_fpr in (0.01, 0.3, 1.0):
            exact = pixel_metrics([run], max_fpr=max_fpr)
            for name, bounded in sketch_metrics(sketch, max_fpr=max_fpr).items():
                value = exact[name]
                assert bounded is not None
                assert value is not None
                assert bounded.low <= bounded.value <= bounded.high
                if sketch.exact:
                    assert (bounded.low, bounded.value, bounded.high) == (value, value, value)
                else:
                    assert 0 <= bounded.low <= value <= bounded.high <= 1, name


def test_at_the_default_size_the_interval_is_narrow() -> None:
    # Six million scores, hardly two alike, do not fit in four million entries.
    data = pixels(0, size=6_000_000, prevalence=0.01)
    sketch = Sketch()
    sketch.add(*data)
    assert not sketch.exact
    for bounded in sketch_metrics(sketch).values():
        assert bounded is not None
        assert bounded.high - bounded.low < 1e-5


def orders(negatives: int, positives: int) -> NDArray[np.int64]:
    """Every order of so many pixels, ties included; those of one class cannot be told apart."""
    pixels = negatives + positives
    found = set()
    for places in itertools.product(range(pixels), repeat=pixels):
        ranks = np.unique(places, return_inverse=True)[1].tolist()
        found.add((*sorted(ranks[:negatives]), *sorted(ranks[negatives:])))
    return np.array(sorted(found))


@pytest.mark.parametrize("max_fpr", [0.3, 1.0])
def test_bounds_are_the_best_and_the_worst_order(max_fpr: float) -> None:
    # Bins [0, 8) and [8, 16) and [16, 24); every order, ties included, of what lies in each.
    counts = [(2, 1), (1, 2), (2, 1)]  # negatives and positives
    labels = np.array([p for n, q in counts for p in [False] * n + [True] * q])
    weights = labels * (2 / labels.sum())
    found: dict[str, list[float]] = {}
    for low, middle, high in itertools.product(*(orders(n, q) for n, q in counts)):
        scores = np.concatenate([low, middle + 8, high + 16]).astype(np.float32)
        for name, value in pixel_metrics(
            [make_run(scores, labels, weights, 2)], max_fpr=max_fpr
        ).items():
            found.setdefault(name, []).append(value or 0.0)
    n, p = (np.array(c) for c in zip(*counts, strict=True))
    bins = Run(np.array([0, 8, 16], np.float32), n, p, p * (2 / p.sum()), 2)
    for name, bounded in binned_metrics(bins, max_fpr=max_fpr).items():
        assert bounded is not None
        assert bounded.high == pytest.approx(max(found[name]), abs=1e-8)
        # A lower bound of the precision of two positives in a bin is a little below the worst.
        loose = 2e-3 if name == "pixel_ap" else 1e-8
        assert min(found[name]) - loose <= bounded.low <= min(found[name]) + 1e-12


@pytest.mark.parametrize("entries", [2, 64])
def test_none_where_pixel_metrics_say_none(entries: int) -> None:
    scores = np.arange(10, dtype=np.float32)
    healthy = Sketch(entries)
    healthy.add(scores, np.zeros(10, np.bool_))
    assert set(sketch_metrics(healthy).values()) == {None}
    bare = Sketch(entries)
    bare.add(scores, scores > 5)
    found = sketch_metrics(bare)
    assert found.pop("aupro") is None
    assert list(found) == ["pixel_auroc", "pixel_ap", "pixel_dice_best"]
    assert None not in found.values()
