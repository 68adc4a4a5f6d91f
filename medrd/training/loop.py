"""The optimisation loop. It runs a detector's steps and depends on no particular detector."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from medrd.data.slices import Prefetcher, SliceBatch, epoch_order
from medrd.errors import ModelError
from medrd.models.detector import Batch, Step
from medrd.training.checkpoint import Position
from medrd.training.setup import Training
from medrd.training.simulation import augment_for, simulator_for
from medrd.training.teaching import FrozenTeacher
from medrd.training.worker import ALONE, Worker


def _stable_adamw(groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Optimizer:
    """timm's StableAdamW, which clips updates; PyTorch's AdamW does not."""
    from timm.optim import AdamWLegacy  # timm takes seconds to import

    return AdamWLegacy(groups, clipping_threshold=1.0, **settings)


_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "stable_adamw": _stable_adamw,
    "sgd": torch.optim.SGD,
}


@dataclass(frozen=True)
class EpochMetrics:
    """The state of a training after an epoch; a line of ``metrics.jsonl``.

    Attributes
    ----------
    epoch
        Number of finished epochs; 1 for a detector without epochs.
    loss
        Mean over the epoch's batches, summed over the steps; None for a detector without epochs.
    losses
        The same, by step.
    wait_share
        Share of the time that was spent waiting for slices.
    last
        Whether this is the last epoch; not in the file.
    """

    epoch: int
    loss: float | None
    losses: dict[str, float] = field(default_factory=dict)
    slices_per_s: float = 0.0
    wait_share: float = 0.0
    seconds: float = 0.0
    last: bool = False


def make_optimizers(steps: Sequence[Step]) -> dict[str, torch.optim.Optimizer]:
    """Make an optimiser for each step, by the step's name."""
    return {step.name: _make_optimizer(step) for step in steps}


def _make_optimizer(step: Step) -> torch.optim.Optimizer:
    groups = [{"params": list(each.parameters), **each.settings} for each in step.groups]
    settings = dict(step.optimizer.settings)
    if step.optimizer.kind != "stable_adamw":
        on_these = all(p.device.type in ("cpu", "cuda") for p in step.parameters)
        settings.setdefault("fused", on_these)
    optimizer = _OPTIMIZERS[step.optimizer.kind](groups, **settings)
    for each in optimizer.param_groups:
        each["initial_lr"] = each["lr"]  # the schedule's factor multiplies this
    return optimizer


def descend(step: Step, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """Update a step's parameters by the gradient of its loss, clipped if the step requires it."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if step.optimizer.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(step.parameters, step.optimizer.clip_norm)
    optimizer.step()


class Loop:
    """Trains a detector on healthy slices, batch by batch.

    Parameters
    ----------
    training
        The detector, its data and its device. Schedules follow the completed share of
        ``train.epochs``.
    on_batch
        Called after each batch with the loss and the running slices/s.
    should_stop
        Called after each batch; True ends :meth:`epoch` early.
    worker
        This process, one of those that share each batch.

    Attributes
    ----------
    augment
        Changes the healthy slices, leaving them healthy; None changes nothing.
    simulator
        Simulates what the detector needs besides healthy slices; None if it needs nothing.
    """

    def __init__(
        self,
        training: Training,
        *,
        on_batch: Callable[[float, float], None] = lambda loss, rate: None,
        should_stop: Callable[[], bool] = lambda: False,
        worker: Worker = ALONE,
    ) -> None:
        config, detector = training.config, training.detector
        self.detector = detector
        self.slices = training.slices
        self.execution = training.execution.for_training(detector)
        self.execution.place(detector)
        self.seed = config.seed
        self.epochs = config.train.epochs
        self.batch_size = config.train.batch_size
        self.augment = augment_for(config)
        self.simulator = simulator_for(config, detector)
        self.on_batch = on_batch
        self.should_stop = should_stop
        self.worker = worker
        self.teacher = FrozenTeacher(
            detector,
            self.execution,
            remember=self.augment is None,
            share=1 / worker.count,
        )
        self.compiled = config.train.compile
        self.steps = list(detector.steps())
        if config.train.compile and detector.monitor is not None:
            # What it keeps outlives a graph. Disabled only here: torch._dynamo takes 2 s to import.
            seeing = torch.compiler.disable(detector.monitor.see)
            detector.monitor.see = seeing  # type: ignore[method-assign]
        self.losses = {
            step.name: worker.parallel(
                step, torch.compile(step.loss) if config.train.compile else step.loss
            )
            for step in self.steps
        }
        self.optimizers = make_optimizers(self.steps)
        self.batches_per_epoch = max(1, len(self.batches(0)))

    def batches(self, epoch: int) -> list[list[int]]:
        """The epoch's batches over all workers, as positions in the slices' index."""
        return epoch_order(
            len(self.slices), batch_size=self.batch_size, seed=self.seed, epoch=epoch
        )

    def epoch(self, position: Position) -> tuple[Position, EpochMetrics | None]:
        """Continue from a position to the end of its epoch, or to a requested stop.

        Returns the next position, and the epoch's metrics if it has ended.

        Raises
        ------
        ModelError
            The loss is no longer finite, or a network has collapsed.
        """
        batches = self.batches(position.epoch)
        sums = dict(position.losses)
        start, done = time.perf_counter(), 0
        self.execution.place(self.detector).train()  # a predictor may have changed the format
        left = batches[position.batch :]
        prefetcher = Prefetcher(self.slices, [self.worker.share(batch) for batch in left])
        for number, read in enumerate(prefetcher, start=position.batch):
            weight = self.worker.weight(batches[number])
            losses = self.iteration(read, Position(position.epoch, number), weight=weight)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
            total = sum(losses.values())
            if not math.isfinite(total):
                raise _not_finite(position.epoch, number, losses)
            done += len(batches[number])
            self.on_batch(total, done / (time.perf_counter() - start))
            if number + 1 < len(batches) and self.should_stop():
                return Position(position.epoch, number + 1, sums), None
        fault = self.detector.fault()
        if fault is not None:
            raise ModelError(
                f"epoch {position.epoch + 1}",
                expected="networks that learn",
                found=fault,
                remedy="Lower the model's learning rate, or try another seed.",
            )
        self.worker.share_statistics(self.detector)
        seconds = time.perf_counter() - start
        means = {name: value / len(batches) for name, value in sums.items()}
        metrics = EpochMetrics(
            epoch=position.epoch + 1,
            loss=sum(means.values()),
            losses=means,
            slices_per_s=done / seconds,
            wait_share=prefetcher.waited_s / seconds,
            seconds=seconds,
            last=position.epoch + 1 == self.epochs,
        )
        return Position(position.epoch + 1), metrics

    def iteration(
        self, slices: SliceBatch, position: Position, *, weight: float = 1.0
    ) -> dict[str, float]:
        """Take every step once on this worker's share of a batch, and return the losses by step.

        ``weight`` is the share's weight in the mean over the workers.
        """
        batch = self._batch(slices, position)
        if self.compiled:  # a graph of the losses holds the teacher
            return self._optimise(batch, weight)
        with self.teacher.of_batch(batch.images, slices.which):
            return self._optimise(batch, weight)

    def _optimise(self, batch: Batch, weight: float) -> dict[str, float]:
        losses = []
        for step in self.steps:
            optimizer = self.optimizers[step.name]
            if step.optimizer.schedule is not None:
                factor = step.optimizer.schedule(batch.progress)
                for each in optimizer.param_groups:
                    each["lr"] = each["initial_lr"] * factor
            with self.execution.autocast():
                loss = self.losses[step.name](batch) * weight
            descend(step, optimizer, loss)
            losses.append(loss.detach().float())
        # Losses are read at the end: each reading makes the CPU wait for the GPU.
        values = self.worker.mean(torch.stack(losses)).tolist()
        return {step.name: value for step, value in zip(self.steps, values, strict=True)}

    def _batch(self, slices: SliceBatch, position: Position) -> Batch:
        images = self.execution.moved(slices.images)  # simulating is quicker in this format
        region = torch.from_numpy(slices.region).to(self.execution.device)
        progress = (position.epoch + position.batch / self.batches_per_epoch) / self.epochs
        # The seed depends on the position, so a resumed run gets the same augmentation and
        # anomalies.
        key = [self.seed, position.epoch, position.batch, self.worker.rank]
        state = np.random.SeedSequence(key).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]))
        if self.augment is not None:
            images, region = self.augment(images, region, generator)
        laid_out = self.execution.laid_out
        if self.simulator is None:
            return Batch(laid_out(images), region, progress=progress)
        made = self.simulator(images, region, generator)
        return Batch(laid_out(images), region, laid_out(made.images), made.mask, progress)


def _not_finite(epoch: int, batch: int, losses: Mapping[str, float]) -> ModelError:
    if epoch == batch == 0 and not math.isfinite(next(iter(losses.values()))):
        remedy = (
            "No step has been taken, so the learning rate is not at fault: train with "
            "train.precision=fp32, or choose another teacher."
        )
    else:
        remedy = "Lower the model's learning rate, or train with train.precision=fp32."
    return ModelError(
        f"epoch {epoch + 1}, batch {batch + 1}",
        expected="a finite loss",
        found=str(sum(losses.values())),
        remedy=remedy,
    )
