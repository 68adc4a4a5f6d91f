"""Smoothing against scipy and image scores against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from medrd.models.scoring import smooth_across, smoothing_matrix
from training import scoring_of


def random_maps(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(48, 48), (33, 20), (7, 9), (3, 2), (1, 5)])
@pytest.mark.parametrize("sigma", [0.6, 2.0, 5.0])
def test_smoothing_is_scipys_even_where_the_kernel_is_larger_than_the_image(
    shape: tuple[int, int], sigma: float
) -> None:
    maps = random_maps(2, *shape)
    found = scoring_of(256, sigma_px=sigma).smooth(torch.from_numpy(maps))
    for mine, raw in zip(found.numpy(), maps, strict=True):
        expected = ndimage.gaussian_filter(raw, sigma, mode="reflect", truncate=4)
        np.testing.assert_allclose(mine, expected, atol=2e-6)


@pytest.mark.parametrize("size", [64, 224, 512])
def test_sigma_is_scaled_with_the_size(size: int) -> None:
    maps = random_maps(1, 40, 40)
    found = scoring_of(size, sigma_px=4).smooth(torch.from_numpy(maps))[0]
    expected = ndimage.gaussian_filter(maps[0], 4 * size / 256, mode="reflect", truncate=4)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_sigma_0_leaves_the_map_as_it_is() -> None:
    maps = torch.from_numpy(random_maps(2, 9, 9))
    assert torch.equal(scoring_of(64, sigma_px=0).smooth(maps), maps)


@pytest.mark.parametrize("fraction", [0.001, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["max", "top", "mean"])
def test_scores_are_numpys_over_the_mask_alone(kind: str, fraction: float) -> None:
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(5, 16, 16)).astype(np.float32)  # negative values too
    mask = rng.random(maps.shape) < np.array([0.9, 0.5, 0.1, 0.02, 1])[:, None, None]
    scoring = scoring_of(256, sigma_px=0, image_score=kind, top_fraction=fraction)  # type: ignore[arg-type]
    found = scoring.score(torch.from_numpy(maps), torch.from_numpy(mask))
    for score, raw, inside in zip(found.tolist(), maps, mask, strict=True):
        values = np.sort(raw[inside].astype(np.float64))[::-1]
        assert values.size
        count = int(np.ceil(np.round(values.size * fraction, 6)))
        expected = {"max": values[0], "top": values[:count].mean(), "mean": values.mean()}[kind]
        assert score == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["max", "top", "mean"])
def test_an_empty_mask_scores_0_and_spoils_no_other(kind: str) -> None:
    maps = torch.from_numpy(random_maps(2, 8, 8))
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[1, 2:4] = True
    scoring = scoring_of(256, image_score=kind)  # type: ignore[arg-type]
    empty, other = scoring.score(maps, mask)
    assert float(empty) == 0
    assert float(other) == float(scoring.score(maps[1:], mask[1:])[0])


def test_the_image_score_is_taken_from_the_smoothed_map() -> None:
    spike = torch.zeros(1, 64, 64)
    spike[0, 32, 32] = 1
    mask = torch.ones(1, 64, 64, dtype=torch.bool)
    maps, score = scoring_of(256, sigma_px=4, image_score="max")(spike, mask)
    assert float(score[0]) == float(maps.max()) < 0.02


def test_the_map_is_left_unmasked_and_its_score_is_not() -> None:
    raw = torch.from_numpy(random_maps(1, 32, 32))
    raw[:, :, 16:] += 10
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, :, :8] = True
    scoring = scoring_of(256, sigma_px=1, image_score="max")
    maps, score = scoring(raw, mask)
    assert torch.equal(maps, scoring.smooth(raw))
    assert float(score[0]) == float(maps[mask].max()) < 1


def test_what_prediction_smoothed_with_can_take_part_in_training() -> None:
    smoothing_matrix.cache_clear()
    scoring = scoring_of(256, sigma_px=1.5)
    maps = torch.rand(1, 8, 8)
    with torch.inference_mode():
        scoring.smooth(maps)
    scoring.smooth(maps.requires_grad_()).square().sum().backward()
    assert maps.grad is not None
    assert bool(maps.grad.any())


def test_the_state_dict_is_empty_so_that_it_stays_out_of_model_files() -> None:
    assert scoring_of(256).state_dict() == {}


def test_smoothing_across_slices_is_a_gaussian_in_mm_far_from_the_ends() -> None:
    maps = random_maps(60, 2, 3)
    found = smooth_across(torch.from_numpy(maps), torch.arange(60) * 2.5, 4.0).numpy()
    expected = ndimage.gaussian_filter1d(maps.astype(np.float64), 4.0 / 2.5, axis=0, truncate=4)
    np.testing.assert_allclose(found[10:-10], expected[10:-10], atol=1e-6)


def test_smoothing_across_weighs_the_slices_that_are_there_by_their_distance() -> None:
    maps, places = random_maps(4, 1, 1), [0.0, 1.0, 5.0, 90.0]
    found = smooth_across(torch.from_numpy(maps), torch.tensor(places), 2.0).flatten()
    for i, here in enumerate(places):
        weights = [np.exp(-((here - p) ** 2) / 8) if abs(here - p) <= 8 else 0 for p in places]
        assert float(found[i]) == pytest.approx(np.average(maps.ravel(), weights=weights), abs=1e-6)
    assert float(found[3]) == pytest.approx(float(maps[3, 0, 0]))  # nothing near it
