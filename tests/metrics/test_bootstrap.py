"""The bootstrap against copies of units and the exact metrics; draws, pairs and coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from medrd.metrics import (
    Confusion,
    PairedDifference,
    Units,
    bootstrap,
    count_pixels,
    image_metrics,
    make_units,
    merge,
    paired_differences,
    percentile_interval,
    pixel_metrics,
    weighted_metrics,
)
from medrd.metrics.columns import RESAMPLED


class Subject:
    """Pixels and images of one subject; few different scores, so that bins lose nothing."""

    def __init__(self, name: str, rng: np.random.Generator, *, lesion: bool, skill: float = 1.5):
        self.name = name
        labels = rng.random(400) < (0.1 if lesion else 0)
        scores = np.round(4 * (rng.normal(size=400) + skill * labels + 0.5 * rng.normal()))
        components = 3 if labels.any() else 0
        weights = np.full(labels.sum(), components / max(1, labels.sum()))
        self.pixels = count_pixels(scores.astype(np.float32), labels, weights, components)
        self.image_labels = rng.random(4) < 0.5 if lesion else np.zeros(4, np.bool_)
        self.image_scores = (rng.normal(size=4) + skill * self.image_labels).astype(np.float32)
        flagged = scores >= 4
        self.flagged = Confusion.of(flagged, labels)
        self.dice = 2 * self.flagged.tp / sum(self.flagged) if lesion else math.nan


def subjects(seed: int, lesions: int, healthy: int = 0, skill: float = 1.5) -> list[Subject]:
    rng = np.random.default_rng(seed)
    made = [Subject(f"a{i}", rng, lesion=True, skill=skill) for i in range(lesions)]
    return made + [Subject(f"h{i}", rng, lesion=False) for i in range(healthy)]


def units_of(made: Sequence[Subject]) -> Units:
    return make_units(
        [subject.name for subject in made],
        [subject.pixels for subject in made],
        image_scores=np.concatenate([subject.image_scores for subject in made]),
        image_labels=np.concatenate([subject.image_labels for subject in made]),
        image_units=np.repeat(np.arange(len(made)), 4),
        dice=[subject.dice for subject in made],
        flagged=[subject.flagged for subject in made],
    )


def exact(made: Sequence[Subject]) -> dict[str, float]:
    """Each subject as often as it is listed, by the exact metrics."""
    found = pixel_metrics(merge([subject.pixels for subject in made])) | image_metrics(
        np.concatenate([subject.image_scores for subject in made]),
        np.concatenate([subject.image_labels for subject in made]),
    )
    fp, tp, positives = np.sum([subject.flagged for subject in made], axis=0)
    found["pixel_dice"] = 2 * tp / (fp + tp + positives) if positives else None
    dice = [subject.dice for subject in made if not math.isnan(subject.dice)]
    found["subject_dice"] = float(np.mean(dice)) if dice else None
    return {name: math.nan if (v := found[name]) is None else v for name in RESAMPLED}


def test_weights_are_copies() -> None:
    made = subjects(0, lesions=3, healthy=2)
    weights = np.random.default_rng(0).integers(0, 3, (40, 5))
    weights[0], weights[1] = [0, 0, 0, 2, 1], 0  # none with a lesion; none at all
    weights[1, 0] = 1
    found = weighted_metrics(units_of(made), weights)
    for row, times in enumerate(weights):
        expected = exact([made[i] for i in np.repeat(np.arange(5), times)])
        drawn = {name: found[name][row] for name in RESAMPLED}
        assert drawn == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_many_resamples_are_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    units = units_of(subjects(1, lesions=4))
    weights = np.random.default_rng(1).integers(0, 3, (50, 4))
    together = weighted_metrics(units, weights)
    monkeypatch.setattr("medrd.metrics.units.MAX_CELLS", 1)
    for name, values in weighted_metrics(units, weights).items():
        np.testing.assert_allclose(values, together[name], rtol=1e-12)


def test_groups_on_the_same_units_share_each_draw() -> None:
    groups = [units_of(subjects(seed, lesions=5, healthy=3)) for seed in range(3)]
    together = bootstrap(groups, resamples=50, seed=7)
    alone = [bootstrap([group], resamples=50, seed=7) for group in groups]
    for name in RESAMPLED:
        expected = np.mean([samples[name] for samples in alone], axis=0)
        np.testing.assert_allclose(together[name], expected, rtol=1e-12)
    # The same data under another seed is not new data: the interval stays as wide.
    same = bootstrap([groups[0]] * 3, resamples=50, seed=7)
    for name in RESAMPLED:
        np.testing.assert_allclose(same[name], alone[0][name], rtol=1e-12)


def test_the_order_of_groups_and_units_makes_no_difference() -> None:
    made, others = subjects(2, lesions=4, healthy=2), subjects(3, lesions=4, healthy=2)[1:]
    first = bootstrap([units_of(made), units_of(others)], resamples=20)
    second = bootstrap([units_of(others[::-1]), units_of(made[::-1])], resamples=20)
    for name in RESAMPLED:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-9)
    third = bootstrap([units_of(made), units_of(others)], resamples=20, seed=1)
    assert not np.allclose(first["pixel_auroc"], third["pixel_auroc"])


def test_a_group_without_a_metric_is_left_out_of_the_mean() -> None:
    made = subjects(4, lesions=4, healthy=2)
    healthy = units_of(made[4:])
    together = bootstrap([units_of(made), healthy], resamples=30)
    alone = bootstrap([units_of(made)], resamples=30)
    np.testing.assert_allclose(together["pixel_auroc"], alone["pixel_auroc"], rtol=1e-12)
    assert all(np.isnan(samples).all() for samples in bootstrap([healthy], resamples=3).values())


def test_anomalous_and_normal_units_are_drawn_apart() -> None:
    # One of each: every resample is the data, whereas drawing from both would lose a class.
    made = [*subjects(5, lesions=1), *subjects(5, lesions=0, healthy=1)]
    found = bootstrap([units_of(made)], resamples=50)
    expected = exact(made)
    for name in RESAMPLED:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


def test_a_unit_with_an_anomalous_image_alone_is_anomalous() -> None:
    # A lesion outside the evaluated region: the slice is anomalous, no evaluated pixel is.
    made = subjects(12, lesions=0, healthy=2)
    made[0].image_labels[:] = True
    found = bootstrap([units_of(made)], resamples=50)
    np.testing.assert_allclose(found["image_auroc"], found["image_auroc"][0])


def test_draws_are_with_replacement_and_as_many_as_there_are() -> None:
    made = subjects(6, lesions=3)
    for subject, dice in zip(made, (0.0, 1.0, 10.0), strict=True):
        subject.dice = dice
    found = np.round(3 * bootstrap([units_of(made)], resamples=4000)["subject_dice"])
    # Sums of three draws from 0, 1, 10, and how often each of the 27 ordered draws gives it.
    odds = {0: 1, 1: 3, 2: 3, 3: 1, 10: 3, 11: 6, 12: 3, 20: 3, 21: 3, 30: 1}
    values, counts = np.unique(found, return_counts=True)
    assert values.tolist() == list(odds)
    assert counts / 4000 == pytest.approx(np.array(list(odds.values())) / 27, abs=0.03)


def test_the_interval_covers_as_often_as_it_says() -> None:
    # The mean Dice of 40 subjects, truly 0.6; the rest of the units is kept tiny.
    rng = np.random.default_rng(8)
    pixels = count_pixels(np.array([0, 1], np.float32), np.array([False, True]))
    hits = 0
    for repetition in range(200):
        units = make_units(
            [str(i) for i in range(40)],
            [pixels] * 40,
            image_scores=[],
            image_labels=[],
            image_units=[],
            dice=rng.beta(6, 4, 40),
        )
        samples = bootstrap([units], resamples=200, seed=repetition)["subject_dice"]
        low, high = percentile_interval(samples, level=0.9)
        hits += low <= 0.6 <= high
    assert 0.82 <= hits / 200 <= 0.97  # 0.9 and three standard errors; percentiles run a bit low


def test_percentile_intervals() -> None:
    samples = np.append(np.arange(101.0), [np.nan, np.nan])
    assert percentile_interval(samples) == pytest.approx((2.5, 97.5))
    assert percentile_interval(samples, level=0.5) == pytest.approx((25, 75))
    assert all(math.isnan(end) for end in percentile_interval(np.array([np.nan])))
    with pytest.raises(ValueError, match="level must be in"):
        percentile_interval(samples, level=95)


def with_dice(values: NDArray[np.float64]) -> Units:
    """Units told apart by their Dice alone, so that pairs can be worked out by hand."""
    pixels = count_pixels(np.array([0, 1], np.float32), np.array([False, True]))
    return make_units(
        [f"s{i}" for i in range(len(values))],
        [pixels] * len(values),
        image_scores=[],
        image_labels=[],
        image_units=[],
        dice=values,
    )


def test_a_pair_shares_its_draws() -> None:
    rng = np.random.default_rng(9)
    hard = rng.uniform(0.2, 0.9, 30)  # how hard a subject is, for either model
    better, worse = (with_dice(hard + shift + rng.normal(size=30) * 0.02) for shift in (0.03, 0.0))
    paired = paired_differences([better], [worse], resamples=1000)["subject_dice"]
    assert paired.mean == pytest.approx(float(np.mean(better.dice - worse.dice)))
    assert 0 < paired.low < paired.mean < paired.high
    assert paired.p_value < 0.01
    unpaired = (
        bootstrap([better], resamples=1000, seed=1)["subject_dice"]
        - bootstrap([worse], resamples=1000, seed=2)["subject_dice"]
    )
    low, high = percentile_interval(unpaired)
    assert paired.high - paired.low < (high - low) / 3
    other_way = paired_differences([worse], [better], resamples=1000)["subject_dice"]
    assert other_way.mean == -paired.mean
    assert (other_way.low, other_way.high) == pytest.approx((-paired.high, -paired.low))


def test_p_values() -> None:
    same = with_dice(np.array([0.25, 0.5, 0.75]))
    assert paired_differences([same], [same], resamples=1000)["subject_dice"] == PairedDifference(
        0, 0, 0, 1
    )
    # Differences of 1/4, 1/4 and -3/8: of three draws, negative if the last comes twice or more.
    other = with_dice(np.array([0.5, 0.75, 0.375]))
    found = paired_differences([other], [same], resamples=4000)["subject_dice"]
    # As a normal quantile, shrunk for a variance over 3 instead of 2, in Student's t of 2.
    quantile = stats.norm.ppf(7 / 27) * np.sqrt(2 / 3)
    assert found.p_value == pytest.approx(2 * stats.t.cdf(quantile, 2), abs=0.04)
    undefined = paired_differences([same], [same], resamples=5)["pixel_dice"]
    assert all(math.isnan(value) for value in vars(undefined).values())


@pytest.mark.parametrize(("units", "least"), [(2, 0.5), (5, 1 / 16), (20, 0.006)])
def test_few_units_prove_little_however_seldom_a_resample_disagrees(
    units: int, least: float
) -> None:
    better, worse = (with_dice(np.full(units, value)) for value in (0.8, 0.3))
    found = paired_differences([better], [worse], resamples=1000)["subject_dice"]
    assert least <= found.p_value < 2 * least


@pytest.mark.parametrize("units", [5, 8, 30])
def test_where_nothing_differs_p_is_small_no_oftener_than_it_says(units: int) -> None:
    """Four subjects would be called different in one case of five without the correction."""
    rng = np.random.default_rng(units)
    false, covered, trials = 0, 0, 300
    for trial in range(trials):
        a, b = (with_dice(rng.normal(0.5, 0.1, units)) for _ in range(2))
        found = paired_differences([a], [b], resamples=400, seed=trial)["subject_dice"]
        false += found.p_value <= 0.05
        covered += found.low <= 0 <= found.high
    assert false / trials < 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)
    assert covered / trials > (0.85 if units == 5 else 0.9)


def test_pairs_of_groups_are_averaged_where_both_are_defined() -> None:
    made, others = subjects(10, lesions=3, healthy=1), subjects(11, lesions=3, healthy=1)
    nowhere = [np.full(3, np.nan)] * 2
    a = [units_of(made), with_dice(nowhere[0])]
    b = [units_of(others), with_dice(nowhere[1])]
    found = paired_differences(a, b, resamples=10)
    expected_a, expected_b = exact(made), exact(others)
    for name in ("subject_dice", "image_auroc"):
        assert found[name].mean == pytest.approx(expected_a[name] - expected_b[name], abs=1e-6)
    half = (expected_a["pixel_auroc"] - expected_b["pixel_auroc"]) / 2
    assert found["pixel_auroc"].mean == pytest.approx(half, abs=1e-6)


def test_what_a_bootstrap_refuses() -> None:
    units = with_dice(np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="needs units, got none"):
        bootstrap([], resamples=10)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        bootstrap([units], resamples=0)
    with pytest.raises(ValueError, match="same number of groups, got 1 and 2"):
        paired_differences([units], [units, units], resamples=10)
    with pytest.raises(ValueError, match="'s2' is in one only"):
        paired_differences([units], [with_dice(np.array([0.1, 0.2, 0.3]))], resamples=10)
