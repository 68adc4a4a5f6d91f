"""Reading, predicting and scoring one test subject, in any process.

The result (:class:`SubjectScores`) is small, so it can be sent between processes;
:mod:`medrd.evaluation.summary` combines the subjects.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medrd.config import Config
from medrd.data.kind import TestItem
from medrd.data.kinds import kind_of
from medrd.data.subject import Subject
from medrd.errors import InputError, LeakageError
from medrd.evaluation.baseline import baseline_predictor
from medrd.images.box import bounding_box
from medrd.metrics import (
    Confusion,
    Histogram,
    LesionCounts,
    aupro_rd4ad_image,
    bins_each,
    count_pixels,
    lesion_counts,
    region_weights,
)
from medrd.run.device import choose_execution
from medrd.run.engine import make_predictor
from medrd.run.input_errors import catch_input_error
from medrd.run.model_folder import Model
from medrd.run.predictor import Prediction, Predictor


@dataclass(frozen=True, eq=False)
class SubjectScores:
    """The scores of one subject, from which the metrics are computed.

    Attributes
    ----------
    id, scan_score
        The subject, and the score of its most anomalous slice (or of the picture).
    image_scores, image_labels
        ``(S,)`` float32 and bool: the score and label of each slice, or of the picture.
    pixels
        Scores of the pixels in the evaluated region. None if the anomalies are not outlined; then
        all fields below are empty.
    lesion_voxels, lesion_voxels_not_scored
        Number of anomalous voxels (or pixels), and of those without a score.
    aupro_rd4ad
        The areas of its anomalous images for which the area is defined.
    confusion
        Confusion in the region at the calibrated threshold; None without a threshold.
    lesions
        A scan's lesions at that threshold.
    froc
        A scan's lesions at multiples of the threshold.
    warnings
        Sentences about unusual properties of the label.
    """

    id: str
    scan_score: float
    image_scores: NDArray[np.float32]
    image_labels: NDArray[np.bool_]
    pixels: Histogram | None = None
    lesion_voxels: int = 0
    lesion_voxels_not_scored: int = 0
    aupro_rd4ad: tuple[float, ...] = ()
    confusion: Confusion | None = None
    lesions: LesionCounts | None = None
    froc: Mapping[float, LesionCounts] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def row(self) -> dict[str, Any]:
        """The subject's entry in ``subjects.json``."""
        row: dict[str, Any] = {"subject": self.id, "scan_score": self.scan_score}
        if self.pixels is not None:
            row["lesion_voxels"] = self.lesion_voxels
            row["lesion_voxels_not_scored"] = self.lesion_voxels_not_scored
        if self.lesions is not None:
            row["dice"] = self.lesions.dice
            row["lesions"] = self.lesions.lesions
            row["lesions_detected"] = self.lesions.detected
            row["false_positives"] = self.lesions.false_positives
        if self.warnings:
            row["warnings"] = " ".join(self.warnings)
        return row


def score_subject(
    name: str,
    item: TestItem,
    prediction: Prediction,
    *,
    threshold: float | None,
    froc_factors: Sequence[float] = (),
) -> SubjectScores:
    """Compare a subject's map with its label, on the subject's own grid.

    Parameters
    ----------
    threshold
        The calibrated threshold, or None.
    froc_factors
        A scan's lesions are also counted at these multiples of the threshold.
    """
    images = (name, prediction.scan_score, prediction.image_scores, item.anomalous)
    if item.truth is None:
        return SubjectScores(*images)
    # The three masks are reoriented to upright slices together.
    masks = item.truth + 2 * item.evaluated.astype(np.uint8) + 4 * item.scored.astype(np.uint8)
    masks = np.asarray(item.prepared.upright(masks))
    truth, region, scored = ((masks & bit) > 0 for bit in (1, 2, 4))
    whole = np.asarray(item.prepared.upright(prediction.grid_map), np.float32)
    areas = (
        aupro_rd4ad_image(image, label)
        for image, label in zip(whole, truth, strict=True)
        if label.any()
    )
    # Components are found faster in a smaller array.
    box = bounding_box(region | truth)
    truth, region, scored = truth[box], region[box], scored[box]
    # Voxels that the model was not shown count as missed: they rank below every score.
    scores = np.where(scored, whole[box], np.finfo(np.float32).min)
    weights, components = region_weights(truth, mask=region)
    confusion = lesions = None
    froc: dict[float, LesionCounts] = {}
    if threshold is not None:
        flagged = (scores >= threshold) & region
        confusion = Confusion.of(flagged, truth & region)
        if item.truth.ndim == 3:
            lesions = lesion_counts(flagged, truth)
            for factor in froc_factors:
                froc[factor] = lesion_counts((scores >= factor * threshold) & region, truth)
    return SubjectScores(
        *images,
        pixels=count_pixels(
            scores[region], truth[region], weights, components, max_bins=bins_each(1)
        ),
        lesion_voxels=int(np.count_nonzero(truth)),
        lesion_voxels_not_scored=int(np.count_nonzero(truth & ~scored)),
        aupro_rd4ad=tuple(area for area in areas if area is not None),
        confusion=confusion,
        lesions=lesions,
        froc=froc,
        warnings=item.label_warnings,
    )


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to evaluate, without its weights, in a form that can be sent to other processes.

    Attributes
    ----------
    config
        Holds the recipe and the size limit of an input.
    threshold
        The calibrated threshold, or None.
    froc_factors
        Lesions are also counted at these multiples of the threshold.
    seen
        Hash -> name of the scans that the model has seen, which must not be tested.
    is_baseline
        True for the baseline, which is made from the config alone.
    """

    name: str
    config: Config
    threshold: float | None
    froc_factors: tuple[float, ...] = ()
    seen: Mapping[str, str] = field(default_factory=dict)
    is_baseline: bool = False


class Scored(NamedTuple):
    """A subject's scores, and the seconds and the precision in which its maps were computed."""

    scores: SubjectScores
    seconds: float
    precision: str


Outcome = Scored | InputError


class SubjectScorer:
    """Reads, predicts and scores subjects under one model."""

    def __init__(self, evaluated: EvaluatedModel, predictor: Predictor) -> None:
        self._evaluated = evaluated
        self._predictor = predictor
        self._kind = kind_of(evaluated.config.recipe)

    def read(self, subject: Subject) -> TestItem | InputError:
        """Read the subject's slices and label, or return the error.

        Raises
        ------
        LeakageError
            The model has seen the subject's scan, perhaps under another name.
        """
        return catch_input_error(subject.files[0], lambda: self._read(subject))

    def finish(self, subject: Subject, item: TestItem | InputError) -> Outcome:
        """Predict and score a subject that was read."""
        if isinstance(item, InputError):
            return item
        return catch_input_error(subject.files[0], lambda: self._score(subject, item))

    def _read(self, subject: Subject) -> TestItem:
        config = self._evaluated.config
        item = self._kind.test_item(subject, budget=config.data.budget)
        same = self._evaluated.seen.get(item.content)
        if same is not None:
            remedy = "The data set contains this scan twice: remove one copy."
            raise leakage(subject.id, same, remedy=remedy)
        return item

    def _score(self, subject: Subject, item: TestItem) -> Scored:
        start = time.perf_counter()
        prediction = self._predictor.on_grid(item.prepared)
        seconds = time.perf_counter() - start
        scores = score_subject(
            subject.id,
            item,
            prediction,
            threshold=self._evaluated.threshold,
            froc_factors=self._evaluated.froc_factors,
        )
        return Scored(scores, seconds, self._predictor.execution.precision)


def make_scorers(
    model: Model, device: str, evaluated: Sequence[EvaluatedModel]
) -> list[SubjectScorer]:
    """Make a scorer for each evaluated model; ``model`` is the one that is not the baseline."""
    return [SubjectScorer(each, _predictor(each, model, device)) for each in evaluated]


def by_category(subjects: Sequence[Subject]) -> list[Subject]:
    """Group subjects by category, and otherwise keep their order."""
    groups: dict[str, list[Subject]] = {}
    for subject in subjects:
        groups.setdefault(subject.category, []).append(subject)
    return [subject for members in groups.values() for subject in members]


def leakage(subject: str, same: str, *, remedy: str) -> LeakageError:
    """The error for a subject that the model has seen, under the name ``same``."""
    return LeakageError(
        subject,
        expected="test subjects that the model has never seen",
        found=f"a subject that it was trained, calibrated or chosen on (as {same})",
        remedy=remedy,
    )


def _predictor(evaluated: EvaluatedModel, model: Model, device: str) -> Predictor:
    if evaluated.is_baseline:
        return baseline_predictor(evaluated.config, device)
    return make_predictor(model, choose_execution(device, model.config.train.precision), "auto")[0]
