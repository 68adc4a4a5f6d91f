"""What the metrics of a set of test subjects need, gathered one subject at a time.

Memory is bounded whatever the number of pixels: a :class:`medrd.metrics.Sketch` is exact
until it is full and says how far it may be off afterwards. A small sketch of each subject
stays beside it, for confidence intervals over subjects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medrd.data.domain import TestItem
from medrd.metrics import (
    LesionCounts,
    Run,
    Sketch,
    Units,
    aupro_rd4ad_image,
    image_metrics,
    lesion_counts,
    make_run,
    make_units,
    region_weights,
    sketch_metrics,
    summarise,
)
from medrd.workflows.infer import Prediction

MAX_FPR = 0.3
"""Where AUPRO's interval ends."""

KEYS = (
    "image_auroc",
    "image_ap",
    "pixel_auroc",
    "pixel_ap",
    "pixel_dice_best",
    "pixel_dice",
    "aupro",
    "aupro_rd4ad",
    "subject_dice",
    "lesion_sensitivity",
    "false_positives_per_scan",
)
"""The flat keys of ``metrics.json``; a metric that is not defined is null."""

_ALL_UNITS_ENTRIES = 2**22
_SMALLEST_UNIT, _LARGEST_UNIT = 2**11, 2**18
_NO_PIXELS = make_run(np.zeros(0, np.float32), np.zeros(0, bool), None, 0)


class Tally:
    """Gathers predictions of one category's (or one cohort's) test subjects.

    Parameters
    ----------
    threshold
        The calibrated one; None if there is none.
    expected
        How many subjects are to come, by which their share of the memory is set.
    froc_factors
        Multiples of the threshold at which a volume's lesions are counted too.
    """

    def __init__(
        self, *, threshold: float | None, expected: int, froc_factors: Sequence[float] = ()
    ) -> None:
        self.threshold = threshold
        self._froc: dict[float, list[LesionCounts]] = {factor: [] for factor in froc_factors}
        self.rows: list[dict[str, Any]] = []
        self._unit_entries = min(
            max(_ALL_UNITS_ENTRIES // max(expected, 1), _SMALLEST_UNIT), _LARGEST_UNIT
        )
        self._pixels = Sketch()
        self._runs: list[Run] = []
        self._outlined = True
        self._scores: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.bool_]] = []
        self._flagged: list[tuple[int, int, int]] = []
        self._lesions: list[LesionCounts] = []
        self._papers: list[float] = []
        self._voxels = 0

    def add(self, name: str, item: TestItem, prediction: Prediction) -> None:
        """One subject: its score, its map on its own grid, and the truth about it."""
        self._scores.append(prediction.image_scores)
        self._labels.append(item.anomalous)
        row: dict[str, Any] = {"subject": name, "scan_score": prediction.scan_score}
        if item.truth is None:
            self._outlined = False
            self._runs.append(_NO_PIXELS)
        else:
            row |= self._add_pixels(item, item.truth, prediction.grid_map)
        self.rows.append(row)

    def metrics(self) -> tuple[dict[str, float | None], dict[str, list[float]]]:
        """By the names of :data:`KEYS`, and the bounds of those that are not exact."""
        values: dict[str, float | None] = dict.fromkeys(KEYS)
        bounds: dict[str, list[float]] = {}
        if not self.rows:
            return values, bounds
        values |= image_metrics(np.concatenate(self._scores), np.concatenate(self._labels))
        if not self._outlined:
            return values, bounds
        for key, found in sketch_metrics(self._pixels, max_fpr=MAX_FPR).items():
            if key in values and found is not None:
                values[key] = found.value
                if not self._pixels.exact:
                    bounds[key] = [found.low, found.high]
        if self._papers:
            values["aupro_rd4ad"] = float(np.mean(self._papers))
        if self.threshold is not None:
            false, true, positive = np.sum(self._flagged, axis=0).tolist()
            values["pixel_dice"] = 2 * true / (false + true + positive) if positive else None
            if self._lesions:
                values |= summarise(self._lesions)
        return values, bounds

    def units(self) -> Units | None:
        """What a bootstrap over subjects needs; without pixels where not all are outlined."""
        if not self.rows:
            return None
        calibrated = self.threshold is not None and self._outlined
        runs = self._runs if self._outlined else [_NO_PIXELS] * len(self.rows)
        return make_units(
            [row["subject"] for row in self.rows],
            runs,
            image_scores=np.concatenate(self._scores),
            image_labels=np.concatenate(self._labels),
            image_units=np.repeat(np.arange(len(self.rows)), [len(s) for s in self._scores]),
            dice=(
                np.array([np.nan if c.dice is None else c.dice for c in self._lesions])
                if self._lesions and self._outlined
                else None
            ),
            flagged=np.array(self._flagged, np.int64) if calibrated else None,
        )

    def froc(self) -> list[dict[str, float | None]]:
        """Lesion sensitivity and false positives a scan at multiples of the threshold.

        Free-response ROC (Bunch et al. 1978) over volumes, lesions as in
        :func:`medrd.metrics.lesion_counts`. Empty without lesions or threshold.
        """
        found = [(factor, summarise(counts)) for factor, counts in self._froc.items() if counts]
        return [
            {"factor": factor, **{k: v for k, v in numbers.items() if k != "subject_dice"}}
            for factor, numbers in found
            if numbers["lesion_sensitivity"] is not None
        ]

    def counts(self) -> dict[str, int]:
        """Of subjects, images and voxels (or pixels) that the numbers stand on."""
        return {
            "subjects": len(self.rows),
            "images": sum(len(scores) for scores in self._scores),
            "images_with_lesion": int(sum(labels.sum() for labels in self._labels)),
            "voxels": self._voxels,
            "lesion_voxels": sum(row.get("lesion_voxels", 0) for row in self.rows),
            "lesion_voxels_not_scored": sum(
                row.get("lesion_voxels_not_scored", 0) for row in self.rows
            ),
        }

    def _add_pixels(
        self, item: TestItem, truth: NDArray[np.bool_], grid_map: NDArray[np.float32]
    ) -> dict[str, Any]:
        scored, region = item.prepared.scored(), item.judged
        # What the model was not shown it has not found: below every score.
        judged_map = np.where(scored, grid_map, np.finfo(np.float32).min)
        inside = np.asarray(item.prepared.upright(region.astype(np.uint8))) > 0
        labels = np.asarray(item.prepared.upright(truth.astype(np.uint8))) > 0
        maps = np.asarray(item.prepared.upright(judged_map), np.float32)
        weights, components = region_weights(labels, mask=inside)
        small = Sketch(max_entries=self._unit_entries)
        for sketch in (self._pixels, small):
            sketch.add(maps[inside], labels[inside], weights[inside], components)
        self._runs.append(small.run())
        self._voxels += int(region.sum())
        whole = np.asarray(item.prepared.upright(grid_map), np.float32)
        for image, label in zip(whole, labels, strict=True):
            if label.any():
                area = aupro_rd4ad_image(image, label)
                if area is not None:
                    self._papers.append(area)
        row: dict[str, Any] = {
            "lesion_voxels": int(truth.sum()),
            "lesion_voxels_not_scored": int((truth & ~scored).sum()),
        }
        if self.threshold is None:
            return row
        mask = (judged_map >= self.threshold) & region
        positives = truth & region
        true = int((mask & positives).sum())
        self._flagged.append((int(mask.sum()) - true, true, int(positives.sum())))
        if truth.ndim == 3:
            lesions = lesion_counts(mask, truth)
            self._lesions.append(lesions)
            box = _box(region | truth)  # components are found faster where there is little else
            for factor, counts in self._froc.items():
                higher = (judged_map[box] >= factor * self.threshold) & region[box]
                counts.append(lesion_counts(higher, truth[box]))
            row |= {
                "dice": lesions.dice,
                "lesions": lesions.lesions,
                "lesions_detected": lesions.detected,
                "false_positives": lesions.false_positives,
            }
        return row


def _box(shown: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The bounding box of what is True; everything where nothing is."""
    (found,) = ndimage.find_objects(shown.astype(np.uint8)) or [None]
    return found or tuple(slice(None) for _ in shown.shape)
