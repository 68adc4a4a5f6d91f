"""Numbers from scores and labels: pure functions on arrays, no files."""

from medrd.metrics.aupro import region_weights
from medrd.metrics.image import image_metrics
from medrd.metrics.lesions import (
    Lesion,
    LesionCounts,
    lesion_counts,
    lesion_table,
    summarise,
)
from medrd.metrics.pixel import dice_at, pixel_metrics, rates_at, threshold_at_fpr
from medrd.metrics.runs import Run, descending_chunks, make_run

__all__ = [
    "Lesion",
    "LesionCounts",
    "Run",
    "descending_chunks",
    "dice_at",
    "image_metrics",
    "lesion_counts",
    "lesion_table",
    "make_run",
    "pixel_metrics",
    "rates_at",
    "region_weights",
    "summarise",
    "threshold_at_fpr",
]
