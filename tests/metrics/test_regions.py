"""Components of images, and weights that make each count alike."""

from __future__ import annotations

import numpy as np
import pytest

from medrd.metrics import region_weights


def test_weights_are_in_the_order_of_the_anomalous_pixels() -> None:
    labels = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 0]], dtype=np.bool_)
    weights, components = region_weights(labels)
    assert components == 3
    assert weights.tolist() == [1, 1 / 2, 1 / 2, 1]


def test_components_touch_by_corners_and_not_across_images() -> None:
    diagonal = np.eye(3, dtype=np.bool_)
    stack = np.stack([diagonal, diagonal, np.zeros_like(diagonal)])
    weights, components = region_weights(stack)
    assert components == 2
    assert weights.tolist() == [1 / 3] * 6
    alone, one = region_weights(diagonal)
    assert one == 1
    assert np.array_equal(alone, weights[:3])


def test_a_component_counts_inside_the_mask_only() -> None:
    labels = np.array([[1, 1, 1, 1, 0, 1, 0, 1]], dtype=np.bool_)
    mask = np.array([[1, 0, 1, 1, 1, 0, 1, 1]], dtype=np.bool_)
    weights, components = region_weights(labels, mask=mask)
    # The first is cut in two by the mask and stays one; the second lies outside it.
    assert components == 2
    assert weights.tolist() == [1 / 3, 1 / 3, 1 / 3, 1]
    assert weights.size == labels[mask].sum()


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 4, 4), (4, 4)])
def test_no_anomaly_no_weights(shape: tuple[int, ...]) -> None:
    weights, components = region_weights(np.zeros(shape, dtype=np.bool_))
    assert weights.shape == (0,)
    assert components == 0


def test_labels_and_masks_of_the_wrong_kind_are_refused() -> None:
    labels = np.zeros((2, 4, 4), dtype=np.bool_)
    with pytest.raises(ValueError, match="labels must be bool"):
        region_weights(labels.astype(np.uint8))
    with pytest.raises(ValueError, match="labels must be bool"):
        region_weights(labels[None])
    with pytest.raises(ValueError, match="mask must be bool"):
        region_weights(labels, mask=labels[0])
