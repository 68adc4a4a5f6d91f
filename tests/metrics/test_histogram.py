"""Histograms: exact while they fit, the same in any order, and honest about thresholds."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from medrd.metrics import Histogram, bins_each, count_pixels, fpr_at, merge, threshold_at_fpr
from medrd.metrics.histogram import from_ordinals, to_ordinals


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
        weights = np.full(labels.sum(), components / max(1, labels.sum()))
        made.append(Picture(scores.astype(np.float32), labels, weights, components))
    return made


def joined(made: list[Picture]) -> Picture:
    arrays = [np.concatenate(each) for each in list(zip(*made, strict=True))[:3]]
    return Picture(*arrays, sum(picture.components for picture in made))


def assert_same(first: Histogram, second: Histogram) -> None:
    assert (first.shift, first.components) == (second.shift, second.components)
    for name in ("keys", "negatives", "positives"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert np.allclose(first.pro_weights, second.pro_weights, rtol=1e-12, atol=0)


# --- counting ---


def test_ordinals_are_in_the_order_of_the_numbers_and_lead_back() -> None:
    limits = np.finfo(np.float32)
    rng = np.random.default_rng(0)
    bits = rng.integers(-(2**31), 2**31, 20_000).astype(np.int32).view(np.float32)
    edge = [limits.min, -1, -limits.smallest_subnormal, 0, limits.smallest_subnormal, limits.max]
    values = np.unique(np.append(bits[np.isfinite(bits)], edge).astype(np.float32))
    ordinals = to_ordinals(values)
    assert (np.diff(ordinals.astype(np.int64)) > 0).all()
    assert np.array_equal(from_ordinals(ordinals), values)
    assert to_ordinals(np.array([[-0.0, 0.0]], np.float32)).tolist() == [[0, 0]]
    assert np.array_equal(from_ordinals(ordinals[:-1] + 1), np.nextafter(values[:-1], limits.max))


def test_each_distinct_score_has_its_counts_and_weights() -> None:
    found = count_pixels(
        np.array([2, 1, 2, 2, -1, 1, -0.0, 0.0], dtype=np.float32),
        np.array([True, False, False, True, True, False, True, False]),
        np.array([0.25, 0.75, 1.0, 1.0]),
        3,
    )
    assert found.exact
    assert found.scores.dtype == np.float32
    assert found.scores.tolist() == [-1, 0, 1, 2]
    assert found.negatives.tolist() == [0, 1, 2, 1]
    assert found.positives.tolist() == [1, 1, 0, 2]
    assert found.pro_weights.tolist() == [1, 1, 0, 1]


def test_no_pixels_and_no_histograms_are_empty() -> None:
    empty = count_pixels(np.empty(0, np.float32), np.empty(0, np.bool_))
    assert empty.keys.size == 0
    assert_same(merge([]), empty)
    other = count_pixels(*pictures(4)[1], max_bins=64)
    assert_same(merge([empty, other]), other)


@pytest.mark.parametrize(
    ("scores", "labels", "weights", "components", "message"),
    [
        ([1, np.nan], [True, False], None, 0, "1 NaN or infinite"),
        ([1, np.inf], [True, False], None, 0, "1 NaN or infinite"),
        ([1, 1e300], [True, False], None, 0, "1 NaN or infinite"),
        ([1, 2, 3], [True, False], None, 0, r"\(3,\) and \(2,\)"),
        ([[1, 2]], [[True, False]], None, 0, r"must both be \(N,\)"),
        ([1, 2], [1, 0], None, 0, "labels must be bool"),
        ([1, 2], [True, False], [1.0, 0.0], 1, r"pro_weights must be \(1,\)"),
        ([1, 2], [True, False], [0.5], 1, "add up to the 1 components, got 0.5"),
        ([1, 2], [True, False], [np.nan], 1, "add up to"),
        ([1, 2], [True, False], None, 1, "add up to the 1 components, got 0"),
    ],
)
def test_what_counting_refuses(
    scores: list[float],
    labels: list[bool],
    weights: list[float] | None,
    components: int,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        count_pixels(
            np.array(scores),
            np.array(labels),
            None if weights is None else np.array(weights),
            components,
        )


# --- resolution and merging ---


def test_while_it_fits_a_merged_histogram_is_that_of_all_pixels() -> None:
    made = pictures(0)
    found = merge([count_pixels(*picture) for picture in made])
    assert found.exact
    assert found.keys.size == np.unique(joined(made).scores).size
    assert_same(found, count_pixels(*joined(made)))


@pytest.mark.parametrize("way", [lambda h: h, lambda h: pickle.loads(pickle.dumps(h))])
@pytest.mark.parametrize("max_bins", [2, 64, 700, 10_000])
def test_neither_order_nor_grouping_matters(
    max_bins: int, way: Callable[[Histogram], Histogram]
) -> None:
    made = pictures(1)
    expected = count_pixels(*joined(made), max_bins=max_bins)
    rng = np.random.default_rng(max_bins)
    for _ in range(4):
        parts = [count_pixels(*made[i], max_bins=max_bins) for i in rng.permutation(len(made))]
        while len(parts) > 1:
            taken = [parts.pop(int(rng.integers(len(parts)))) for _ in range(2)]
            parts.append(way(merge(taken, max_bins=max_bins)))
        assert_same(parts[0], expected)


@pytest.mark.parametrize("max_bins", [2, 3, 64, 700])
def test_as_few_bits_are_dropped_as_suffice(max_bins: int) -> None:
    scores, labels, *weighed = joined(pictures(2))
    ordinals = to_ordinals(scores)
    shift = count_pixels(scores, labels, *weighed, max_bins=max_bins).shift
    assert np.unique(ordinals >> shift).size <= max_bins < np.unique(ordinals >> shift - 1).size


def test_a_threshold_between_bins_flags_what_it_flags_in_the_data() -> None:
    made = pictures(3)
    found = merge([count_pixels(*picture) for picture in made], max_bins=200)
    assert not found.exact
    scores, labels, weights, _ = joined(made)
    for index, threshold in enumerate(found.scores):
        flagged = scores >= threshold
        assert found.negatives[index:].sum() == (flagged & ~labels).sum()
        assert found.positives[index:].sum() == (flagged & labels).sum()
        assert found.pro_weights[index:].sum() == pytest.approx(weights[flagged[labels]].sum())
        assert fpr_at(found, threshold) == flagged[~labels].mean()


def test_the_widest_range_in_the_fewest_bins() -> None:
    limits = np.finfo(np.float32)
    tiny = limits.smallest_subnormal
    scores = np.array([limits.max, limits.min, 0.0, -0.0, tiny, -tiny], np.float32)
    found = count_pixels(scores, np.array([1, 0, 0, 0, 1, 0], np.bool_), max_bins=2)
    assert found.shift == 31
    assert found.scores.tolist() == [limits.min, 0.0]
    assert found.negatives.tolist() == [2, 2]
    assert found.positives.tolist() == [0, 2]
    assert threshold_at_fpr(found, 0) == np.inf


def test_counts_beyond_uint32_do_not_wrap() -> None:
    many = Histogram(
        0,
        np.zeros(1, np.int32),
        np.array([2**32 - 1]),
        np.zeros(1, np.int64),
        np.zeros(1),
        0,
    )
    assert merge([many, many]).negatives.tolist() == [2 * (2**32 - 1)]


def test_weights_of_some_positives_only_are_refused() -> None:
    weighed = pictures(5)[1]
    bare = count_pixels(weighed.scores, weighed.labels)
    with pytest.raises(ValueError, match="PRO weights and others do not"):
        merge([count_pixels(*weighed), bare])
    healthy = count_pixels(weighed.scores, np.zeros_like(weighed.labels))
    assert merge([count_pixels(*weighed), healthy]).components == weighed.components


def test_a_histogram_needs_two_bins() -> None:
    with pytest.raises(ValueError, match="at least 2, got 1"):
        count_pixels(*pictures(6)[0], max_bins=1)


def test_the_bins_of_all_subjects_fit_in_memory_together() -> None:
    assert bins_each(1) == bins_each(0) == 2**20
    for members in (1, 10, 100, 2000):
        assert members * bins_each(members) <= 2**22
    assert bins_each(10**6) == 2**11  # below that intervals would say little


# --- thresholds ---


def random_negatives(seed: int, size: int = 300, levels: int | None = None) -> list[Picture]:
    """Pictures of both classes, in ``levels`` distinct scores (heavy ties) if given."""
    rng = np.random.default_rng(seed)
    labels = rng.random(size) < 0.2
    scores = rng.normal(size=size) + labels
    if levels is not None:
        scores = np.round(scores * levels / 8)
    parts = zip(
        np.array_split(scores.astype(np.float32), 3), np.array_split(labels, 3), strict=True
    )
    return [Picture(*part, np.zeros(int(part[1].sum())), 0) for part in parts]


RATES = [0.01, 0.05, 0.3, 0.5, 0.999]


@pytest.mark.parametrize("levels", [2, 6, 50, None])
@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_for_a_rate_is_the_smallest_that_keeps_it(
    seed: int, levels: int | None
) -> None:
    made = random_negatives(seed, levels=levels)
    whole = merge([count_pixels(*picture) for picture in made])
    negatives = np.concatenate([picture.scores[~picture.labels] for picture in made])
    exact = [k / negatives.size for k in (0, 1, 3, 10, negatives.size - 1)]
    for fpr in [*exact, *RATES]:
        threshold = np.float32(threshold_at_fpr(whole, fpr))
        assert (negatives >= threshold).mean() <= fpr
        assert (negatives >= np.nextafter(threshold, np.float32(-np.inf))).mean() > fpr


@pytest.mark.parametrize("levels", [50, None])
@pytest.mark.parametrize("max_bins", [2, 16, 128])
def test_in_bins_a_threshold_still_keeps_its_rate_and_wastes_less_than_a_bin(
    max_bins: int, levels: int | None
) -> None:
    for seed in range(4):
        made = random_negatives(seed, size=3000, levels=levels)
        whole = merge([count_pixels(*picture) for picture in made], max_bins=max_bins)
        negatives = np.concatenate([picture.scores[~picture.labels] for picture in made])
        for fpr in [0, *RATES]:
            threshold = np.float32(threshold_at_fpr(whole, fpr))
            assert (negatives >= threshold).mean() == fpr_at(whole, float(threshold)) <= fpr
            ordinal = int(to_ordinals(np.array([threshold]))[0]) - (1 << whole.shift)
            below = from_ordinals(np.array([max(ordinal, -0x7F7FFFFF)]))[0]
            assert (negatives >= below).mean() > fpr


def test_the_threshold_for_a_rate_by_hand() -> None:
    scores = np.array([0, 1, 1, 2, 9], dtype=np.float32)
    found = count_pixels(scores, np.array([False, False, False, False, True]))

    def just_above(score: float) -> float:
        return float(np.nextafter(np.float32(score), np.float32(np.inf)))

    assert threshold_at_fpr(found, 0) == just_above(2)
    assert threshold_at_fpr(found, 0.25) == just_above(1)
    assert threshold_at_fpr(found, 0.74) == just_above(1)  # the tie would flag three of four
    assert threshold_at_fpr(found, 0.75) == just_above(0)


def test_a_threshold_is_rounded_as_numpy_rounds_it() -> None:
    scores = np.array([0.7], dtype=np.float32)  # a little below the float64 0.7
    assert (scores >= 0.7).all()
    assert fpr_at(count_pixels(scores, np.array([False])), 0.7) == 1


def test_a_rate_needs_negatives_and_a_sensible_value() -> None:
    anomalous = count_pixels(np.ones(2, np.float32), np.array([True, True]))
    with pytest.raises(ValueError, match="needs negative pixels"):
        threshold_at_fpr(anomalous, 0.1)
    assert np.isnan(fpr_at(anomalous, 0.5))
    for fpr in (-0.1, 1, float("nan")):
        with pytest.raises(ValueError, match="fpr must be in"):
            threshold_at_fpr(anomalous, fpr)
