"""Numbers from scores and labels: pure functions on arrays, no files."""

from medrd.metrics.aupro import region_weights
from medrd.metrics.aupro_rd4ad import aupro_rd4ad, aupro_rd4ad_image
from medrd.metrics.bootstrap import (
    PairedDifference,
    bootstrap,
    bootstrap_intervals,
    count_units,
    paired_differences,
    percentile_interval,
)
from medrd.metrics.bounds import Bounded, binned_metrics, sketch_metrics
from medrd.metrics.image import image_metrics
from medrd.metrics.lesions import (
    LEAST_VOXELS,
    Lesion,
    LesionCounts,
    lesion_counts,
    lesion_table,
    summarise,
)
from medrd.metrics.pixel import dice_at, pixel_metrics, rates_at, threshold_at_fpr
from medrd.metrics.runs import Run, descending_chunks, make_run
from medrd.metrics.sketch import Sketch
from medrd.metrics.units import Units, make_units
from medrd.metrics.weighted import METRICS, weighted_metrics

__all__ = [
    "LEAST_VOXELS",
    "METRICS",
    "Bounded",
    "Lesion",
    "LesionCounts",
    "PairedDifference",
    "Run",
    "Sketch",
    "Units",
    "aupro_rd4ad",
    "aupro_rd4ad_image",
    "binned_metrics",
    "bootstrap",
    "bootstrap_intervals",
    "count_units",
    "descending_chunks",
    "dice_at",
    "image_metrics",
    "lesion_counts",
    "lesion_table",
    "make_run",
    "make_units",
    "paired_differences",
    "percentile_interval",
    "pixel_metrics",
    "rates_at",
    "region_weights",
    "sketch_metrics",
    "summarise",
    "threshold_at_fpr",
    "weighted_metrics",
]
