"""Thresholds and reference scores from held-out healthy slices; no label of a lesion is used
beyond saying which slices have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medrd.data.cache import CachedSubject
from medrd.data.prepare import away_from
from medrd.errors import ConfigError
from medrd.metrics import make_run, rates_at, threshold_at_fpr
from medrd.workflows.infer import Predictor, scan_score


@dataclass(frozen=True)
class Calibration:
    """What healthy looks like to a model.

    Attributes
    ----------
    threshold
        A voxel is called anomalous when its smoothed score is at least this.
    target_fpr
        The share of healthy brain voxels that may be called so.
    held_fpr
        The share that is, over all calibration voxels.
    held_fpr_by_scan
        The share in each scan: their spread says more than ``held_fpr`` about a new scan.
    left_out_fpr_by_scan
        The share in each scan under a threshold from the other scans: an honest estimate
        for a new one. Empty where there is one scan only.
    scan_scores
        Of the calibration scans' healthy slices, ascending.
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
        """Share of healthy scans, in percent, that score below this one."""
        return 100 * float(np.mean(np.asarray(self.scan_scores) < score))

    def p_value(self, score: float) -> float:
        """Split-conformal p-value of a scan being like the healthy ones.

        (1 + healthy scans that score at least as high) / (1 + n): with n scans no smaller
        than 1 / (n + 1). Vovk et al., "Algorithmic Learning in a Random World", 2005.
        """
        higher = int(np.sum(np.asarray(self.scan_scores) >= score))
        return (1 + higher) / (1 + len(self.scan_scores))


def calibrate(
    predictor: Predictor, subjects: Sequence[CachedSubject], *, margin: int, target_fpr: float
) -> Calibration:
    """Run a model on the healthy slices of held-out subjects.

    Raises
    ------
    ConfigError
        No subject has a healthy slice.
    """
    runs, scores, ids, slices = [], [], [], 0
    for subject in subjects:
        healthy = np.flatnonzero(away_from(subject.numbers, subject.touched, margin=margin))
        if healthy.size == 0:
            continue
        brain = subject.brain[healthy]
        maps, slice_scores = predictor.maps(subject.images[healthy], brain)
        values = maps[brain]
        runs.append(make_run(values, np.zeros(values.size, bool), None, 0))
        scores.append(scan_score(slice_scores))
        ids.append(subject.id)
        slices += healthy.size
    if not runs:
        raise ConfigError(
            "data.split.calibration",
            expected="held-out subjects with healthy slices to set a threshold on",
            found=f"{len(subjects)} subjects without one",
            remedy="Give it more subjects, or lower data.healthy_margin.",
        )
    threshold = threshold_at_fpr(runs, target_fpr)
    left_out = [
        _fpr([run], threshold_at_fpr(runs[:i] + runs[i + 1 :], target_fpr))
        for i, run in enumerate(runs)
        if len(runs) > 1
    ]
    return Calibration(
        threshold=threshold,
        target_fpr=target_fpr,
        held_fpr=_fpr(runs, threshold),
        held_fpr_by_scan=tuple(_fpr([run], threshold) for run in runs),
        left_out_fpr_by_scan=tuple(left_out),
        scan_scores=tuple(sorted(scores)),
        scans=len(runs),
        slices=slices,
        voxels=sum(int(np.sum(run.negatives)) for run in runs),
        subjects=tuple(ids),
    )


def _fpr(runs: Sequence[Any], threshold: float) -> float:
    rate = rates_at(runs, threshold)[0]
    assert rate is not None  # every run holds negatives only
    return rate
