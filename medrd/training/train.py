"""``medrd train``: train on healthy slices and write a run folder with a calibrated model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from medrd.config import Config, load_config
from medrd.config.difference import first_difference
from medrd.config.unused import unused_keys
from medrd.data.brains.profile import make_profile
from medrd.data.cache import CachedSubject
from medrd.data.margin import none_healthy
from medrd.data.names import all_named
from medrd.data.slices import HealthySlices
from medrd.errors import ConfigError, InputError, MedrdError, ModelError
from medrd.files import write_json, write_text
from medrd.run.calibration import Calibration
from medrd.run.calibration import calibrate as set_thresholds
from medrd.run.cohort import Cohort, contents_of, load_cohort, prepare_sides, refuse_same_scan
from medrd.run.device import choose_execution
from medrd.run.model_folder import load_model, save_model
from medrd.run.outputs import make_folder
from medrd.run.predictor import Predictor
from medrd.run.provenance import git_revision, peak_memory_mib, versions
from medrd.run.signals import stop_on_signals
from medrd.training.collect import collect
from medrd.training.fit import CHECKPOINT, data_hash_of, fit, portable
from medrd.training.loop import EpochMetrics
from medrd.training.setup import Training, build_detector_for

logger = logging.getLogger("medrd.train")

OnEpoch = Callable[[EpochMetrics, Predictor], None]
RunEpochs = Callable[[Training, Callable[[], bool]], dict[str, Any] | None]
"""(training, should_stop) -> the workers' entry in ``run.json``; None if there was nothing to do.
It leaves the checkpoint of the last epoch in the run folder."""


def train(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    on_epoch: OnEpoch | None = None,
    run_epochs: RunEpochs | None = None,
    cohort: Cohort | None = None,
) -> Path:
    """Train, calibrate and save.

    Parameters
    ----------
    config
        A config with ``data.root`` set.
    out
        The run folder. It must be new, unless ``resume``.
    resume
        Continue from the run's checkpoint; a finished run is left as it is.
    on_epoch
        Called with the metrics and the detector after every epoch once its checkpoint is saved, and
        again with the last one when a killed run is resumed, so that none is missed. For a detector
        that collects or has no epochs, it is called once, at the end, because there are no maps
        before.
    run_epochs
        Runs the epochs in other processes, see :mod:`medrd.training.on_ray`. Default: run them in
        this process.
    cohort
        The config's data set, if it is loaded already.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    MedrdError
        The config, the data or the weights are unusable; see the subclass.
    InterruptedRunError
        On SIGTERM or Ctrl-C, once the checkpoint is saved.
    """
    started = time.time()
    out = Path(out)
    if resume and not out.is_dir():
        logger.info("%s holds no run yet: starting a new one", out)
    if not open_run(config, out, resume=resume):
        logger.info("%s is already finished", out)
        return out
    cohort = cohort or load_cohort(config)
    detector = build_detector_for(config)
    if run_epochs is not None and not detector.steps():
        raise ConfigError(
            "--workers",
            expected="a model that is trained by gradients",
            found=f"{config.model.name}, which reads its slices once, in one process",
            remedy="Remove --workers, --cpus and --address, which train with Ray.",
        )
    unused = unused_keys(config)
    if not detector.steps():
        why = f"{config.model.name} has no optimisation steps"
        given = config.train.model_fields_set & {"epochs", "compile", "augment"}
        unused |= {f"train.{key}": why for key in sorted(given)}
    for key, why in unused.items():
        logger.info("%s is not used: %s", key, why)
    execution = choose_execution(config.train.device, config.train.precision)
    data = prepare_data(config, out, cohort)
    training = Training(config, out, data.slices, execution.place(detector), execution)
    course = optimise(training, on_epoch, run_epochs)
    calibration = calibrate(training.predictor(), data.training, data.held_out, config)
    save(training, data, course, calibration, started=started)
    return out


def open_run(config: Config, out: Path, *, resume: bool) -> bool:
    """Check a run folder; False if its run is already finished.

    Raises
    ------
    ConfigError
        The folder holds something else, a finished run of another config, or a run without
        ``resume``.
    ModelError
        An unfinished run of another config, or a finished one whose model is damaged.
    """
    if not out.is_dir() or not any(out.iterdir()):
        return True
    state = _state_of(out)
    if state == "files" or not resume:
        raise ConfigError(
            out,
            expected="a new or empty folder for the run",
            found=state,
            remedy="Choose another --out."
            if state == "files"
            else "Continue with --resume, or choose another --out.",
        )
    if state == "an unfinished run":
        if (out / CHECKPOINT).is_file():
            _refuse_other_config(config, out, ModelError)
        return True
    _refuse_other_config(config, out, ConfigError)
    load_model(out)
    return False


def _refuse_other_config(config: Config, out: Path, kind: type[MedrdError]) -> None:
    """Raise an error of this kind unless the run's own config is the same, up to paths."""
    was = load_config(out / "config.yaml")
    key, before, now = first_difference(portable(was), portable(config))
    if key:
        raise kind(
            out,
            expected=f"a run with {key}: {now}",
            found=f"one with {key}: {before}",
            remedy=f"Resume with {out / 'config.yaml'}, or choose another --out.",
        )


def _state_of(out: Path) -> Literal["a finished run", "an unfinished run", "files"]:
    """Classify the content of a folder that is not empty."""
    try:
        load_config(out / "config.yaml")
    except MedrdError:
        # A run that failed or was killed while its subjects were prepared has no config yet.
        only_ours = all(p.name == "errors.json" or p.name.startswith(".") for p in out.iterdir())
        return "an unfinished run" if only_ours else "files"
    return "a finished run" if (out / "run.json").is_file() else "an unfinished run"


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The subjects and slices of a training.

    Attributes
    ----------
    training, held_out
        Training subjects, and held-out subjects whose healthy slices set thresholds.
    left_out
        Errors of the subjects that could not be prepared.
    slices
        The healthy slices of ``training``.
    """

    cohort: Cohort
    training: Sequence[CachedSubject]
    held_out: Sequence[CachedSubject]
    left_out: Sequence[InputError]
    slices: HealthySlices


def prepare_data(config: Config, out: Path, cohort: Cohort) -> TrainingData:
    """Prepare the subjects into the cache, and write the resolved config into the run folder.

    Raises
    ------
    ConfigError
        No training subject has a healthy slice.
    InputError
        Subjects could not be prepared.
    LeakageError
        One scan is both trained on and held out.
    """
    make_folder(out)
    (training, held_out), left_out = prepare_sides(cohort, ("train", "calibration"), config, out)
    refuse_same_scan(training, held_out)
    slices = HealthySlices(training, margin=config.data.healthy_margin)
    if len(slices) == 0:
        raise none_healthy("train", len(training), wanted="training subjects with healthy slices")
    if not (out / CHECKPOINT).is_file():  # otherwise a wrong --resume would overwrite it
        write_text(out / "config.yaml", config.to_yaml())
    return TrainingData(cohort, training, held_out, left_out, slices)


@dataclass(frozen=True)
class Course:
    """The outcome of the optimisation.

    Attributes
    ----------
    seconds
        Over all sessions.
    workers
        The workers that ran the epochs, if it was not this process.
    """

    seconds: float
    workers: dict[str, Any] | None


def optimise(
    training: Training, on_epoch: OnEpoch | None = None, run_epochs: RunEpochs | None = None
) -> Course:
    """Run the epochs and, for a detector that collects, the pass over the slices.

    Parameters and exceptions are those of :func:`train`.
    """
    detector = training.detector
    maps_each_epoch = bool(detector.steps()) and not detector.collects
    done = EpochMetrics(epoch=1, loss=None, last=True)

    def after_epoch(metrics: EpochMetrics) -> None:
        nonlocal done
        done = metrics
        if maps_each_epoch and on_epoch is not None:
            on_epoch(metrics, training.predictor())

    seconds, workers = 0.0, None
    with stop_on_signals() as stop:
        if detector.steps():
            if run_epochs is not None:
                workers = run_epochs(training, lambda: bool(stop))
            seconds += fit(training, should_stop=lambda: bool(stop), on_epoch=after_epoch)
        if detector.collects:
            seconds += collect(training, should_stop=lambda: bool(stop))
    if not maps_each_epoch and on_epoch is not None:
        on_epoch(done, training.predictor())
    return Course(seconds, workers)


def calibrate(
    predictor: Predictor,
    training: Sequence[CachedSubject],
    held_out: Sequence[CachedSubject],
    config: Config,
) -> Calibration | None:
    """Set thresholds by the config's rule, from the healthy slices of one or both sides.

    None if no subject is held out.
    """
    if not held_out:
        logger.warning("no held-out subjects: the model gets no threshold")
        return None
    return set_thresholds(
        predictor,
        held_out,
        margin=config.data.healthy_margin,
        target_fpr=config.calibration.voxel_fpr,
        known=training if config.calibration.with_training else [],
    )


def save(
    training: Training,
    data: TrainingData,
    course: Course,
    calibration: Calibration | None,
    *,
    started: float,
) -> None:
    """Write ``model/`` and ``run.json``, and remove the checkpoint."""
    config, out = training.config, training.out
    detector, execution = training.detector, training.execution
    subjects = [*data.cohort.side("train"), *data.cohort.side("calibration")]
    traits = [s.traits for s in (*data.training, *data.held_out) if s.traits is not None]
    save_model(
        out / "model",
        detector,
        config,
        calibration=calibration,
        training={
            "subjects": contents_of(data.training),
            "calibration_subjects": contents_of(data.held_out),
            "split_hash": data.cohort.split.hash,
            "slices": len(data.slices),
            "seed": config.seed,
            "data_hash": data_hash_of(data.slices),
        },
        profile=make_profile(traits, named=all_named(subjects)) if traits else None,
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
            "workers": course.workers,
            "seed": config.seed,
            "slices": len(data.slices),
            "inputs_left_out": [error.where for error in data.left_out],
            "parameters": detector.parameter_counts() | {"remembered": detector.memory_size},
            "epochs": config.train.epochs if detector.steps() else 0,
            # Times of all sessions, and of the last one including preparation and calibration.
            "training_seconds": round(course.seconds, 3),
            "session_seconds": round(time.time() - started, 3),
            "peak_memory_mib": peak_memory_mib(),
        },
    )
    with suppress(OSError):
        (out / CHECKPOINT).unlink(missing_ok=True)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
