"""One test subject judged: what its prediction adds to the numbers of all.

It may be found in another process than the one where :class:`medrd.evaluation.tally.Tally` puts the
subjects together. For a judged pixel 5 bytes travel, and 28 for each bin of the subject's own
sketch (``benchmarks/scaling.py`` measures what that comes to).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.data.kind import TestItem
from medrd.images.box import bounding_box
from medrd.metrics import (
    LesionCounts,
    Run,
    Sketch,
    aupro_rd4ad_image,
    lesion_counts,
    region_weights,
)
from medrd.run.predictor import Prediction

_ALL_UNITS_ENTRIES = 2**22
_SMALLEST_UNIT, _LARGEST_UNIT = 2**11, 2**18


@dataclass(frozen=True, eq=False)
class Pixels:
    """``N`` judged pixels of one subject, ``P`` of them anomalous; all within the region.

    Attributes
    ----------
    scores, labels
        ``(N,)`` float32 and bool.
    pro_weights
        ``(P,)`` float64, of the anomalous ones, in their order.
    components
        Of which those are shares; see :func:`medrd.metrics.region_weights`.
    run
        The same in a bounded number of bins, for intervals over subjects.
    """

    scores: NDArray[np.float32]
    labels: NDArray[np.bool_]
    pro_weights: NDArray[np.float64]
    components: int
    run: Run

    def add_to(self, sketch: Sketch) -> None:
        """All of them into that of the data set."""
        weights = np.zeros(self.labels.size)
        weights[self.labels] = self.pro_weights
        sketch.add(self.scores, self.labels, weights, self.components)


@dataclass(frozen=True, eq=False)
class Judged:
    """One subject's share in the numbers.

    Attributes
    ----------
    row
        Its line of ``subjects.json``.
    image_scores, image_labels
        ``(S,)`` float32 and bool, of its slices, or of the picture.
    pixels
        None where nobody has outlined what is anomalous; then all below is empty.
    aupro_rd4ad
        Of its anomalous images that have one.
    flagged
        False positives, true positives and positives at the calibrated threshold.
    lesions
        At that threshold, of a scan.
    froc
        The same at multiples of it.
    """

    row: dict[str, Any]
    image_scores: NDArray[np.float32]
    image_labels: NDArray[np.bool_]
    pixels: Pixels | None = None
    aupro_rd4ad: tuple[float, ...] = ()
    flagged: tuple[int, int, int] | None = None
    lesions: LesionCounts | None = None
    froc: dict[float, LesionCounts] = field(default_factory=dict)


def unit_entries(expected: int) -> int:
    """How many bins each of so many subjects gets for its own sketch."""
    return min(max(_ALL_UNITS_ENTRIES // max(expected, 1), _SMALLEST_UNIT), _LARGEST_UNIT)


def judge(
    name: str,
    item: TestItem,
    prediction: Prediction,
    *,
    threshold: float | None,
    entries: int,
    froc_factors: Sequence[float] = (),
) -> Judged:
    """Hold a subject's map, on its own grid, against the truth about it.

    Parameters
    ----------
    threshold
        The calibrated one; None if there is none.
    entries
        See :func:`unit_entries`.
    froc_factors
        Multiples of the threshold at which a volume's lesions are counted too.
    """
    row: dict[str, Any] = {"subject": name, "scan_score": prediction.scan_score}
    scores, labels = prediction.image_scores, item.anomalous
    if item.truth is None:
        return Judged(row, scores, labels)
    truth, region, scored = item.truth, item.judged, item.prepared.scored()
    # What the model was not shown it has not found: below every score.
    judged_map = np.where(scored, prediction.grid_map, np.finfo(np.float32).min)
    outlined = np.asarray(item.prepared.upright(truth.astype(np.uint8))) > 0
    whole = np.asarray(item.prepared.upright(prediction.grid_map), np.float32)
    areas = (
        aupro_rd4ad_image(image, label)
        for image, label in zip(whole, outlined, strict=True)
        if label.any()
    )
    row |= {
        "lesion_voxels": int(truth.sum()),
        "lesion_voxels_not_scored": int((truth & ~scored).sum()),
    }
    flagged = lesions = None
    froc: dict[float, LesionCounts] = {}
    if threshold is not None:
        mask = (judged_map >= threshold) & region
        positives = truth & region
        true = int((mask & positives).sum())
        flagged = (int(mask.sum()) - true, true, int(positives.sum()))
        if truth.ndim == 3:
            lesions = lesion_counts(mask, truth)
            # Components are found faster where there is little else.
            box = bounding_box(region | truth)
            for factor in froc_factors:
                higher = (judged_map[box] >= factor * threshold) & region[box]
                froc[factor] = lesion_counts(higher, truth[box])
            row |= {
                "dice": lesions.dice,
                "lesions": lesions.lesions,
                "lesions_detected": lesions.detected,
                "false_positives": lesions.false_positives,
            }
    return Judged(
        row,
        scores,
        labels,
        _pixels(item, outlined, judged_map, entries),
        tuple(area for area in areas if area is not None),
        flagged,
        lesions,
        froc,
    )


def _pixels(
    item: TestItem,
    outlined: NDArray[np.bool_],
    judged_map: NDArray[np.float32],
    entries: int,
) -> Pixels:
    """The region's; ``outlined`` is upright already."""
    inside = np.asarray(item.prepared.upright(item.judged.astype(np.uint8))) > 0
    maps = np.asarray(item.prepared.upright(judged_map), np.float32)
    weights, components = region_weights(outlined, mask=inside)
    scores, labels, weights = maps[inside], outlined[inside], weights[inside]
    small = Sketch(max_entries=entries)
    small.add(scores, labels, weights, components)
    return Pixels(scores, labels, weights[labels], components, small.run())
