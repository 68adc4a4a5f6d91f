"""What the metrics of a set of test subjects need, gathered one subject at a time.

Memory is bounded whatever the number of pixels: a :class:`medrd.metrics.Sketch` is exact
until it is full and says how far it may be off afterwards. A small sketch of each subject
stays beside it, for confidence intervals over subjects. What a subject adds is found by
:func:`medrd.evaluation.judge.judge`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.evaluation.judge import Judged
from medrd.metrics import (
    LesionCounts,
    Run,
    Sketch,
    Units,
    image_metrics,
    make_run,
    make_units,
    sketch_metrics,
    summarise,
)

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

_NO_PIXELS = make_run(np.zeros(0, np.float32), np.zeros(0, bool), None, 0)


class Tally:
    """Puts the judged subjects of one category (or of one cohort) together.

    Sums depend on the order of the subjects in their last bits, and on nothing else.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._pixels = Sketch()
        self._runs: list[Run] = []
        self._outlined = True
        self._scores: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.bool_]] = []
        self._flagged: list[tuple[int, int, int]] = []
        self._lesions: list[LesionCounts] = []
        self._froc: dict[float, list[LesionCounts]] = {}
        self._papers: list[float] = []
        self._voxels = 0

    def add(self, judged: Judged) -> None:
        """One subject's share; its pixels are not kept one by one."""
        self.rows.append(judged.row)
        self._scores.append(judged.image_scores)
        self._labels.append(judged.image_labels)
        if judged.pixels is None:
            self._outlined = False
            self._runs.append(_NO_PIXELS)
            return
        judged.pixels.add_to(self._pixels)
        self._runs.append(judged.pixels.run)
        self._voxels += judged.pixels.scores.size
        self._papers += judged.aupro_rd4ad
        if judged.flagged is not None:
            self._flagged.append(judged.flagged)
        if judged.lesions is not None:
            self._lesions.append(judged.lesions)
        for factor, counts in judged.froc.items():
            self._froc.setdefault(factor, []).append(counts)

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
        if self._flagged:
            false, true, positive = np.sum(self._flagged, axis=0).tolist()
            values["pixel_dice"] = 2 * true / (false + true + positive) if positive else None
            if self._lesions:
                values |= summarise(self._lesions)
        return values, bounds

    def units(self) -> Units | None:
        """What a bootstrap over subjects needs; without pixels where not all are outlined."""
        if not self.rows:
            return None
        calibrated = bool(self._flagged) and self._outlined
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
        found = [(factor, summarise(counts)) for factor, counts in self._froc.items()]
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
