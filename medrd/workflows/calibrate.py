"""Thresholds and reference scores from held-out healthy slices; no label of a lesion is used
beyond saying which slices have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medrd.data.cache import CachedSubject
from medrd.data.margin import away_from
from medrd.errors import ConfigError
from medrd.metrics import Run, rates_at, threshold_at_fpr
from medrd.workflows.infer import Predictor, scan_score
from medrd.workflows.progress import progress
from medrd.workflows.runs import run_on_disk


@dataclass(frozen=True)
class Calibration:
    """What healthy looks like to a model.

    Attributes
    ----------
    threshold
        A voxel is called anomalous when its smoothed score is at least this.
    target_fpr
        The share of healthy voxels (pixels of normal pictures) that may be called so.
    held_fpr
        The share that is, over all calibration voxels.
    held_fpr_by_scan
        The share in each scan: their spread says more than ``held_fpr`` about a new scan.
    left_out_fpr_by_scan
        The share in each scan under a threshold from other scans (each scan left out in
        turn, or in tenths where there are more than ten): an honest estimate for a new one.
        Empty where there is one scan only.
    scan_scores
        Of the calibration scans' healthy slices, ascending.
    whole
        Whether every slice of every calibration scan was healthy. Where not, a scan's score
        is a maximum over fewer slices than a new scan's, in other places, so that a new
        healthy scan tends to score higher than these.
    scans, slices, voxels
        How many the numbers stand on.
    subjects
        Ids of the scans.
    """

    threshold: float
    target_fpr: float
    held_fpr: float
    held_fpr_by_scan: tuple[float, ...]
    left_out_fpr_by_scan: tuple[float, ...]
    scan_scores: tuple[float, ...]
    whole: bool
    scans: int
    slices: int
    voxels: int
    subjects: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Calibration:
        """The inverse of :meth:`to_dict`."""
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in content.items()
        }
        return cls(**plain)

    def percentile(self, score: float) -> float:
        """Share, in percent, of the calibration scans that score below this one."""
        return 100 * float(np.mean(np.asarray(self.scan_scores) < score))

    def p_value(self, score: float) -> float | None:
        """Split-conformal p-value of a scan being like the healthy ones.

        (1 + healthy scans that score at least as high) / (1 + n): with n scans no smaller
        than 1 / (n + 1). Vovk et al., "Algorithmic Learning in a Random World", 2005. None
        where the calibration scans are not ``whole``: theirs and a new scan's scores are not
        exchangeable then, and the number would be too low.
        """
        if not self.whole:
            return None
        higher = int(np.sum(np.asarray(self.scan_scores) >= score))
        return (1 + higher) / (1 + len(self.scan_scores))


def calibrate(
    predictor: Predictor,
    subjects: Sequence[CachedSubject],
    *,
    margin: int,
    target_fpr: float,
    scratch: Path,
) -> Calibration:
    """Run a model on the healthy slices of held-out subjects.

    Parameters
    ----------
    margin
        See :func:`medrd.data.margin.away_from`.
    scratch
        An empty folder for scores, so that memory does not grow with the number of scans.

    Raises
    ------
    ConfigError
        No subject has a healthy slice.
    """
    runs: list[Run] = []
    scores: list[float] = []
    ids: list[str] = []
    slices, voxels, whole = 0, 0, True
    with progress("calibrating", len(subjects)) as advance:
        for subject in subjects:
            healthy = np.flatnonzero(away_from(subject.numbers, subject.touched, margin=margin))
            whole = whole and healthy.size == subject.numbers.size
            advance(note=subject.id)
            if healthy.size == 0:
                continue
            region = subject.region[healthy]
            maps, image_scores = predictor.maps(
                subject.images[healthy], region, subject.positions_mm[healthy]
            )
            values = maps[region]
            place = scratch / str(len(runs))
            runs.append(run_on_disk(place, values, np.zeros(values.size, bool)))
            scores.append(scan_score(image_scores))
            ids.append(subject.id)
            slices += healthy.size
            voxels += values.size
    if not runs:
        raise ConfigError(
            "data.split.calibration",
            expected="held-out subjects with healthy slices to set a threshold on",
            found=f"{len(subjects)} subjects without one",
            remedy="Give it more subjects, or lower data.healthy_margin.",
        )
    threshold = threshold_at_fpr(runs, target_fpr)
    return Calibration(
        threshold=threshold,
        target_fpr=target_fpr,
        held_fpr=_fpr(runs, threshold),
        held_fpr_by_scan=tuple(_fpr([run], threshold) for run in runs),
        left_out_fpr_by_scan=_left_out(runs, target_fpr),
        scan_scores=tuple(sorted(scores)),
        whole=whole,
        scans=len(runs),
        slices=slices,
        voxels=voxels,
        subjects=tuple(ids),
    )


def _left_out(runs: Sequence[Run], target_fpr: float, folds: int = 10) -> tuple[float, ...]:
    """Rates by scan under thresholds from the scans of the other folds, in the scans' order."""
    if len(runs) < 2:
        return ()
    folds = min(folds, len(runs))
    rates = [0.0] * len(runs)
    for fold in range(folds):
        others = [run for i, run in enumerate(runs) if i % folds != fold]
        threshold = threshold_at_fpr(others, target_fpr)
        for i in range(fold, len(runs), folds):
            rates[i] = _fpr([runs[i]], threshold)
    return tuple(rates)


def _fpr(runs: Sequence[Run], threshold: float) -> float:
    rate = rates_at(runs, threshold)[0]
    assert rate is not None  # every run holds negatives only
    return rate
