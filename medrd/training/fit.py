"""Run the epochs of a training, from its checkpoint if there is one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from medrd.config import Config, digest
from medrd.data.slices import HealthySlices
from medrd.run.progress import progress
from medrd.run.signals import InterruptedRunError
from medrd.training.checkpoint import Position, load_checkpoint, save_checkpoint
from medrd.training.loop import EpochMetrics, Loop
from medrd.training.metrics_log import MetricsLog
from medrd.training.setup import Training
from medrd.training.worker import ALONE, Worker

logger = logging.getLogger("medrd.train")

CHECKPOINT = "checkpoint.pt"


def fit(
    training: Training,
    *,
    should_stop: Callable[[], bool],
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    worker: Worker = ALONE,
) -> float:
    """Run the remaining epochs, and return the seconds that all epochs took.

    The first worker writes ``checkpoint.pt`` and ``metrics.jsonl`` into the run folder.

    Parameters
    ----------
    on_epoch
        Called after every epoch once its checkpoint is saved, and first with the last epoch of
        an earlier session, which may have been killed before its own call.

    Raises
    ------
    ModelError
        The checkpoint belongs to another run, or the training has gone wrong.
    InterruptedRunError
        ``should_stop`` returned True; the checkpoint is saved.
    """
    config, out = training.config, training.out
    epochs = config.train.epochs
    identity = identity_of(config, training.slices)
    precision = training.execution.precision
    checkpoint = out / CHECKPOINT
    log = MetricsLog(out) if worker.rank == 0 else None
    notes: dict[str, str] = {}
    loop = Loop(
        training,
        on_batch=lambda loss, rate: advance(
            note=f"loss {loss:.4f}  {rate:.0f} slices/s  {notes.get('epoch', '')}"
        ),
        should_stop=should_stop,
        worker=worker,
    )
    position = Position()
    if checkpoint.is_file():
        position = load_checkpoint(
            checkpoint, training.detector, loop.optimizers, identity=identity, precision=precision
        )
        logger.info("continuing at epoch %d, batch %d", position.epoch + 1, position.batch + 1)
    if log is not None:
        log.keep(position.epoch)
        if log.last is not None and position.batch == 0:
            on_epoch(replace(log.last, last=position.epoch == epochs))
    done = position.epoch * loop.batches_per_epoch + position.batch
    with progress("training", epochs * loop.batches_per_epoch, done=done) as advance:
        while position.epoch < epochs:
            notes["epoch"] = f"epoch {position.epoch + 1}/{epochs}"
            position, metrics = loop.epoch(position)
            if log is not None:
                # The line is written first: a resume drops a surplus line, but could not restore a
                # lost one.
                if metrics is not None:
                    log.add(metrics)
                save_checkpoint(
                    checkpoint,
                    training.detector,
                    loop.optimizers,
                    position,
                    identity=identity,
                    precision=precision,
                )
                if metrics is not None:
                    on_epoch(metrics)
            if should_stop() and position.epoch < epochs:
                raise stopped(position.epoch, config, out)
    return log.seconds if log is not None else 0.0


def stopped(epoch: int, config: Config, out: Path) -> InterruptedRunError:
    """The error of a stopped run; ``epoch`` (from 0) is the one from which it continues."""
    return InterruptedRunError(
        f"stopped in epoch {epoch + 1} of {config.train.epochs}; saved. Continue with: "
        f"medrd train {quote(str(out / 'config.yaml'))} --out {quote(str(out))} --resume"
    )


def identity_of(config: Config, slices: HealthySlices) -> str:
    """Hash of everything that must be the same when a checkpoint is resumed."""
    parts = [portable(config), data_hash_of(slices), len(slices)]
    teacher = getattr(config.model, "teacher", None)
    if teacher is not None and teacher.file is not None:
        # No checkpoint holds the frozen weights: a changed file would go unnoticed.
        with teacher.file.open("rb") as file:
            parts.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digest(parts)


def data_hash_of(slices: HealthySlices) -> str:
    """Hash of the scans' contents, independent of their paths."""
    return digest(sorted(subject.content for subject in slices.subjects))


def portable(config: Config) -> dict[str, Any]:
    """The config without keys that may differ between the machines that continue one run."""
    content = config.to_dict()
    content["data"] |= {"root": None, "cache": None}
    content["train"] |= {"device": None}
    if "teacher" in content["model"]:
        content["model"]["teacher"] |= {"file": None}
    return content
