"""Image metrics: the raw ranking, and nothing where a class is missing."""

from __future__ import annotations

import numpy as np
import pytest

from medrd.metrics import image_metrics


def test_image_metrics_by_hand() -> None:
    # Scores far outside [0, 1], ranked N A N A: three of four pairs are in order.
    scores = np.array([-50, 3, 40, 900], dtype=np.float32)
    labels = np.array([False, True, False, True])
    found = image_metrics(scores, labels)
    assert found["image_auroc"] == 0.75
    assert found["image_ap"] == pytest.approx((1 + 2 / 3) / 2)


def test_scores_that_differ_in_the_last_bit_are_no_ties() -> None:
    low = np.float32(1)
    scores = np.array([low, np.nextafter(low, np.float32(2))])
    assert image_metrics(scores, np.array([False, True]))["image_auroc"] == 1


@pytest.mark.parametrize("labels", [[], [True, True], [False, False]])
def test_an_empty_class_gives_none(labels: list[bool]) -> None:
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
