"""The papers' per-image variant against a loop that does what the released code does."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import auc

from medrd.metrics import (
    aupro_rd4ad,
    aupro_rd4ad_image,
    count_pixels,
    pixel_metrics,
    region_weights,
)

Image = tuple[NDArray[np.float32], NDArray[np.bool_]]


def random_image(seed: int, levels: int | None = None) -> Image:
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(40, 32)), 2)
    label = noise > np.quantile(noise, 0.9)
    scores = noise / noise.std() + rng.normal(size=noise.shape) * 0.5
    if levels is not None:
        scores = np.round(scores * levels)
    return scores.astype(np.float32), label


def brute(scores: NDArray[np.float32], label: NDArray[np.bool_]) -> float:
    numbered, count = ndimage.label(label, structure=np.ones((3, 3)))
    wide = scores.astype(np.float64)
    rates, overlaps = [], []
    for step in range(200):
        flagged = wide > wide.min() + step * ((wide.max() - wide.min()) / 200)
        overlaps.append(np.mean([flagged[numbered == n + 1].mean() for n in range(count)]))
        rates.append((flagged & ~label).sum() / (~label).sum())
    x, y = np.array(rates), np.array(overlaps)
    x, y = x[x < 0.3], y[x < 0.3]
    return float(auc(x / x.max(), y))


@pytest.mark.parametrize("levels", [2, 10, None])
@pytest.mark.parametrize("seed", range(4))
def test_one_image_is_as_the_loop_says(seed: int, levels: int | None) -> None:
    image = random_image(seed, levels)
    assert aupro_rd4ad_image(*image) == pytest.approx(brute(*image), abs=1e-12)


def test_the_mean_is_over_anomalous_images_of_any_size() -> None:
    images = [random_image(seed) for seed in range(3)]
    small = (images[0][0][:20], images[0][1][:20])
    healthy = (images[1][0], np.zeros_like(images[1][1]))
    maps, labels = zip(*images, small, healthy, strict=True)
    expected = np.mean([brute(*image) for image in (*images, small)])
    assert aupro_rd4ad(iter(maps), iter(labels)) == pytest.approx(expected, abs=1e-12)
    assert aupro_rd4ad([], []) is None
    assert aupro_rd4ad([healthy[0]], [healthy[1]]) is None


def test_it_is_not_the_aupro() -> None:
    # The same picture twice, once with all scores lower: each by itself is as good as before,
    # but under one threshold for both the second is missed.
    scores, label = random_image(0)
    maps, labels = np.stack([scores, scores - 4]), np.stack([label, label])
    weights, components = region_weights(labels)
    found = count_pixels(maps.ravel(), labels.ravel(), weights, components)
    assert aupro_rd4ad(maps, labels) == pytest.approx(brute(scores, label), abs=1e-6)
    assert pixel_metrics(found)["aupro"] < brute(scores, label) - 0.1  # type: ignore[operator]


def test_none_where_the_released_code_gives_no_number() -> None:
    scores, label = random_image(0)
    assert aupro_rd4ad_image(scores, ~np.zeros_like(label)) is None
    assert aupro_rd4ad_image(np.ones_like(scores), label) is None
    # Perfect: every rate below 0.3 is 0, and there is nothing to divide by.
    assert aupro_rd4ad_image(label.astype(np.float32), label) is None
    # Half of the normal pixels share the highest score: no rate below 0.3.
    half = np.zeros_like(scores)
    half[::2] = 1
    assert aupro_rd4ad_image(half, label) is None


def test_a_rate_of_exactly_the_limit_is_left_out() -> None:
    # Ten normal pixels, scored 0 to 9, and two anomalous ones: rates 0, 0.1 and 0.2 are kept.
    scores = np.array([[9.5, 0, 1, 2, 3, 4], [7.5, 5, 6, 7, 8, 9]], np.float32)
    label = np.zeros((2, 6), np.bool_)
    label[:, 0] = True
    # The overlap is a half up to the rate 0.2, where it becomes 1. With 0.3 it would be 2 / 3.
    assert aupro_rd4ad_image(scores, label) == pytest.approx(0.5, abs=1e-12)


def test_what_it_refuses() -> None:
    scores, label = random_image(0)
    with pytest.raises(ValueError, match="label bool"):
        aupro_rd4ad_image(scores, label.astype(np.uint8))
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        aupro_rd4ad_image(scores[None], label[None])
    with pytest.raises(ValueError, match="of the same shape"):
        aupro_rd4ad_image(scores[1:], label)
    with pytest.raises(ValueError, match="finite"):
        aupro_rd4ad_image(scores * np.inf, label)
    with pytest.raises(ValueError, match="zip"):
        aupro_rd4ad([scores], [])
