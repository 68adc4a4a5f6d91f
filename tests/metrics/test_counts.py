"""Metrics from counts against scikit-learn and brute force, in exact histograms and in few bins."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.integrate import trapezoid
from sklearn.metrics import average_precision_score, roc_auc_score

from medrd.metrics import (
    Confusion,
    Histogram,
    count_pixels,
    image_metrics,
    merge,
    pixel_bounds,
    pixel_metrics,
    region_weights,
)

Pixels = tuple[NDArray[np.float32], NDArray[np.bool_]]
Stack = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]
NAMES = ("pixel_auroc", "pixel_ap", "pixel_dice_best", "aupro")


def random_pixels(seed: int, size: int = 3_000, levels: int | None = None) -> Pixels:
    """Scores of overlapping classes, in ``levels`` distinct values (heavy ties) if given."""
    rng = np.random.default_rng(seed)
    labels = rng.random(size) < rng.uniform(0.02, 0.5)
    labels[:2] = True, False
    scores = rng.normal(size=size) + labels * rng.uniform(-0.5, 2)
    if levels is not None:
        scores = np.round(scores * levels / 8)
    return scores.astype(np.float32), labels


def counted(pixels: Pixels) -> Histogram:
    scores, labels = pixels
    count = int(labels.sum())
    components = min(7, count)
    return count_pixels(scores, labels, np.full(count, components / max(1, count)), components)


def split(pixels: Pixels, pieces: int) -> list[Pixels]:
    return list(
        zip(np.array_split(pixels[0], pieces), np.array_split(pixels[1], pieces), strict=True)
    )


def brute_dice(pixels: Pixels, threshold: float) -> float:
    flagged = pixels[0] >= threshold
    return 2 * float((flagged & pixels[1]).sum()) / float(flagged.sum() + pixels[1].sum())


# --- values of exact histograms ---


@pytest.mark.parametrize("levels", [2, 5, 40, None])
@pytest.mark.parametrize("seed", range(5))
def test_auroc_and_ap_are_those_of_scikit_learn(seed: int, levels: int | None) -> None:
    scores, labels = random_pixels(seed, levels=levels)
    found = pixel_metrics(merge([counted(piece) for piece in split((scores, labels), 3)]))
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-13)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-13)


@pytest.mark.parametrize("levels", [3, 20, None])
@pytest.mark.parametrize("seed", range(4))
def test_best_dice_is_the_best_of_all_thresholds(seed: int, levels: int | None) -> None:
    pixels = random_pixels(seed, size=500, levels=levels)
    best = max(brute_dice(pixels, threshold) for threshold in np.unique(pixels[0]))
    assert pixel_metrics(counted(pixels))["pixel_dice_best"] == pytest.approx(best, abs=1e-15)


@pytest.mark.parametrize("levels", [12, None])
def test_many_parts_are_as_one(levels: int | None) -> None:
    pieces = split(random_pixels(4, levels=levels), 9)
    weights = [np.full(labels.sum(), 2 / labels.sum()) for _, labels in pieces]
    parts = [count_pixels(*piece, own, 2) for piece, own in zip(pieces, weights, strict=True)]
    scores, labels = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    many = pixel_metrics(merge(parts))
    one = pixel_metrics(count_pixels(scores, labels, np.concatenate(weights), 18))
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
    assert pixel_metrics(counted((moved, labels))) == pixel_metrics(counted((scores, labels)))


def test_perfect_scores_are_one_in_everything() -> None:
    _, labels = random_pixels(6)
    scores = np.linspace(0, 1, labels.size, dtype=np.float32) + 10 * labels
    found = pixel_metrics(counted((scores.astype(np.float32), labels)))
    assert found == pytest.approx(dict.fromkeys(NAMES, 1.0), abs=1e-12)
    assert all(value <= 1 for value in found.values() if value is not None)


def test_inverted_scores_are_the_worst() -> None:
    _, labels = random_pixels(6)
    found = pixel_metrics(counted(((~labels).astype(np.float32), labels)))
    assert found["pixel_auroc"] == 0
    assert found["aupro"] == 0


def test_a_constant_map_is_chance() -> None:
    _, labels = random_pixels(7)
    prevalence = labels.mean()
    found = pixel_metrics(counted((np.full(labels.size, 0.5, np.float32), labels)))
    assert found["pixel_auroc"] == 0.5
    assert found["pixel_ap"] == pytest.approx(prevalence)
    assert found["pixel_dice_best"] == pytest.approx(2 * prevalence / (1 + prevalence))
    # The only segment runs from (0, 0) to (1, 1): the area under y = x up to 0.3, over 0.3.
    assert found["aupro"] == pytest.approx(0.15)


@pytest.mark.parametrize("labels", [[], [True, True], [False, False]])
def test_an_empty_class_gives_none(labels: list[bool]) -> None:
    scores = np.arange(len(labels), dtype=np.float32)
    found = pixel_metrics(counted((scores, np.array(labels, dtype=np.bool_))))
    assert found == dict.fromkeys(NAMES)


def test_without_weights_there_is_no_aupro() -> None:
    found = pixel_metrics(count_pixels(*random_pixels(8)))
    assert found.pop("aupro") is None
    assert None not in found.values()


@pytest.mark.parametrize("max_fpr", [0, -0.1, 1.1, float("nan")])
def test_an_interval_that_is_none_is_refused(max_fpr: float) -> None:
    with pytest.raises(ValueError, match="max_fpr must be in"):
        pixel_metrics(counted(random_pixels(8)), max_fpr=max_fpr)


def test_auroc_does_not_overflow() -> None:
    # 2 * negatives * positives is beyond int64.
    many, none = np.array([0, 2**32]), np.array([2**32, 0])
    found = Histogram(0, np.array([0, 1], np.int32), none, many, np.zeros(2), 0)
    assert pixel_metrics(found)["pixel_auroc"] == 1


def test_a_confusion_is_counted_and_has_a_dice_where_there_are_positives() -> None:
    scores, labels = random_pixels(0, size=200, levels=10)
    for threshold in [-np.inf, *np.unique(scores), 0.5, np.inf]:
        flagged = scores >= threshold
        found = Confusion.of(flagged, labels)
        assert found == ((flagged & ~labels).sum(), (flagged & labels).sum(), labels.sum())
        assert found.dice == brute_dice((scores, labels), threshold)
    assert Confusion.of(flagged, np.zeros_like(labels)).dice is None


# --- images ---


def test_image_metrics_by_hand() -> None:
    # Scores far outside [0, 1], ranked N A N A: three of four pairs are in order.
    scores = np.array([-50, 3, 40, 900], dtype=np.float32)
    labels = np.array([False, True, False, True])
    found = image_metrics(scores, labels)
    assert found["image_auroc"] == 0.75
    assert found["image_ap"] == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("levels", [3, None])
def test_image_metrics_are_those_of_scikit_learn(levels: int | None) -> None:
    scores, labels = random_pixels(9, size=80, levels=levels)
    found = image_metrics(scores, labels)
    assert found["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-13)
    assert found["image_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-13)


def test_scores_that_differ_in_the_last_bit_are_no_ties() -> None:
    low = np.float32(1)
    scores = np.array([low, np.nextafter(low, np.float32(2))])
    assert image_metrics(scores, np.array([False, True]))["image_auroc"] == 1


@pytest.mark.parametrize("labels", [[], [True, True], [False, False]])
def test_an_empty_class_of_images_gives_none(labels: list[bool]) -> None:
    scores = np.arange(len(labels), dtype=np.float32)
    assert image_metrics(scores, np.array(labels, dtype=np.bool_)) == {
        "image_auroc": None,
        "image_ap": None,
    }


def test_what_image_metrics_refuses() -> None:
    scores = np.array([0, 1], dtype=np.float32)
    with pytest.raises(ValueError, match="labels bool"):
        image_metrics(scores, np.array([0, 1]))
    with pytest.raises(ValueError, match=r"got \(2,\) and bool \(3,\)"):
        image_metrics(scores, np.array([True, False, True]))
    with pytest.raises(ValueError, match="finite"):
        image_metrics(np.array([0, np.inf], dtype=np.float32), np.array([True, True]))


# --- AUPRO by its definition, spelt out with a loop over every threshold ---


def random_stack(seed: int, levels: int | None) -> Stack:
    """Maps, labels with several components an image (some of one pixel), and masks."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(4, 24, 20)), (0, 1.5, 1.5))
    labels = noise > np.quantile(noise, 0.85)
    labels[0] = False
    labels[1] = False
    labels[1, 3, 3] = True
    scores = noise / noise.std() + rng.normal(size=noise.shape) * 1.5
    if levels is not None:
        scores = np.round(scores * levels / 10)
    mask = ndimage.gaussian_filter(rng.normal(size=noise.shape), (0, 3, 3)) > -0.05
    mask[1, 3, 3] = True
    return scores.astype(np.float32), labels, mask


def brute_aupro(stack: Stack, max_fpr: float) -> float:
    scores, labels, mask = stack
    regions = []
    for image, label in enumerate(labels):
        numbered, count = ndimage.label(label, structure=np.ones((3, 3)))
        for number in range(1, count + 1):
            region = np.zeros_like(labels)
            region[image] = (numbered == number) & mask[image]
            if region.any():
                regions.append(region)
    normal = mask & ~labels
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(scores[mask])[::-1]:
        flagged = scores >= threshold
        rates.append(float(flagged[normal].mean()))
        overlaps.append(float(np.mean([flagged[region].mean() for region in regions])))
    inside = [i for i, rate in enumerate(rates) if rate <= max_fpr]
    x = [*(rates[i] for i in inside), max_fpr]
    y = [*(overlaps[i] for i in inside), float(np.interp(max_fpr, rates, overlaps))]
    return float(trapezoid(y, x)) / max_fpr


def aupro(stack: Stack, max_fpr: float = 0.3) -> float:
    """One histogram an image, merged."""
    parts = []
    for scores, labels, mask in zip(*stack, strict=True):
        weighed = region_weights(labels, mask=mask)
        parts.append(count_pixels(scores[mask], labels[mask], *weighed))
    found = pixel_metrics(merge(parts), max_fpr=max_fpr)["aupro"]
    assert found is not None
    return found


@pytest.mark.parametrize("max_fpr", [0.001, 0.3, 1.0])
@pytest.mark.parametrize("levels", [3, 15, None])
@pytest.mark.parametrize("seed", range(3))
def test_aupro_is_the_area_by_definition(seed: int, levels: int | None, max_fpr: float) -> None:
    stack = random_stack(seed, levels)
    expected = brute_aupro(stack, max_fpr)
    assert 0 < expected < 1
    assert aupro(stack, max_fpr) == pytest.approx(expected, abs=1e-12)


def test_aupro_by_hand() -> None:
    # Two components, of one pixel (scored 8.5) and of two (9.5 and 7); normal pixels score
    # -1, -1, 0, 1, 2, … 9, so twelve in all.
    labels = np.array([[1, 0, 0, 1, 1]] + 2 * [[0, 0, 0, 0, 0]], dtype=np.bool_)
    scores = np.array([[8.5, 0, 1, 9.5, 7], [2, 3, 4, 5, 6], [7, 8, 9, -1, -1]], dtype=np.float32)
    weights, components = region_weights(labels)
    assert components == 2
    found = count_pixels(scores.ravel(), labels.ravel(), weights, components)
    # Thresholds down: 9.5 -> (0, 1/4); 9 -> (1/12, 1/4); 8.5 -> (1/12, 3/4); 8 -> (2/12, 3/4);
    # 7 (a tie of a normal and an anomalous pixel) -> (3/12, 1).
    area = (1 / 12) * (1 / 4) + (1 / 12) * (3 / 4) + (1 / 12) * (7 / 8)
    assert pixel_metrics(found, max_fpr=0.25)["aupro"] == pytest.approx(area / 0.25)
    # At 0.2 the last trapezoid is cut at 40 % of its width, at a PRO of 0.85.
    cut = (1 / 12) * (1 / 4) + (1 / 12) * (3 / 4) + (0.4 / 12) * (0.75 + 0.85) / 2
    assert pixel_metrics(found, max_fpr=0.2)["aupro"] == pytest.approx(cut / 0.2)


def test_every_component_counts_alike_whatever_its_size() -> None:
    labels = np.zeros((1, 20, 20), dtype=np.bool_)
    labels[0, :10, :10] = True  # found
    labels[0, 15, 15] = True  # missed
    scores = labels.astype(np.float32)
    scores[0, 15, 15] = -1
    assert aupro((scores, labels, np.ones_like(labels))) == pytest.approx(0.5)


def test_a_component_found_whole_counts_as_one() -> None:
    labels = np.zeros((1, 4, 10), dtype=np.bool_)
    labels[0, 0] = True  # ten times a tenth, one after the other, is a little less than one
    scores = np.zeros(labels.shape, dtype=np.float32)
    scores[0, 0] = np.arange(1, 11)
    found = aupro((scores, labels, np.ones_like(labels)))
    assert 1 - 1e-15 <= found <= 1


# --- few bins ---

Weighed = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64], int]


def pixels(
    seed: int,
    size: int = 20_000,
    prevalence: float = 0.02,
    change: Callable[[NDArray[np.float64]], NDArray[np.float64]] = np.positive,
    components: int = 5,
) -> Weighed:
    rng = np.random.default_rng(seed)
    labels = np.zeros(size, np.bool_)
    labels[rng.choice(size, max(1, round(size * prevalence)), replace=False)] = True
    scores = change(rng.normal(size=size) + 1.5 * labels).astype(np.float32)
    shares = rng.random(int(labels.sum()))
    return scores, labels, shares * (components / shares.sum()), components


def spread_out(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale scores by random factors over sixty powers of ten."""
    return scores * 10.0 ** np.random.default_rng(0).integers(-30, 30, scores.size)


def share_below(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evenly in (0, 1], as ranks are."""
    return (scores.argsort().argsort() + 1) / scores.size


CASES: dict[str, Callable[[int], Weighed]] = {
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
    "subnormal": lambda seed: pixels(seed, change=lambda s: s * 1e-42),
    "far from zero": lambda seed: pixels(seed, change=lambda s: s + 1000),
    "inverted": lambda seed: pixels(seed, change=np.negative),
    "negative": lambda seed: pixels(seed, change=lambda s: s - 20),
    "sixty powers of ten": lambda seed: pixels(seed, change=spread_out),
    "ranks": lambda seed: pixels(seed, change=share_below),
    "probabilities": lambda seed: pixels(seed, change=lambda s: 1 / (1 + np.exp(-5 * s - 3))),
    "signed zeros": lambda seed: pixels(
        seed, change=lambda s: np.where(abs(s) < 1, np.copysign(0, s), s)
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_values_are_exact_while_the_scores_fit(case: str) -> None:
    scores, labels, *weighed = CASES[case](0)
    found = pixel_metrics(count_pixels(scores, labels, *weighed))
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("max_bins", [2, 64, 2048])
@pytest.mark.parametrize("case", CASES)
def test_the_exact_value_lies_between_the_bounds(case: str, max_bins: int) -> None:
    for seed in range(1 if case == "prevalence 1e-6" else 4):
        whole = count_pixels(*CASES[case](seed))
        binned = merge([whole], max_bins=max_bins)
        for max_fpr in (0.01, 0.3, 1.0):
            exact = pixel_metrics(whole, max_fpr=max_fpr)
            found = pixel_metrics(binned, max_fpr=max_fpr)
            bounds = pixel_bounds(binned, max_fpr=max_fpr)
            if binned.exact:
                assert (found, bounds) == (exact, {})
                continue
            assert set(bounds) == set(NAMES)
            for name, (low, high) in bounds.items():
                value, wanted = found[name], exact[name]
                assert value is not None
                assert wanted is not None
                assert 0 <= low <= wanted <= high <= 1, name
                assert low <= value <= high


@pytest.mark.parametrize("change", [np.positive, share_below, lambda s: s * 1e-6 - 1e-5])
def test_more_scores_than_bins_cost_less_than_a_ten_thousandth(
    change: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> None:
    """A million pixels and two bins for every three: a brain of BraTS in an evaluation."""
    whole = count_pixels(*pixels(0, 1_000_000, prevalence=0.01, change=change))
    binned = merge([whole], max_bins=2 * whole.keys.size // 3)
    assert not binned.exact
    exact = pixel_metrics(whole)
    for name, value in pixel_metrics(binned).items():
        assert value == pytest.approx(exact[name], abs=1e-4)


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
    weights = np.full(labels.sum(), 2 / labels.sum())
    found: dict[str, list[float]] = {}
    for low, middle, high in itertools.product(*(orders(n, q) for n, q in counts)):
        scores = np.concatenate([low, middle + 8, high + 16]).astype(np.float32)
        whole = count_pixels(scores, labels, weights, 2)
        for name, value in pixel_metrics(whole, max_fpr=max_fpr).items():
            found.setdefault(name, []).append(value or 0.0)
    n, p = (np.array(c) for c in zip(*counts, strict=True))
    bins = Histogram(1, np.arange(3, dtype=np.int32), n, p, p * (2 / p.sum()), 2)
    for name, (low, high) in pixel_bounds(bins, max_fpr=max_fpr).items():
        assert high == pytest.approx(max(found[name]), abs=1e-8)
        # A lower bound of the precision of two positives in a bin is a little below the worst.
        loose = 2e-3 if name == "pixel_ap" else 1e-8
        assert min(found[name]) - loose <= low <= min(found[name]) + 1e-12


def test_no_bounds_where_there_are_no_metrics() -> None:
    scores = np.arange(10, dtype=np.float32)
    healthy = count_pixels(scores, np.zeros(10, np.bool_), max_bins=2)
    assert not healthy.exact
    assert pixel_bounds(healthy) == {}
    bare = count_pixels(scores, scores > 5, max_bins=2)
    assert list(pixel_bounds(bare)) == ["pixel_auroc", "pixel_ap", "pixel_dice_best"]
