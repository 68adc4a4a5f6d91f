"""The columns of an evaluation: a metric's key, heading, needs, and how it is computed.

A new column is an entry of :data:`METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medrd.metrics.counts import MAX_FPR, Counts, Floats, count_histogram, count_scores
from medrd.metrics.histogram import Histogram
from medrd.metrics.lesions import (
    LesionCounts,
    false_positives_per_scan,
    lesion_sensitivity,
    mean_dice,
)

Need = Literal["images", "outlines", "threshold", "volumes"]
"""Labels of slices or pictures; outlines of anomalies; a calibrated threshold; scans, in which
lesions are three-dimensional."""


class Metric(NamedTuple):
    """One number of an evaluation.

    Attributes
    ----------
    key
        Its key in ``metrics.json`` and in the files of a comparison.
    heading
        The heading of its column in tables.
    needs
        If one of these is missing, the metric is null.
    of_images, of_pixels
        Computes it from the counts of image scores or of pixel scores of ``B`` data sets at once;
        a bootstrap over subjects then gives an interval for it.
    of_lesions
        Computes it from the lesions of each scan.
    resampled
        True if a bootstrap gives an interval for it although neither of the first two computes it
        (:mod:`medrd.metrics.units` does).
    oracle
        True if its threshold is chosen on the test labels.
    """

    key: str
    heading: str
    needs: tuple[Need, ...]
    of_images: Callable[[Counts], Floats] | None = None
    of_pixels: Callable[[Counts], Floats] | None = None
    of_lesions: Callable[[Sequence[LesionCounts]], float | None] | None = None
    resampled: bool = False
    oracle: bool = False

    @property
    def full_heading(self) -> str:
        """The heading for tables that compare models."""
        return f"{self.heading} (oracle)" if self.oracle else self.heading


AUPRO_RD4AD = Metric("aupro_rd4ad", "AUPRO as in RD4AD's code", ("outlines",))
"""A different metric from AUPRO; the two must not share a column."""

_AT_THRESHOLD: tuple[Need, ...] = ("outlines", "threshold")
_OF_LESIONS: tuple[Need, ...] = (*_AT_THRESHOLD, "volumes")

METRICS = (
    Metric("image_auroc", "image AUROC", ("images",), of_images=Counts.auroc),
    Metric("image_ap", "image AP", ("images",), of_images=Counts.average_precision),
    Metric("pixel_auroc", "pixel AUROC", ("outlines",), of_pixels=Counts.auroc),
    Metric("pixel_ap", "pixel AP", ("outlines",), of_pixels=Counts.average_precision),
    Metric("pixel_dice_best", "best Dice", ("outlines",), of_pixels=Counts.best_dice, oracle=True),
    Metric("pixel_dice", "Dice", _AT_THRESHOLD, resampled=True),
    Metric("aupro", "AUPRO", ("outlines",), of_pixels=Counts.aupro),
    Metric("subject_dice", "subject Dice", _OF_LESIONS, of_lesions=mean_dice, resampled=True),
    Metric("lesion_sensitivity", "lesion sens.", _OF_LESIONS, of_lesions=lesion_sensitivity),
    Metric("false_positives_per_scan", "FP/scan", _OF_LESIONS, of_lesions=false_positives_per_scan),
    AUPRO_RD4AD,
)

KEYS = tuple(metric.key for metric in METRICS)
"""The flat keys of ``metrics.json``; a metric that is not defined is null."""

RESAMPLED = tuple(m.key for m in METRICS if m.of_images or m.of_pixels or m.resampled)
"""The metrics that have intervals."""

COLUMNS = {metric.key: metric.heading for metric in METRICS if metric is not AUPRO_RD4AD}
"""The columns of an evaluation's table, and their headings."""

FULL_HEADINGS = {metric.key: metric.full_heading for metric in METRICS}
"""The columns of a comparison's tables; oracles are marked."""

HEADLINES = ("image_auroc", "pixel_ap", "aupro")
"""The metrics that models are ranked on; for all three, higher is better."""


def metrics_of_images(counts: Counts) -> dict[str, Floats]:
    """``(B,)`` values of each metric with ``of_images``."""
    return {m.key: m.of_images(counts) for m in METRICS if m.of_images}


def metrics_of_pixels(counts: Counts) -> dict[str, Floats]:
    """``(B,)`` values of each metric with ``of_pixels``."""
    return {m.key: m.of_pixels(counts) for m in METRICS if m.of_pixels}


def pixel_metrics(histogram: Histogram, *, max_fpr: float = MAX_FPR) -> dict[str, float | None]:
    """Threshold-free metrics and the oracle Dice of a data set.

    Parameters
    ----------
    max_fpr
        The false-positive rate at which AUPRO's interval ends, in (0, 1].

    Returns
    -------
    dict
        A value for each metric with ``of_pixels``. All are None if either class is empty, AUPRO
        also without PRO weights. Exact for an exact histogram; otherwise see
        :func:`pixel_bounds`.
    """
    return _single(metrics_of_pixels(count_histogram(histogram, max_fpr)))


def pixel_bounds(
    histogram: Histogram, *, max_fpr: float = MAX_FPR
) -> dict[str, tuple[float, float]]:
    """Certain bounds of the exact values of :func:`pixel_metrics`.

    There are none for an exact histogram, nor for metrics that are None. These bounds do not
    reflect sampling error; for that see :func:`medrd.metrics.bootstrap`.
    """
    if histogram.exact:
        return {}
    arrays = count_histogram(histogram, max_fpr).bounds()
    bounds = {name: (float(low[0]), float(high[0])) for name, (low, high) in arrays.items()}
    return {name: pair for name, pair in bounds.items() if not np.isnan(pair).any()}


def image_metrics(
    scores: NDArray[np.float32], labels: NDArray[np.bool_]
) -> dict[str, float | None]:
    """Metrics of image scores, which detect anomalous slices or pictures.

    Parameters
    ----------
    scores
        ``(N,)``, higher is more anomalous.
    labels
        ``(N,)`` bool, True for images with an anomaly.

    Returns
    -------
    dict
        A value for each metric with ``of_images``; None if either class is empty.

    Raises
    ------
    ValueError
        NaN or infinite scores, labels that are not bool, or shapes that differ.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if labels.dtype != np.bool_ or scores.ndim != 1 or scores.shape != labels.shape:
        msg = (
            f"scores must be (N,) and labels bool (N,), "
            f"got {scores.shape} and {labels.dtype} {labels.shape}"
        )
        raise ValueError(msg)
    if not np.isfinite(scores).all():
        msg = "image scores must be finite, got NaN or infinite values"
        raise ValueError(msg)
    return _single(metrics_of_images(count_scores(scores, labels)))


def summarise_lesions(counts: Sequence[LesionCounts]) -> dict[str, float | None]:
    """A value for each metric with ``of_lesions``, from the scans of a data set."""
    return {m.key: m.of_lesions(counts) for m in METRICS if m.of_lesions}


def _single(values: dict[str, Floats]) -> dict[str, float | None]:
    return {key: None if np.isnan(value[0]) else float(value[0]) for key, value in values.items()}
