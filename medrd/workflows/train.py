"""``medrd train``: healthy slices -> a run folder with a calibrated model."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from medrd.config import Config, digest, load_config
from medrd.data.cache import CachedSubject, cache_subjects, default_cache
from medrd.data.layouts import Subject, find_subjects
from medrd.data.slices import HealthySlices
from medrd.data.split import Split, split_subjects
from medrd.errors import ConfigError, LeakageError, ModelError
from medrd.models import Detector
from medrd.models.build import detector_from_config
from medrd.volumes import write_json, write_text
from medrd.workflows.calibrate import Calibration, calibrate
from medrd.workflows.checkpoint import Position, load_checkpoint, save_checkpoint
from medrd.workflows.device import Execution, choose_execution
from medrd.workflows.infer import Predictor
from medrd.workflows.interrupt import InterruptedRunError, StopRequest, stop_on_signals
from medrd.workflows.loop import EpochReport, Loop
from medrd.workflows.model_folder import load_model, make_scoring, save_model
from medrd.workflows.outputs import make_folder
from medrd.workflows.progress import progress
from medrd.workflows.versions import git_revision, peak_memory_mib, versions
from medrd.workflows.weights import load_teacher_weights

logger = logging.getLogger("medrd.train")


@dataclass(frozen=True, eq=False)
class Cohort:
    """A data set's subjects, divided."""

    subjects: dict[str, Subject]
    split: Split

    def side(self, name: str) -> list[Subject]:
        """The subjects on one side."""
        return [self.subjects[id] for id in getattr(self.split, name)]


def load_cohort(config: Config) -> Cohort:
    """Find and divide the subjects that the config names; no image is read."""
    if config.data.root is None:
        raise ConfigError(
            "data.root",
            expected="the folder of the data set",
            found="nothing",
            remedy="Add --set data.root=PATH.",
        )
    found = find_subjects(
        config.data.root, layout=config.data.layout, channels=config.recipe.channels
    )
    subjects = {subject.id: subject for subject in found}
    split = split_subjects(list(subjects), config.data.split, seed=config.seed)
    return Cohort(subjects, split)


def prepare_side(cohort: Cohort, side: str, config: Config, *, label: str) -> list[CachedSubject]:
    """Prepare one side's subjects into the cache, with a progress bar.

    Raises
    ------
    ConfigError
        A subject without a label in a data set that is not declared healthy.
    """
    subjects = cohort.side(side)
    if not config.data.healthy:
        for subject in subjects:
            if subject.label is None:
                raise ConfigError(
                    next(iter(subject.images.values())).path,
                    expected=f"a label of subject {subject.id}, to find its healthy slices",
                    found="none",
                    remedy="Add the label, or set data.healthy=true if all subjects are healthy.",
                )
    with progress(label, len(subjects)) as advance:
        cached = cache_subjects(
            subjects,
            config.recipe,
            folder=config.data.cache or default_cache(),
            max_voxels=config.data.max_voxels,
            on_done=lambda _: advance(),
        )
    for ready in cached:
        for warning in ready.warnings:
            logger.warning("%s: %s", ready.id, warning)
    return cached


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
    teacher = getattr(config.model, "teacher", None)
    if teacher is not None:
        load_teacher_weights(detector.teacher, teacher)  # type: ignore[arg-type]
    return detector


def train(config: Config, out: str | Path, *, resume: bool = False) -> Path:
    """Train, calibrate and save.

    Parameters
    ----------
    config
        With ``data.root`` set.
    out
        The run folder. It must be new, unless ``resume``.
    resume
        Go on from the run's checkpoint; a finished run is left as it is.

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
    make_folder(out)
    training = prepare_side(cohort, "train", config, label="preparing training subjects")
    held_out = prepare_side(cohort, "calibration", config, label="preparing held-out subjects")
    _refuse_same_scan(training, held_out)
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
    with stop_on_signals() as stop:
        epochs = _fit(detector, slices, config, execution, out, seen, stop)
    scoring = make_scoring(config.scoring, size=config.recipe.size)
    calibration = _calibrate(Predictor(detector, scoring, execution), held_out, config)
    save_model(out / "model", detector, config, calibration=calibration, training=seen)
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
            "parameters": _count_parameters(detector),
            "epochs": epochs,
            "seconds": round(time.time() - started, 3),
            "peak_memory_mib": round(peak_memory_mib(), 1),
        },
    )
    with suppress(OSError):
        (out / "checkpoint.pt").unlink(missing_ok=True)
    return out


def _fit(
    detector: Detector,
    slices: HealthySlices,
    config: Config,
    execution: Execution,
    out: Path,
    seen: dict[str, Any],
    stop: StopRequest,
) -> int:
    """Run the epochs from the checkpoint, if there is one; how many there are."""
    epochs = config.train.epochs
    if not detector.steps():
        return 0
    identity = _identity(config, seen)
    checkpoint = out / "checkpoint.pt"
    log = _MetricsLog(out)
    notes: dict[str, str] = {}
    loop = Loop(
        detector,
        slices,
        execution,
        batch_size=config.train.batch_size,
        seed=config.seed,
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
            if stop and position.epoch < epochs:
                raise InterruptedRunError(
                    f"stopped in epoch {position.epoch + 1} of {epochs}; saved. Go on with: "
                    f"medrd train {out / 'config.yaml'} --out {out} --resume"
                )
    return epochs


class _MetricsLog:
    """``metrics.jsonl``: a line an epoch, whole lines only, none twice after a resume.

    TensorBoard gets the same if it is installed.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / "metrics.jsonl"
        self.lines: list[str] = []
        self.board: Any = None
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(out / "tensorboard"))

    def keep(self, epochs: int) -> None:
        """Drop lines after this epoch: the checkpoint does not have them, they come again."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        self.lines = [line for line in lines if json.loads(line)["epoch"] <= epochs]
        self._write()

    def add(self, report: EpochReport) -> None:
        """Append an epoch."""
        logger.info(
            "epoch %d: loss %.4f, %.1f slices/s, %.1f %% of the time waiting for data",
            report.epoch,
            report.loss,
            report.slices_per_s,
            100 * report.wait_share,
        )
        self.lines.append(json.dumps(asdict(report)))
        self._write()
        if self.board is not None:
            self.board.add_scalar("loss", report.loss, report.epoch)
            self.board.add_scalar("slices_per_s", report.slices_per_s, report.epoch)
            self.board.flush()

    def _write(self) -> None:
        write_text(self.path, "".join(f"{line}\n" for line in self.lines))


def _calibrate(
    predictor: Predictor, held_out: Sequence[CachedSubject], config: Config
) -> Calibration | None:
    if not held_out:
        logger.warning("no held-out subjects: the model gets no threshold")
        return None
    return calibrate(
        predictor,
        held_out,
        margin=config.data.healthy_margin,
        target_fpr=config.calibration.voxel_fpr,
    )


def _is_finished(out: Path, config: Config, *, resume: bool) -> bool:
    """Whether this very run is done; a folder that holds something else is an error."""
    finished = (out / "run.json").is_file()
    if resume:
        if finished and _portable(load_config(out / "config.yaml")) != _portable(config):
            raise ConfigError(
                out,
                expected="a run of this config",
                found="a finished run of another one",
                remedy="Give another --out.",
            )
        return finished
    if out.is_dir() and any(out.iterdir()):
        unfinished = (out / "checkpoint.pt").is_file()
        found = "a finished run" if finished else "an unfinished run" if unfinished else "files"
        raise ConfigError(
            out,
            expected="a new or empty folder for the run",
            found=found,
            remedy="Go on with --resume, or give another --out."
            if finished or unfinished
            else "Give another --out.",
        )
    return False


def _identity(config: Config, seen: dict[str, Any]) -> str:
    """What must be the same for a checkpoint to be gone on with."""
    return digest([_portable(config), seen["data_hash"], seen["slices"]])


def _portable(config: Config) -> dict[str, Any]:
    """Without what may differ between two machines that go on with one run."""
    content = config.to_dict()
    content["data"] |= {"root": None, "cache": None}
    content["train"] |= {"device": None}
    return content


def _refuse_same_scan(training: Sequence[CachedSubject], others: Sequence[CachedSubject]) -> None:
    """One scan under two names on two sides is leakage too."""
    contents = {subject.content: subject.id for subject in training}
    for subject in others:
        if subject.content in contents:
            raise LeakageError(
                subject.id,
                expected="a scan that is not trained on",
                found=f"the very file of training subject {contents[subject.content]}",
                remedy="Remove one of the two.",
            )


def _count_parameters(detector: Detector) -> dict[str, int]:
    parameters = list(detector.parameters())
    return {
        "all": sum(p.numel() for p in parameters),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


__all__ = ["Cohort", "ModelError", "build_detector_for", "load_cohort", "prepare_side", "train"]
