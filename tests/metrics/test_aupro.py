"""AUPRO against its definition, spelt out with a loop over every threshold."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.integrate import trapezoid

from medrd.metrics import make_run, pixel_metrics, region_weights

Stack = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]


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


def aupro(stack: Stack, max_fpr: float = 0.3, **options: int) -> float:
    """One run an image, as the workflows do."""
    runs = []
    for scores, labels, mask in zip(*stack, strict=True):
        weights, components = region_weights(labels, mask=mask)
        runs.append(make_run(scores[mask], labels[mask], weights[mask], components))
    found = pixel_metrics(runs, max_fpr=max_fpr, **options)["aupro"]
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
    assert aupro(stack, max_fpr, max_entries=13) == pytest.approx(expected, abs=1e-12)


def test_aupro_by_hand() -> None:
    # Two components, of one pixel (scored 8.5) and of two (9.5 and 7); normal pixels score
    # -1, -1, 0, 1, 2, … 9, so twelve in all.
    labels = np.array([[1, 0, 0, 1, 1]] + 2 * [[0, 0, 0, 0, 0]], dtype=np.bool_)
    scores = np.array([[8.5, 0, 1, 9.5, 7], [2, 3, 4, 5, 6], [7, 8, 9, -1, -1]], dtype=np.float32)
    weights, components = region_weights(labels)
    assert components == 2
    run = make_run(scores.ravel(), labels.ravel(), weights.ravel(), components)
    # Thresholds down: 9.5 -> (0, 1/4); 9 -> (1/12, 1/4); 8.5 -> (1/12, 3/4); 8 -> (2/12, 3/4);
    # 7 (a tie of a normal and an anomalous pixel) -> (3/12, 1).
    area = (1 / 12) * (1 / 4) + (1 / 12) * (3 / 4) + (1 / 12) * (7 / 8)
    assert pixel_metrics([run], max_fpr=0.25)["aupro"] == pytest.approx(area / 0.25)
    # At 0.2 the last trapezoid is cut at 40 % of its width, at a PRO of 0.85.
    cut = (1 / 12) * (1 / 4) + (1 / 12) * (3 / 4) + (0.4 / 12) * (0.75 + 0.85) / 2
    assert pixel_metrics([run], max_fpr=0.2)["aupro"] == pytest.approx(cut / 0.2)


def test_every_component_counts_alike_whatever_its_size() -> None:
    labels = np.zeros((1, 20, 20), dtype=np.bool_)
    labels[0, :10, :10] = True  # found
    labels[0, 15, 15] = True  # missed
    scores = labels.astype(np.float32)
    scores[0, 15, 15] = -1
    assert aupro((scores, labels, np.ones_like(labels))) == pytest.approx(0.5)


def test_a_component_found_whole_counts_as_one_to_the_bit() -> None:
    labels = np.zeros((1, 4, 10), dtype=np.bool_)
    labels[0, 0] = True  # ten times a tenth, one after the other, is a little less than one
    scores = np.zeros(labels.shape, dtype=np.float32)
    scores[0, 0] = np.arange(1, 11)
    assert aupro((scores, labels, np.ones_like(labels))) == 1


def test_components_touch_by_corners_and_not_across_images() -> None:
    diagonal = np.eye(3, dtype=np.bool_)
    stack = np.stack([diagonal, diagonal, np.zeros_like(diagonal)])
    weights, components = region_weights(stack)
    assert components == 2
    assert np.array_equal(weights, np.where(stack, 1 / 3, 0))
    alone, one = region_weights(diagonal)
    assert one == 1
    assert np.array_equal(alone, weights[0])


def test_a_component_counts_inside_the_mask_only() -> None:
    labels = np.array([[1, 1, 1, 1, 0, 1, 0, 1]], dtype=np.bool_)
    mask = np.array([[1, 0, 1, 1, 1, 0, 1, 1]], dtype=np.bool_)
    weights, components = region_weights(labels, mask=mask)
    # The first is cut in two by the mask and stays one; the second lies outside it.
    assert components == 2
    assert weights.tolist() == [[1 / 3, 0, 1 / 3, 1 / 3, 0, 0, 0, 1]]


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 4, 4), (4, 4)])
def test_no_anomaly_no_weights(shape: tuple[int, ...]) -> None:
    weights, components = region_weights(np.zeros(shape, dtype=np.bool_))
    assert weights.shape == shape
    assert not weights.any()
    assert components == 0


def test_labels_and_masks_of_the_wrong_kind_are_refused() -> None:
    labels = np.zeros((2, 4, 4), dtype=np.bool_)
    with pytest.raises(ValueError, match="labels must be bool"):
        region_weights(labels.astype(np.uint8))
    with pytest.raises(ValueError, match="labels must be bool"):
        region_weights(labels[None])
    with pytest.raises(ValueError, match="mask must be bool"):
        region_weights(labels, mask=labels[0])
