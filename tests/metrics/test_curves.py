"""The areas under the curves are the reported metrics."""

from __future__ import annotations

import numpy as np
import pytest

from medrd.metrics import (
    Units,
    count_pixels,
    image_metrics,
    make_units,
    region_weights,
    weighted_metrics,
)
from medrd.metrics.curves import Curve, image_curves, pixel_curves


def make(seed: int = 0, *, lesions: bool = True) -> Units:
    """Three subjects with a lesion each in noise."""
    rng = np.random.default_rng(seed)
    histograms, scores, labels, owners = [], [], [], []
    for unit in range(3):
        label = np.zeros((6, 24, 24), bool)
        label[2:4, 5:12, 6 + unit : 14] = lesions
        heat = (rng.normal(size=label.shape) + 1.5 * label).astype(np.float32)
        weights, components = region_weights(label)
        histograms.append(count_pixels(heat.ravel(), label.ravel(), weights, components))
        scores += heat.max(axis=(1, 2)).tolist()
        labels += label.any(axis=(1, 2)).tolist()
        owners += [unit] * len(label)
    return make_units(
        "abc",
        histograms,
        image_scores=scores,
        image_labels=np.array(labels, bool),
        image_units=owners,
    )


def area(curve: Curve, until: float = 1.0) -> float:
    """The area under straight lines between the points."""
    inside = curve.x <= until
    x = np.append(curve.x[inside], until)
    y = np.append(curve.y[inside], np.interp(until, curve.x, curve.y))
    return float(np.trapezoid(y, x)) / until


def test_areas_are_the_metrics() -> None:
    units = make()
    metrics = {k: v[0] for k, v in weighted_metrics(units, np.ones((1, 3), int)).items()}
    image, pixel = image_curves([units]), pixel_curves(units)
    assert area(pixel["roc"]) == pytest.approx(metrics["pixel_auroc"], abs=1e-6)
    assert area(pixel["pro"], 0.3) == pytest.approx(metrics["aupro"], abs=1e-4)
    assert area(image["roc"]) == pytest.approx(metrics["image_auroc"], abs=1e-6)
    # Average precision is the sum of the steps, not the area under straight lines.
    steps = float((np.diff(pixel["pr"].x) * pixel["pr"].y[1:]).sum())
    assert steps == pytest.approx(metrics["pixel_ap"], abs=1e-6)
    together = image_curves([units, make(1)])
    scores = np.concatenate([make(i).image_scores for i in (0, 1)])
    labels = np.concatenate([make(i).image_labels for i in (0, 1)])
    assert area(together["roc"]) == pytest.approx(image_metrics(scores, labels)["image_auroc"])


def test_without_a_lesion_there_is_no_curve() -> None:
    units = make(lesions=False)
    assert pixel_curves(units) == {}
    assert image_curves([units]) == {}
