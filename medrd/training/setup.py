"""The :class:`Training` object shared by all parts of a training, and its initial detector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from medrd.config import Config
from medrd.data.slices import HealthySlices
from medrd.errors import ConfigError
from medrd.models.detector import Detector
from medrd.run.device import Execution
from medrd.run.model_folder import make_detector, make_scoring
from medrd.run.predictor import Predictor
from medrd.run.teacher_weights import load_teacher_weights


@dataclass(frozen=True, eq=False)
class Training:
    """A training in progress.

    Attributes
    ----------
    out
        The run folder.
    slices
        The healthy slices to train on.
    detector
        The detector on its device; it is trained in place.
    """

    config: Config
    out: Path
    slices: HealthySlices
    detector: Detector
    execution: Execution

    def predictor(self) -> Predictor:
        """The detector as it is now, with the config's scoring."""
        scoring = make_scoring(self.config.scoring, size=self.config.recipe.size)
        return Predictor(self.detector, scoring, self.execution)


def build_detector_for(config: Config) -> Detector:
    """Build the config's detector, seeded, with its teacher's weights.

    Raises
    ------
    ConfigError
        Detector, teacher, image size, batch size or scoring do not fit each other.
    """
    torch.manual_seed(config.seed)
    try:
        detector = make_detector(config)
    except ValueError as error:
        raise ConfigError(
            "model",
            expected="a detector and a teacher that fit each other",
            found=str(error),
            remedy="Correct model.name or model.teacher.name.",
        ) from None
    size, multiple = config.recipe.size, detector.size_multiple
    if size % multiple:
        raise ConfigError(
            "recipe.size",
            expected=f"a multiple of {multiple} for this model",
            found=str(size),
            remedy=f"Set recipe.size={round(size / multiple) * multiple}.",
        )
    if detector.steps() and config.train.batch_size == 1 and size == multiple:
        raise ConfigError(
            "train.batch_size",
            expected=f"2 or more at a recipe.size of {size}, where BatchNorm sees one position "
            "per image",
            found="1",
            remedy="Set train.batch_size=2, or a larger recipe.size.",
        )
    teacher = getattr(config.model, "teacher", None)
    if teacher is not None:
        load_teacher_weights(detector.teacher, teacher)  # type: ignore[arg-type]
        detector.teacher_loaded()
    if config.scoring.image_score == "model" and not detector.scores_images:
        raise ConfigError(
            "scoring.image_score",
            expected=f"max, top or mean: {config.model.name} has no image score of its own",
            found="model",
            remedy="Set scoring.image_score=max.",
        )
    return detector
