"""The epochs of a training, from its checkpoint if there is one; alone or as one of several."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medrd.config import Config, digest
from medrd.data.slices import HealthySlices
from medrd.models import Detector
from medrd.run.device import Execution
from medrd.run.progress import progress
from medrd.run.signals import InterruptedRunError
from medrd.training.checkpoint import Position, load_checkpoint, save_checkpoint
from medrd.training.loop import EpochReport, Loop
from medrd.training.metrics_log import MetricsLog
from medrd.training.simulation import Simulator, augment_for
from medrd.training.team import ALONE, Team

logger = logging.getLogger("medrd.train")

CHECKPOINT = "checkpoint.pt"


def fit(
    detector: Detector,
    simulator: Simulator | None,
    slices: HealthySlices,
    config: Config,
    execution: Execution,
    out: Path,
    *,
    should_stop: Callable[[], bool],
    on_report: Callable[[EpochReport], None] = lambda report: None,
    team: Team = ALONE,
) -> float:
    """Run what is left of the epochs; seconds of them all.

    Parameters
    ----------
    detector
        On its device, fresh; it is trained in place.
    out
        The run folder: ``checkpoint.pt`` and ``metrics.jsonl``, which the leading process writes.
    on_report
        Called after every epoch once its checkpoint is saved, and with the last one that is done.

    Raises
    ------
    ModelError
        A checkpoint of something else, or a training that has gone wrong.
    InterruptedRunError
        ``should_stop`` has said so; the checkpoint is saved.
    """
    epochs = config.train.epochs
    identity = identity_of(config, slices)
    checkpoint = out / CHECKPOINT
    log = MetricsLog(out) if team.leads else None
    notes: dict[str, str] = {}
    loop = Loop(
        detector,
        slices,
        execution,
        batch_size=config.train.batch_size,
        seed=config.seed,
        epochs=epochs,
        simulator=simulator,
        augment=augment_for(config),
        compile=config.train.compile,
        on_batch=lambda loss, rate: advance(
            note=f"loss {loss:.4f}  {rate:.0f} slices/s  {notes.get('epoch', '')}"
        ),
        should_stop=should_stop,
        team=team,
    )
    position = Position(0, 0, {})
    if checkpoint.is_file():
        position = load_checkpoint(checkpoint, detector, loop.optimizers, identity=identity)
        logger.info("going on at epoch %d, batch %d", position.epoch + 1, position.batch + 1)
    if log is not None:
        log.keep(position.epoch)
        if log.last is not None and position.batch == 0:
            on_report(log.last)  # it may have been killed before it came to this
    per_epoch = len(loop.batches(0))
    done = position.epoch * per_epoch + position.batch
    with progress("training", epochs * per_epoch, done=done) as advance:
        while position.epoch < epochs:
            notes["epoch"] = f"epoch {position.epoch + 1}/{epochs}"
            position, report = loop.epoch(position)
            if log is not None:
                # The line first: one too many is taken back on resuming, a lost one never comes.
                if report is not None:
                    log.add(report)
                save_checkpoint(checkpoint, detector, loop.optimizers, position, identity=identity)
                if report is not None:
                    on_report(report)
            if team.any(should_stop()) and position.epoch < epochs:
                raise stopped(position.epoch, config, out)
    return log.seconds if log is not None else 0.0


def stopped(epoch: int, config: Config, out: Path, *, options: str = "") -> InterruptedRunError:
    """What to say of a run that was stopped; ``epoch`` from 0 is the one it goes on with."""
    return InterruptedRunError(
        f"stopped in epoch {epoch + 1} of {config.train.epochs}; saved. Go on with: "
        f"medrd train {out / 'config.yaml'} --out {out} --resume{options}"
    )


def identity_of(config: Config, slices: HealthySlices) -> str:
    """What must be the same for a checkpoint to be gone on with."""
    parts = [portable(config), data_hash_of(slices), len(slices)]
    teacher = getattr(config.model, "teacher", None)
    if teacher is not None and teacher.file is not None:
        # Frozen weights are in no checkpoint: other ones under the same path would go unseen.
        with teacher.file.open("rb") as file:
            parts.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digest(parts)


def data_hash_of(slices: HealthySlices) -> str:
    """Of the same scans, not the same path: a data set that has moved is still the same."""
    return digest(sorted(subject.content for subject in slices.subjects))


def portable(config: Config) -> dict[str, Any]:
    """Without what may differ between two machines that go on with one run."""
    content = config.to_dict()
    content["data"] |= {"root": None, "cache": None}
    content["train"] |= {"device": None}
    if "teacher" in content["model"]:
        content["model"]["teacher"] |= {"file": None}
    return content
