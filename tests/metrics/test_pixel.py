"""Pixel metrics against scikit-learn and brute force, and the rules at their edges."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from medrd.metrics import (
    Run,
    dice_at,
    make_run,
    pixel_metrics,
    rates_at,
    threshold_at_fpr,
)

Pixels = tuple[NDArray[np.float32], NDArray[np.bool_]]


def random_pixels(seed: int, size: int = 3_000, levels: int | None = None) -> Pixels:
    """Scores of overlapping classes, in ``levels`` distinct values (heavy ties) if given."""
    rng = np.random.default_rng(seed)
    labels = rng.random(size) < rng.uniform(0.02, 0.5)
    labels[:2] = True, False
    scores = rng.normal(size=size) + labels * rng.uniform(-0.5, 2)
    if levels is not None:
        scores = np.round(scores * levels / 8)
    return scores.astype(np.float32), labels


def run_of(pixels: Pixels) -> Run:
    scores, labels = pixels
    components = min(7, int(labels.sum()))
    return make_run(scores, labels, labels * (components / max(1, labels.sum())), components)


def split(pixels: Pixels, pieces: int) -> list[Pixels]:
    return list(
        zip(np.array_split(pixels[0], pieces), np.array_split(pixels[1], pieces), strict=True)
    )


def brute_dice(pixels: Pixels, threshold: float) -> float:
    flagged = pixels[0] >= threshold
    return 2 * float((flagged & pixels[1]).sum()) / float(flagged.sum() + pixels[1].sum())


@pytest.mark.parametrize("levels", [2, 5, 40, None])
@pytest.mark.parametrize("seed", range(5))
def test_auroc_and_ap_are_those_of_scikit_learn(seed: int, levels: int | None) -> None:
    scores, labels = random_pixels(seed, levels=levels)
    runs = [run_of(piece) for piece in split((scores, labels), 3)]
    found = pixel_metrics(runs, max_entries=50)
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-13)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-13)


@pytest.mark.parametrize("levels", [3, 20, None])
@pytest.mark.parametrize("seed", range(4))
def test_best_dice_is_the_best_of_all_thresholds(seed: int, levels: int | None) -> None:
    pixels = random_pixels(seed, size=500, levels=levels)
    by_threshold = {float(t): brute_dice(pixels, t) for t in np.unique(pixels[0])}
    found = pixel_metrics([run_of(pixels)], max_entries=11)
    best = max(by_threshold.values())
    assert found["pixel_dice_best"] == best
    assert found["pixel_dice_best_threshold"] == max(
        t for t, d in by_threshold.items() if d == best
    )


@pytest.mark.parametrize("max_entries", [1, 1000])
def test_of_equal_dice_the_highest_threshold_is_named(max_entries: int) -> None:
    scores = np.array([3, 2, 2, 2], dtype=np.float32)
    labels = np.array([True, True, False, False])  # 2 / 3 at either threshold
    found = pixel_metrics([run_of((scores, labels))], max_entries=max_entries)
    assert found["pixel_dice_best"] == 2 / 3
    assert found["pixel_dice_best_threshold"] == 3


@pytest.mark.parametrize("max_entries", [1, 2, 17, 1000])
@pytest.mark.parametrize("levels", [30, None])
def test_chunking_changes_no_bit(max_entries: int, levels: int | None) -> None:
    # Many runs share a score, so the order in which their weights are added shows.
    pieces = split(random_pixels(3, size=1500, levels=levels), 12)
    runs = [run_of(piece) for piece in pieces]
    assert pixel_metrics(runs, max_entries=max_entries) == pixel_metrics(runs, max_entries=10**9)


@pytest.mark.parametrize("levels", [12, None])
def test_many_runs_are_as_one(levels: int | None) -> None:
    pieces = split(random_pixels(4, levels=levels), 9)
    weights = [np.where(labels, 2 / labels.sum(), 0) for _, labels in pieces]
    runs = [make_run(*piece, own, 2) for piece, own in zip(pieces, weights, strict=True)]
    scores, labels = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    many, one = (
        pixel_metrics(runs),
        pixel_metrics([make_run(scores, labels, np.concatenate(weights), 18)]),
    )
    # Sums of weights may round differently; everything else is made of whole numbers.
    assert many.pop("aupro") == pytest.approx(one.pop("aupro"), abs=1e-13)
    assert many == one


@pytest.mark.parametrize(
    "transform", [lambda s: 100 * s - 7, np.exp, np.arctan, lambda s: np.sign(s) * s**2]
)
def test_only_the_order_of_scores_matters(transform: np.ufunc) -> None:
    scores, labels = random_pixels(5, levels=60)
    moved = transform(scores.astype(np.float64)).astype(np.float32)
    assert np.unique(moved).size == np.unique(scores).size
    expected = pixel_metrics([run_of((scores, labels))])
    found = pixel_metrics([run_of((moved, labels))])
    threshold = np.float32(expected.pop("pixel_dice_best_threshold"))
    moved_threshold = moved[np.flatnonzero(scores == threshold)[0]]
    assert found.pop("pixel_dice_best_threshold") == moved_threshold
    assert found == expected


def test_perfect_scores_are_one_in_everything() -> None:
    _, labels = random_pixels(6)
    scores = np.linspace(0, 1, labels.size, dtype=np.float32) + 10 * labels
    found = pixel_metrics([run_of((scores.astype(np.float32), labels))], max_entries=100)
    lowest_positive = found.pop("pixel_dice_best_threshold")
    assert lowest_positive == scores[labels].min()
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-12)
    assert all(value <= 1 for value in found.values() if value is not None)


def test_inverted_scores_are_the_worst() -> None:
    _, labels = random_pixels(6)
    found = pixel_metrics([run_of(((~labels).astype(np.float32), labels))])
    assert found["pixel_auroc"] == 0
    assert found["aupro"] == 0


def test_a_constant_map_is_chance() -> None:
    _, labels = random_pixels(7)
    prevalence = labels.mean()
    found = pixel_metrics([run_of((np.full(labels.size, 0.5, np.float32), labels))])
    assert found["pixel_auroc"] == 0.5
    assert found["pixel_ap"] == pytest.approx(prevalence)
    assert found["pixel_dice_best"] == pytest.approx(2 * prevalence / (1 + prevalence))
    assert found["pixel_dice_best_threshold"] == 0.5
    # The only segment runs from (0, 0) to (1, 1): the area under y = x up to 0.3, over 0.3.
    assert found["aupro"] == pytest.approx(0.15)


@pytest.mark.parametrize("labels", [[], [True, True], [False, False]])
def test_an_empty_class_gives_none(labels: list[bool]) -> None:
    scores = np.arange(len(labels), dtype=np.float32)
    found = pixel_metrics([run_of((scores, np.array(labels, dtype=np.bool_)))])
    assert set(found) == {
        "pixel_auroc",
        "pixel_ap",
        "pixel_dice_best",
        "pixel_dice_best_threshold",
        "aupro",
    }
    assert set(found.values()) == {None}


def test_runs_without_weights_have_no_aupro() -> None:
    scores, labels = random_pixels(8)
    found = pixel_metrics([make_run(scores, labels, None, 0)])
    assert found.pop("aupro") is None
    assert None not in found.values()


def test_weights_in_some_runs_only_are_refused() -> None:
    pixels = random_pixels(8)
    with pytest.raises(ValueError, match=r"run 1 has \d+ positive pixels but no PRO weights"):
        pixel_metrics([run_of(pixels), make_run(*pixels, None, 0)])
    healthy = make_run(pixels[0], np.zeros_like(pixels[1]), None, 0)
    assert pixel_metrics([run_of(pixels), healthy])["aupro"] is not None


@pytest.mark.parametrize("max_fpr", [0, -0.1, 1.1, float("nan")])
def test_an_interval_that_is_none_is_refused(max_fpr: float) -> None:
    with pytest.raises(ValueError, match="max_fpr must be in"):
        pixel_metrics([], max_fpr=max_fpr)


def test_auroc_does_not_overflow() -> None:
    # 2 * negatives * positives is beyond int64.
    many = np.array([2**32], dtype=np.int64)
    none = np.zeros(1, dtype=np.int64)
    low = Run(np.zeros(1, np.float32), many, none, np.zeros(1), 0)
    high = Run(np.ones(1, np.float32), none, many, np.zeros(1), 0)
    assert pixel_metrics([low, high], max_entries=1)["pixel_auroc"] == 1


@pytest.mark.parametrize("seed", range(4))
def test_dice_and_rates_at_a_threshold_flag_what_reaches_it(seed: int) -> None:
    pixels = random_pixels(seed, size=200, levels=10)
    scores, labels = pixels
    runs = [run_of(piece) for piece in split(pixels, 2)]
    for threshold in [-np.inf, *np.unique(scores), 0.5, np.inf]:
        flagged = scores >= threshold
        assert dice_at(runs, threshold) == brute_dice(pixels, threshold)
        assert rates_at(runs, threshold) == (flagged[~labels].mean(), flagged[labels].mean())


def test_a_threshold_is_rounded_as_numpy_rounds_it() -> None:
    scores = np.array([0.7], dtype=np.float32)  # a little below the float64 0.7
    assert (scores >= 0.7).all()
    assert rates_at([make_run(scores, np.array([True]), None, 0)], 0.7) == (None, 1.0)


def test_dice_and_rates_of_empty_classes_are_none() -> None:
    scores = np.array([0, 1], dtype=np.float32)
    healthy = [make_run(scores, np.array([False, False]), None, 0)]
    assert dice_at(healthy, 0.5) is None
    assert rates_at(healthy, 0.5) == (0.5, None)
    with pytest.raises(ValueError, match="NaN"):
        dice_at(healthy, float("nan"))


@pytest.mark.parametrize("levels", [2, 6, 50, None])
@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_for_a_rate_is_the_smallest_that_keeps_it(
    seed: int, levels: int | None
) -> None:
    pixels = random_pixels(seed, size=300, levels=levels)
    runs = [run_of(piece) for piece in split(pixels, 3)]
    negatives = pixels[0][~pixels[1]]
    exact = [k / negatives.size for k in (0, 1, 3, 10, negatives.size - 1)]
    for fpr in [*exact, 0.01, 0.05, 0.3, 0.5, 0.999]:
        threshold = np.float32(threshold_at_fpr(runs, fpr))
        assert (negatives >= threshold).mean() <= fpr
        assert (negatives >= np.nextafter(threshold, np.float32(-np.inf))).mean() > fpr


def test_the_threshold_for_a_rate_by_hand() -> None:
    scores = np.array([0, 1, 1, 2, 9], dtype=np.float32)
    labels = np.array([False, False, False, False, True])
    runs = [make_run(scores, labels, None, 0)]

    def just_above(score: float) -> float:
        return float(np.nextafter(np.float32(score), np.float32(np.inf)))

    assert threshold_at_fpr(runs, 0) == just_above(2)
    assert threshold_at_fpr(runs, 0.25) == just_above(1)
    assert threshold_at_fpr(runs, 0.74) == just_above(1)  # the tie would flag three of four
    assert threshold_at_fpr(runs, 0.75) == just_above(0)


def test_a_rate_needs_negatives_and_a_sensible_value() -> None:
    anomalous = [make_run(np.ones(2, np.float32), np.array([True, True]), None, 0)]
    with pytest.raises(ValueError, match="needs negative pixels"):
        threshold_at_fpr(anomalous, 0.1)
    for fpr in (-0.1, 1, float("nan")):
        with pytest.raises(ValueError, match="fpr must be in"):
            threshold_at_fpr(anomalous, fpr)
