"""Smoothing across slices at prediction: of the maps, the scores taken from them, and no others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medrd.config import make_config
from medrd.models.intensity import Intensity
from medrd.models.scoring import smooth_across
from medrd.run.device import choose_execution
from medrd.run.model_folder import make_scoring
from medrd.run.predictor import Predictor
from training import build


def predictor(sigma_across_mm: float, image_score: str = "max") -> Predictor:
    """The identity on the first channel, in plane unsmoothed; small batches."""
    config = make_config(
        {"scoring": {"sigma_px": 0, "sigma_across_mm": sigma_across_mm, "image_score": image_score}}
    )
    detector = build(Intensity)
    scoring = make_scoring(config.scoring, size=32)
    return Predictor(detector, scoring, choose_execution("cpu", "fp32"), batch_size=4)


@pytest.fixture
def stack() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.random((10, 1, 8, 8)).astype(np.float32)
    return images, rng.random((10, 8, 8)) < 0.7, np.delete(np.arange(11), 4) * 1.5


def test_maps_are_smoothed_in_mm_and_scores_taken_from_the_smoothed_ones(
    stack: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    images, region, positions = stack
    maps, scores = predictor(2.0).maps(images, region, positions)
    expected = smooth_across(torch.from_numpy(images[:, 0]), torch.from_numpy(positions), 2.0)
    np.testing.assert_allclose(maps, expected.numpy(), atol=1e-6)
    inside = np.where(region, expected.numpy(), -np.inf)
    np.testing.assert_allclose(scores, inside.max(axis=(1, 2)), atol=1e-6)


def test_without_places_or_sigma_each_slice_stays_by_itself(
    stack: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    images, region, positions = stack
    for maps, _ in (predictor(2.0).maps(images, region), predictor(0).maps(*stack)):
        np.testing.assert_array_equal(maps, images[:, 0])
    assert positions.size == len(images)
