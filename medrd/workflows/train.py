"""``medrd train``: healthy slices -> a run folder with a calibrated model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from medrd.config import Config, digest, load_config
from medrd.data.cache import CachedSubject
from medrd.data.profile import make_profile
from medrd.data.slices import HealthySlices
from medrd.errors import ConfigError, MedrdError
from medrd.models import Detector
from medrd.models.build import detector_from_config
from medrd.volumes import write_json, write_text
from medrd.workflows.calibrate import Calibration, calibrate
from medrd.workflows.checkpoint import Position, load_checkpoint, save_checkpoint
from medrd.workflows.cohort import load_cohort, prepare_sides, refuse_same_scan
from medrd.workflows.collect import collect
from medrd.workflows.device import Execution, choose_execution
from medrd.workflows.infer import Predictor
from medrd.workflows.interrupt import InterruptedRunError, StopRequest, stop_on_signals
from medrd.workflows.loop import EpochReport, Loop
from medrd.workflows.metrics_log import MetricsLog
from medrd.workflows.model_folder import load_model, make_scoring, save_model
from medrd.workflows.outputs import make_folder
from medrd.workflows.progress import progress
from medrd.workflows.runs import scratch_folder
from medrd.workflows.simulation import Simulator, simulator_for
from medrd.workflows.versions import git_revision, peak_memory_mib, versions
from medrd.workflows.weights import load_teacher_weights

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
    model = config.to_dict()["model"]
    try:
        detector = detector_from_config(model)
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


def train(
    config: Config, out: str | Path, *, resume: bool = False, on_epoch: OnEpoch | None = None
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
    make_folder(out)
    (training, held_out), left_out = prepare_sides(cohort, ("train", "calibration"), config, out)
    refuse_same_scan(training, held_out)
    slices = HealthySlices(training, margin=config.data.healthy_margin)
    if len(slices) == 0:
        raise ConfigError(
            "data.split.train",
            expected="training subjects with healthy slices",
            found=f"{len(training)} subjects without one",
            remedy="Give it more subjects, or lower data.healthy_margin.",
        )
    execution = choose_execution(config.train.device, config.train.precision)
    seen = {
        "subjects": {subject.id: subject.content for subject in training},
        "calibration_subjects": {subject.id: subject.content for subject in held_out},
        "split_hash": cohort.split.hash,
        "slices": len(slices),
        "seed": config.seed,
        # The same scans, not the same path: a data set that has moved is still the same.
        "data_hash": digest(sorted(subject.content for subject in training)),
    }
    if not (out / "checkpoint.pt").is_file():  # else a wrong --resume would overwrite it
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
        training_seconds = 0.0
        if detector.steps():
            training_seconds += _fit(
                detector, simulator, slices, config, execution, out, seen, stop, after_epoch
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
    calibration = _calibrate(Predictor(detector, scoring, execution), held_out, config, out)
    looks = [s.traits for s in (*training, *held_out) if s.traits is not None]
    save_model(
        out / "model",
        detector,
        config,
        calibration=calibration,
        training=seen,
        profile=make_profile(looks) if looks else None,
    )
    write_json(
        out / "run.json",
        {
            "versions": versions(),
            "git": git_revision(),
            "device": _device_name(execution.device),
            "precision": execution.precision,
            "threads": torch.get_num_threads(),
            "seed": config.seed,
            "slices": len(slices),
            "inputs_left_out": [error.where for error in left_out],
            "parameters": detector.parameter_counts() | {"remembered": detector.remembered},
            "epochs": config.train.epochs if detector.steps() else 0,
            # Of all sessions, and of the last one with its preparation and calibration.
            "training_seconds": round(training_seconds, 3),
            "session_seconds": round(time.time() - started, 3),
            "peak_memory_mib": peak_memory_mib(),
        },
    )
    with suppress(OSError):
        (out / "checkpoint.pt").unlink(missing_ok=True)
    return out


def _fit(
    detector: Detector,
    simulator: Simulator | None,
    slices: HealthySlices,
    config: Config,
    execution: Execution,
    out: Path,
    seen: dict[str, Any],
    stop: StopRequest,
    on_report: Callable[[EpochReport], None],
) -> float:
    """Run the epochs, from the checkpoint if there is one; seconds of them all."""
    epochs = config.train.epochs
    identity = _identity(config, seen)
    checkpoint = out / "checkpoint.pt"
    log = MetricsLog(out)
    notes: dict[str, str] = {}
    loop = Loop(
        detector,
        slices,
        execution,
        batch_size=config.train.batch_size,
        seed=config.seed,
        epochs=epochs,
        simulator=simulator,
        compile=config.train.compile,
        on_batch=lambda loss, rate: advance(
            note=f"loss {loss:.4f}  {rate:.0f} slices/s  {notes.get('epoch', '')}"
        ),
        should_stop=lambda: bool(stop),
    )
    position = Position(0, 0, {})
    if checkpoint.is_file():
        position = load_checkpoint(checkpoint, detector, loop.optimizers, identity=identity)
        logger.info("going on at epoch %d, batch %d", position.epoch + 1, position.batch + 1)
    log.keep(position.epoch)
    if log.last is not None and position.batch == 0:
        on_report(log.last)  # it may have been killed before it came to this
    per_epoch = len(loop.batches(0))
    done = position.epoch * per_epoch + position.batch
    with progress("training", epochs * per_epoch, done=done) as advance:
        while position.epoch < epochs:
            notes["epoch"] = f"epoch {position.epoch + 1}/{epochs}"
            position, report = loop.epoch(position)
            # The line first: one too many is taken back on resuming, a lost one never comes.
            if report is not None:
                log.add(report)
            save_checkpoint(checkpoint, detector, loop.optimizers, position, identity=identity)
            if report is not None:
                on_report(report)
            if stop and position.epoch < epochs:
                raise InterruptedRunError(
                    f"stopped in epoch {position.epoch + 1} of {epochs}; saved. Go on with: "
                    f"medrd train {out / 'config.yaml'} --out {out} --resume"
                )
    return log.seconds


def _calibrate(
    predictor: Predictor, held_out: Sequence[CachedSubject], config: Config, out: Path
) -> Calibration | None:
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


def _identity(config: Config, seen: dict[str, Any]) -> str:
    """What must be the same for a checkpoint to be gone on with."""
    return digest([portable(config), seen["data_hash"], seen["slices"]])


def portable(config: Config) -> dict[str, Any]:
    """Without what may differ between two machines that go on with one run."""
    content = config.to_dict()
    content["data"] |= {"root": None, "cache": None}
    content["train"] |= {"device": None}
    if "teacher" in content["model"]:
        content["model"]["teacher"] |= {"file": None}
    return content


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
