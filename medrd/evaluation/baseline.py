"""The untrained intensity baseline, evaluated next to every model under the same protocol."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from medrd.config import Config, ScoringConfig
from medrd.data.kinds import kind_of
from medrd.errors import ConfigError, InputError, MedrdError
from medrd.models.intensity import IntensityConfig
from medrd.run.calibration import Calibration, calibrate
from medrd.run.cohort import Cohort, try_sides
from medrd.run.device import choose_execution
from medrd.run.model_folder import Model, make_detector, make_scoring
from medrd.run.predictor import Predictor

logger = logging.getLogger("medrd.evaluate")


@dataclass(frozen=True, eq=False)
class Baseline:
    """The intensity baseline, calibrated.

    Attributes
    ----------
    config
        The result of :func:`baseline_config`, from which :func:`baseline_predictor` is made.
    protocol
        The baseline's recipe, and what it was calibrated on.
    errors
        Errors of calibration subjects, because of which it may have no threshold.
    """

    config: Config
    calibration: Calibration | None
    protocol: dict[str, Any]
    errors: list[MedrdError]


def baseline_config(config: Config) -> Config:
    """The config of the baseline: the input's intensity (ranks for scans), smoothed, sigma 3."""
    return config.model_copy(
        update={
            "model": IntensityConfig(),
            "recipe": kind_of(config.recipe).baseline_recipe(),
            "scoring": ScoringConfig(sigma_px=3, image_score="top", top_fraction=0.01),
        }
    )


def baseline_predictor(config: Config, device: str) -> Predictor:
    """Make the baseline's predictor; ``config`` comes from :func:`baseline_config`."""
    return Predictor(
        make_detector(config),
        make_scoring(config.scoring, size=config.recipe.size),
        choose_execution(device, "fp32"),
    )


def intensity_baseline(cohort: Cohort, model: Model, config: Config, device: str) -> Baseline:
    """Calibrate the baseline like the model, with the same margin and target rate.

    The held-out subjects are those of the evaluation's split. The protocol records whether the
    model was calibrated on the same ones.
    """
    config = baseline_config(config)
    predictor = baseline_predictor(config, device)
    calibration = None
    errors: list[MedrdError] = []
    try:
        sides = ["calibration", *(["train"] if model.config.calibration.with_training else [])]
        cached, failed = try_sides(cohort, sides, config)
        errors.extend(failed)
        held_out, *training = (
            [cached[s.id] for s in cohort.side(side) if s.id in cached] for side in sides
        )
        if held_out and (not failed or kind_of(config.recipe).spares_damaged):
            calibration = calibrate(
                predictor,
                held_out,
                margin=model.config.data.healthy_margin,
                target_fpr=model.config.calibration.voxel_fpr,
                known=training[0] if training else (),
            )
    except (InputError, ConfigError) as error:  # a missing label, or no healthy slice
        errors.append(error)
    for problem in errors:
        logger.error("calibrating the intensity baseline: %s", problem)
    subjects = list(calibration.subjects) if calibration else []
    models = list(model.calibration.subjects) if model.calibration else []
    protocol = {
        "recipe": config.recipe.to_dict(),
        "calibration": calibration.to_dict() if calibration else None,
        "calibrated_on_the_models_subjects": bool(subjects) and subjects == models,
    }
    return Baseline(config, calibration, protocol, errors)
