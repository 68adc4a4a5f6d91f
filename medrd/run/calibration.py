"""Thresholds and reference scores from held-out healthy slices.

Labels are used only to find the slices that have no lesion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from medrd.data.cache import CachedSubject
from medrd.data.margin import away_from, none_healthy
from medrd.metrics import (
    Histogram,
    bins_each,
    count_pixels,
    fpr_at,
    merge,
    threshold_at_fpr,
)
from medrd.run.predictor import Predictor, scan_score
from medrd.run.progress import progress


@dataclass(frozen=True)
class Calibration:
    """A model's threshold, and its scores of healthy inputs.

    Attributes
    ----------
    threshold
        Voxels with at least this smoothed score count as anomalous.
    target_fpr
        The share of healthy voxels (pixels of normal pictures) that may reach the threshold.
    held_fpr
        The share of all calibration voxels that reach it.
    held_fpr_by_scan
        The share in each scan; their spread predicts more about a new scan than ``held_fpr``.
    left_out_fpr_by_scan
        The share in each scan under a threshold from other scans (each scan left out in
        turn, or in tenths if there are more than ten): an unbiased estimate for a new one.
        Empty if there is only one scan.
    scan_scores
        Scores of the calibration scans by their healthy slices, ascending.
    whole
        True if every slice of every calibration scan was healthy. Otherwise their scores are
        maxima over fewer slices than a new scan's, so a new healthy scan tends to score higher.
    scans, slices, voxels
        Numbers of scans, slices and voxels used.
    subjects
        Ids of the scans.
    known_subjects
        Training scans whose healthy slices were also used for the threshold, and only for that.
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
    known_subjects: tuple[str, ...] = ()

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

        It is (1 + healthy scans that score at least as high) / (1 + n), and so at least 1 / (n +
        1). Vovk et al., "Algorithmic Learning in a Random World", 2005. None unless the calibration
        scans are ``whole``: otherwise their scores and a new scan's are not exchangeable, and the
        number would be too low.
        """
        if not self.whole:
            return None
        higher = int(np.sum(np.asarray(self.scan_scores) >= score))
        return (1 + higher) / (1 + len(self.scan_scores))


def standing(
    score: float, calibration: Calibration | None, *, normal: str, noun: str
) -> dict[str, Any]:
    """Rank a score among those of held-out normal inputs, for the record.

    Parameters
    ----------
    normal, noun
        Words in the keys: ``healthy`` and ``scan`` give ``healthy_scans``.
    """
    return {
        f"{normal}_{noun}s": calibration.scans if calibration else 0,
        f"{normal}_percentile": calibration.percentile(score) if calibration else None,
        "p_value": calibration.p_value(score) if calibration else None,
        "threshold": calibration.threshold if calibration else None,
        "threshold_target_fpr": calibration.target_fpr if calibration else None,
    }


def calibrate(
    predictor: Predictor,
    subjects: Sequence[CachedSubject],
    *,
    margin: int,
    target_fpr: float,
    known: Sequence[CachedSubject] = (),
) -> Calibration:
    """Run a model on the healthy slices of held-out subjects.

    Each subject's scores are kept as a histogram, all of them together in bounded memory. The
    threshold lies between bins, where counts are exact, so the target rate is kept at any
    resolution. It exceeds the lowest possible threshold by less than a bin's width: about ``2 **
    -17`` of the score for ten subjects, and ``2 ** -13`` for hundreds.

    Parameters
    ----------
    margin
        See :func:`medrd.data.margin.away_from`.
    known
        Subjects that the model was trained on, used for the threshold alone. Their slices look a
        little too healthy to the model, but if only one or two subjects are held out, the
        differences between scans matter more.

    Raises
    ------
    ConfigError
        No subject has a healthy slice.
    """
    bins = bins_each(len(subjects) + len(known))
    with progress("calibrating", len(subjects) + len(known)) as advance:

        def scored(each: Sequence[CachedSubject]) -> list[_HealthyScores]:
            parts = []
            for subject in each:
                part = _score_healthy(predictor, subject, margin, bins)
                parts += [part] if part is not None else []
                advance(note=subject.id)
            return parts

        held_out, beside = scored(subjects), scored(known)
    if not held_out:
        raise none_healthy(
            "calibration",
            len(subjects),
            wanted="held-out subjects with healthy slices to set a threshold on",
        )
    # One resolution for all, so that each threshold lies between the bins of every scan.
    whole = merge([part.histogram for part in (*held_out, *beside)])
    own, more = (
        [merge([part.histogram], min_shift=whole.shift) for part in side]
        for side in (held_out, beside)
    )
    threshold = threshold_at_fpr(whole, target_fpr)
    slices = sum(part.slices for part in held_out)
    return Calibration(
        threshold=threshold,
        target_fpr=target_fpr,
        held_fpr=fpr_at(merge(own), threshold),
        held_fpr_by_scan=tuple(fpr_at(histogram, threshold) for histogram in own),
        left_out_fpr_by_scan=_left_out(own, more, target_fpr),
        scan_scores=tuple(sorted(part.score for part in held_out)),
        whole=slices == sum(subject.numbers.size for subject in subjects),
        scans=len(own),
        slices=slices,
        voxels=sum(part.voxels for part in held_out),
        subjects=tuple(part.id for part in held_out),
        known_subjects=tuple(part.id for part in beside),
    )


class _HealthyScores(NamedTuple):
    """The scores of a subject's healthy slices."""

    id: str
    histogram: Histogram
    score: float
    slices: int
    voxels: int


def _score_healthy(
    predictor: Predictor, subject: CachedSubject, margin: int, bins: int
) -> _HealthyScores | None:
    """None if no slice is healthy."""
    healthy = np.flatnonzero(away_from(subject.numbers, subject.lesion_slices, margin=margin))
    if healthy.size == 0:
        return None
    region = subject.region[healthy]
    maps, image_scores = predictor.maps(
        subject.images[healthy], region, subject.positions_mm[healthy]
    )
    values = maps[region]
    histogram = count_pixels(values, np.zeros(values.size, bool), max_bins=bins)
    return _HealthyScores(
        subject.id, histogram, scan_score(image_scores), healthy.size, values.size
    )


def _left_out(
    own: Sequence[Histogram], always: Sequence[Histogram], target_fpr: float, folds: int = 10
) -> tuple[float, ...]:
    """Rates by scan under thresholds from the scans of the other folds, in the scans' order.

    ``always`` are used for every threshold.
    """
    if len(own) + len(always) < 2:
        return ()
    folds = min(folds, len(own))
    rates = [0.0] * len(own)
    for fold in range(folds):
        others = merge([part for i, part in enumerate(own) if i % folds != fold] + [*always])
        threshold = threshold_at_fpr(others, target_fpr)
        for i in range(fold, len(own), folds):
            rates[i] = fpr_at(own[i], threshold)
    return tuple(rates)
