"""``medrd train``: healthy slices -> a run folder with a calibrated model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from medrd.config import Config, load_config
from medrd.data.brains.profile import make_profile
from medrd.data.cache import CachedSubject
from medrd.data.layouts import all_named
from medrd.data.margin import none_healthy
from medrd.data.slices import HealthySlices
from medrd.errors import ConfigError, MedrdError
from medrd.files import write_json, write_text
from medrd.models import Detector
from medrd.run.calibration import Calibration, calibrate
from medrd.run.cohort import contents_of, load_cohort, prepare_sides, refuse_same_scan
from medrd.run.device import choose_execution
from medrd.run.model_folder import load_model, make_detector, make_scoring, save_model
from medrd.run.outputs import make_folder
from medrd.run.predictor import Predictor
from medrd.run.provenance import git_revision, peak_memory_mib, versions
from medrd.run.scores_on_disk import scratch_folder
from medrd.run.signals import stop_on_signals
from medrd.run.teacher_weights import load_teacher_weights
from medrd.training.collect import collect
from medrd.training.fit import CHECKPOINT, data_hash_of, fit, portable
from medrd.training.loop import EpochReport
from medrd.training.simulation import simulator_for

logger = logging.getLogger("medrd.train")


class EpochDone(NamedTuple):
    """Where a training stands after an epoch whose checkpoint is saved.

    Attributes
    ----------
    epoch
        How many are done; 1 for a detector without epochs.
    loss
        Mean over the epoch's batches; None for a detector without epochs.
    predictor
        The detector as it is now, with the config's scoring.
    last
        Whether it is as it will be saved.
    """

    epoch: int
    loss: float | None
    predictor: Predictor
    last: bool


OnEpoch = Callable[[EpochDone], None]


def build_detector_for(config: Config) -> Detector:
    """The config's detector with its teacher's weights, seeded."""
    torch.manual_seed(config.seed)
    try:
        detector = make_detector(config)
    except ValueError as error:
        raise ConfigError(
            "model",
            expected="a detector and a teacher that fit each other",
            found=str(error),
            remedy="Mend model.name or model.teacher.name.",
        ) from None
    if config.recipe.size % detector.size_multiple:
        near = round(config.recipe.size / detector.size_multiple) * detector.size_multiple
        raise ConfigError(
            "recipe.size",
            expected=f"a multiple of {detector.size_multiple} for this model",
            found=str(config.recipe.size),
            remedy=f"Set recipe.size={near}.",
        )
    if (
        detector.steps()
        and config.train.batch_size == 1
        and config.recipe.size == detector.size_multiple
    ):
        raise ConfigError(
            "train.batch_size",
            expected=f"2 or more at a recipe.size of {config.recipe.size}, where BatchNorm "
            "sees one position an image",
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


Optimise = Callable[[Config, Path, HealthySlices, Callable[[], bool]], dict[str, Any] | None]
"""(config, run folder, slices, should_stop) -> what to put on record of who did it, if there was
anything to do. It leaves the checkpoint of the last epoch in the run folder."""


def train(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    on_epoch: OnEpoch | None = None,
    optimise: Optimise | None = None,
) -> Path:
    """Train, calibrate and save.

    Parameters
    ----------
    config
        With ``data.root`` set.
    out
        The run folder. It must be new, unless ``resume``.
    resume
        Go on from the run's checkpoint; a finished run is left as it is.
    on_epoch
        Called after every epoch once its checkpoint is saved, and again with the last one
        when a killed run goes on, so that none is missed. A detector that collects, or that
        has no epochs, has maps to show only at the end: it is called once.
    optimise
        Who runs the epochs; default: this process. See :mod:`medrd.training.on_ray`.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    MedrdError
        Bad config, data or weights; see the subclass.
    InterruptedRunError
        On SIGTERM or Ctrl-C, once the checkpoint is saved.
    """
    out = Path(out)
    started = time.time()
    if _is_finished(out, config, resume=resume):
        load_model(out)  # says so if it is damaged
        logger.info("%s is already finished", out)
        return out
    cohort = load_cohort(config)
    detector = build_detector_for(config)
    simulator = simulator_for(config, detector)
    if optimise is not None and not detector.steps():
        raise ConfigError(
            "--workers",
            expected="a model that is trained by gradients",
            found=f"{config.model.name}, which looks at its slices once, in one process",
            remedy="Leave --workers out.",
        )
    if optimise is not None and not detector.shares_alike:
        logger.warning(
            "%s holds slices of a batch against each other: each worker does so within its share, "
            "and what they train differs with their number",
            config.model.name,
        )
    make_folder(out)
    (training, held_out), left_out = prepare_sides(cohort, ("train", "calibration"), config, out)
    refuse_same_scan(training, held_out)
    slices = HealthySlices(training, margin=config.data.healthy_margin)
    if len(slices) == 0:
        raise none_healthy("train", len(training), wanted="training subjects with healthy slices")
    execution = choose_execution(config.train.device, config.train.precision)
    seen = {
        "subjects": contents_of(training),
        "calibration_subjects": contents_of(held_out),
        "split_hash": cohort.split.hash,
        "slices": len(slices),
        "seed": config.seed,
        "data_hash": data_hash_of(slices),
    }
    if not (out / CHECKPOINT).is_file():  # else a wrong --resume would overwrite it
        write_text(out / "config.yaml", config.to_yaml())
    execution.place(detector)
    scoring = make_scoring(config.scoring, size=config.recipe.size)
    maps_each_epoch = bool(detector.steps()) and not detector.collects

    epochs = config.train.epochs if detector.steps() else 1

    def tell(epoch: int, loss: float | None) -> None:
        if on_epoch is not None:
            predictor = Predictor(detector, scoring, execution)
            on_epoch(EpochDone(epoch, loss, predictor, last=epoch == epochs))

    def after_epoch(report: EpochReport) -> None:
        if maps_each_epoch:
            tell(report.epoch, report.loss)

    with stop_on_signals() as stop:
        training_seconds, workers = 0.0, None
        if detector.steps():
            if optimise is not None:
                workers = optimise(config, out, slices, lambda: bool(stop))
            training_seconds += fit(
                detector,
                simulator,
                slices,
                config,
                execution,
                out,
                should_stop=lambda: bool(stop),
                on_report=after_epoch,
            )
        if detector.collects:
            training_seconds += collect(
                detector,
                slices,
                execution,
                batch_size=config.train.batch_size,
                seed=config.seed,
                should_stop=lambda: bool(stop),
            )
    if not maps_each_epoch:
        tell(epochs, None)
    predictor = Predictor(detector, scoring, execution)
    calibration = calibrate_as(config, predictor, training, held_out, out)
    shown = [*cohort.side("train"), *cohort.side("calibration")]
    looks = [s.traits for s in (*training, *held_out) if s.traits is not None]
    save_model(
        out / "model",
        detector,
        config,
        calibration=calibration,
        training=seen,
        profile=make_profile(looks, named=all_named(shown)) if looks else None,
        precision=execution.precision,
    )
    write_json(
        out / "run.json",
        {
            "versions": versions(),
            "git": git_revision(),
            "device": _device_name(execution.device),
            "precision": execution.precision,
            "threads": torch.get_num_threads(),
            "workers": workers,
            "seed": config.seed,
            "slices": len(slices),
            "inputs_left_out": [error.where for error in left_out],
            "parameters": detector.parameter_counts() | {"remembered": detector.memory_size},
            "epochs": config.train.epochs if detector.steps() else 0,
            # Of all sessions, and of the last one with its preparation and calibration.
            "training_seconds": round(training_seconds, 3),
            "session_seconds": round(time.time() - started, 3),
            "peak_memory_mib": peak_memory_mib(),
        },
    )
    with suppress(OSError):
        (out / CHECKPOINT).unlink(missing_ok=True)
    return out


def calibrate_as(
    config: Config,
    predictor: Predictor,
    training: Sequence[CachedSubject],
    held_out: Sequence[CachedSubject],
    out: Path,
) -> Calibration | None:
    """Thresholds by the config's rule, from the healthy slices of both sides or of one.

    ``out`` holds what does not fit into memory, for as long as it takes. None where no subject is
    held out.
    """
    if not held_out:
        logger.warning("no held-out subjects: the model gets no threshold")
        return None
    with scratch_folder(out) as scratch:
        return calibrate(
            predictor,
            held_out,
            margin=config.data.healthy_margin,
            target_fpr=config.calibration.voxel_fpr,
            scratch=scratch,
            known=training if config.calibration.with_training else [],
        )


def _is_finished(out: Path, config: Config, *, resume: bool) -> bool:
    """Whether this very run is done; a folder that holds something else is an error."""
    if not out.is_dir() or not any(out.iterdir()):
        return False
    state = _state_of(out)
    if state == "files" or not resume:
        raise ConfigError(
            out,
            expected="a new or empty folder for the run",
            found=state,
            remedy="Give another --out."
            if state == "files"
            else "Go on with --resume, or give another --out.",
        )
    if state == "a finished run" and portable(load_config(out / "config.yaml")) != portable(config):
        raise ConfigError(
            out,
            expected="a run of this config",
            found="a finished run of another one",
            remedy="Give another --out.",
        )
    return state == "a finished run"


def _state_of(out: Path) -> Literal["a finished run", "an unfinished run", "files"]:
    """What a folder that is not empty holds."""
    try:
        load_config(out / "config.yaml")
    except MedrdError:
        # A run that failed or was killed while its subjects were prepared has no config yet.
        only_ours = all(p.name == "errors.json" or p.name.startswith(".") for p in out.iterdir())
        return "an unfinished run" if only_ours else "files"
    return "a finished run" if (out / "run.json").is_file() else "an unfinished run"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
