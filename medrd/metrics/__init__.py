"""Metrics from scores and labels: pure functions on arrays, without files."""

from medrd.metrics.aupro_rd4ad import aupro_rd4ad, aupro_rd4ad_image
from medrd.metrics.bootstrap import (
    PairedDifference,
    bootstrap,
    bootstrap_intervals,
    count_units,
    paired_differences,
    percentile_interval,
)
from medrd.metrics.columns import (
    image_metrics,
    pixel_bounds,
    pixel_metrics,
    summarise_lesions,
)
from medrd.metrics.counts import (
    MAX_FPR,
    Confusion,
    Counts,
)
from medrd.metrics.histogram import (
    Histogram,
    bins_each,
    count_pixels,
    fpr_at,
    merge,
    threshold_at_fpr,
)
from medrd.metrics.lesions import (
    LEAST_VOXELS,
    Lesion,
    LesionCounts,
    lesion_counts,
    lesion_table,
)
from medrd.metrics.regions import region_weights
from medrd.metrics.units import Units, make_units, weighted_metrics

__all__ = [
    "LEAST_VOXELS",
    "MAX_FPR",
    "Confusion",
    "Counts",
    "Histogram",
    "Lesion",
    "LesionCounts",
    "PairedDifference",
    "Units",
    "aupro_rd4ad",
    "aupro_rd4ad_image",
    "bins_each",
    "bootstrap",
    "bootstrap_intervals",
    "count_pixels",
    "count_units",
    "fpr_at",
    "image_metrics",
    "lesion_counts",
    "lesion_table",
    "make_units",
    "merge",
    "paired_differences",
    "percentile_interval",
    "pixel_bounds",
    "pixel_metrics",
    "region_weights",
    "summarise_lesions",
    "threshold_at_fpr",
    "weighted_metrics",
]
