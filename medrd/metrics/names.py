"""The metrics of an evaluation: their keys in files, their headings in tables, what they need."""

from __future__ import annotations

from typing import Literal, NamedTuple

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
    resampled
        True if a bootstrap over subjects gives an interval for it.
    oracle
        True if its threshold is chosen on the test labels.
    """

    key: str
    heading: str
    needs: tuple[Need, ...]
    resampled: bool = True
    oracle: bool = False

    @property
    def full_heading(self) -> str:
        """The heading for tables that compare models."""
        return f"{self.heading} (oracle)" if self.oracle else self.heading


AUPRO_RD4AD = Metric("aupro_rd4ad", "AUPRO as in RD4AD's code", ("outlines",), resampled=False)
"""A different metric from AUPRO; the two must not share a column."""

METRICS = (
    Metric("image_auroc", "image AUROC", ("images",)),
    Metric("image_ap", "image AP", ("images",)),
    Metric("pixel_auroc", "pixel AUROC", ("outlines",)),
    Metric("pixel_ap", "pixel AP", ("outlines",)),
    Metric("pixel_dice_best", "best Dice", ("outlines",), oracle=True),
    Metric("pixel_dice", "Dice", ("outlines", "threshold")),
    Metric("aupro", "AUPRO", ("outlines",)),
    Metric("subject_dice", "subject Dice", ("outlines", "threshold", "volumes")),
    Metric(
        "lesion_sensitivity",
        "lesion sens.",
        ("outlines", "threshold", "volumes"),
        resampled=False,
    ),
    Metric(
        "false_positives_per_scan",
        "FP/scan",
        ("outlines", "threshold", "volumes"),
        resampled=False,
    ),
    AUPRO_RD4AD,
)

KEYS = tuple(metric.key for metric in METRICS)
"""The flat keys of ``metrics.json``; a metric that is not defined is null."""

RESAMPLED = tuple(metric.key for metric in METRICS if metric.resampled)
"""The metrics that have intervals."""

COLUMNS = {metric.key: metric.heading for metric in METRICS if metric is not AUPRO_RD4AD}
"""The columns of an evaluation's table, and their headings."""

FULL_HEADINGS = {metric.key: metric.full_heading for metric in METRICS}
"""The columns of a comparison's tables; oracles are marked."""

HEADLINES = ("image_auroc", "pixel_ap", "aupro")
"""The metrics that models are ranked on; for all three, higher is better."""
