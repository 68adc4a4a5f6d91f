"""The optimisation loop: it runs a detector's steps and knows no detector by name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from medrd.data.slices import HealthySlices, Prefetcher, SliceBatch, epoch_order
from medrd.errors import ModelError
from medrd.models import Batch, Detector, Step
from medrd.run.device import Execution
from medrd.training.checkpoint import Position
from medrd.training.simulation import Augment, Simulator
from medrd.training.team import ALONE, Team

_OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


@dataclass(frozen=True)
class EpochReport:
    """One line of ``metrics.jsonl``.

    Attributes
    ----------
    loss
        Mean over the epoch's batches, summed over the steps.
    losses
        The same, by step.
    wait_share
        Share of the time that was spent waiting for slices.
    """

    epoch: int
    loss: float
    losses: dict[str, float]
    slices_per_s: float
    wait_share: float
    seconds: float


def make_optimizers(steps: Sequence[Step]) -> dict[str, torch.optim.Optimizer]:
    """One for each step, by the step's name."""
    return {step.name: _make_optimizer(step) for step in steps}


def _make_optimizer(step: Step) -> torch.optim.Optimizer:
    groups = [{"params": list(each.parameters), **each.settings} for each in step.groups]
    optimizer: torch.optim.Optimizer = _OPTIMIZERS[step.optimizer.kind](
        groups, **step.optimizer.settings
    )
    for each in optimizer.param_groups:
        each["initial_lr"] = each["lr"]  # what a schedule's factor applies to
    return optimizer


class Place(NamedTuple):
    """An iteration within the training."""

    epoch: int
    batch: int
    batches: int
    """How many the epoch has."""


class Loop:
    """Trains a detector on healthy slices.

    Parameters
    ----------
    detector
        Already on its device.
    slices
        What to draw from.
    epochs
        Of the whole training; schedules follow the share of it that is done.
    simulator
        Makes what the detector needs beside healthy slices; None where it needs nothing.
    augment
        Changes the healthy slices first, leaving them healthy.
    compile
        Let torch.compile make the losses faster; the first iteration is slow.
    on_batch
        Called after each batch with the loss and the running slices/s.
    should_stop
        Looked at after each batch; True ends :meth:`epoch` early.
    team
        The processes that share each batch.
    """

    def __init__(
        self,
        detector: Detector,
        slices: HealthySlices,
        execution: Execution,
        *,
        batch_size: int,
        seed: int,
        epochs: int,
        simulator: Simulator | None = None,
        augment: Augment | None = None,
        compile: bool = False,
        on_batch: Callable[[float, float], None] = lambda loss, rate: None,
        should_stop: Callable[[], bool] = lambda: False,
        team: Team = ALONE,
    ) -> None:
        self.detector = detector
        self.slices = slices
        self.execution = execution
        self.batch_size = batch_size
        self.seed = seed
        self.epochs = epochs
        self.simulator = simulator
        self.augment = augment
        self.on_batch = on_batch
        self.should_stop = should_stop
        self.team = team
        self.steps = list(detector.steps())
        if compile and detector.monitor is not None:
            # What it keeps outlives a graph. Disabled only here: torch._dynamo takes 2 s to import.
            seeing = torch.compiler.disable(detector.monitor.see)
            detector.monitor.see = seeing  # type: ignore[method-assign]
        self.losses = {
            step.name: team.join(step, torch.compile(step.loss) if compile else step.loss)
            for step in self.steps
        }
        self.optimizers = make_optimizers(self.steps)

    def batches(self, epoch: int) -> list[list[int]]:
        """The epoch's batches, as positions in the slices' index."""
        return epoch_order(
            len(self.slices), batch_size=self.batch_size, seed=self.seed, epoch=epoch
        )

    def epoch(self, position: Position) -> tuple[Position, EpochReport | None]:
        """Go on from a position to the end of its epoch, or to a requested stop.

        Returns the next position, and the epoch's report if it has ended.

        Raises
        ------
        ModelError
            The loss is no longer finite.
        """
        batches = self.batches(position.epoch)
        sums = dict(position.losses)
        start, seen = time.perf_counter(), 0
        self.detector.train()
        left = batches[position.batch :]
        prefetcher = Prefetcher(self.slices, [self._read_of(batch) for batch in left])
        for number, read in enumerate(prefetcher, start=position.batch):
            count = len(batches[number])
            losses = self.iteration(read, Place(position.epoch, number, len(batches)), count)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
            total = sum(losses.values())
            if not math.isfinite(total):
                raise ModelError(
                    f"epoch {position.epoch + 1}, batch {number + 1}",
                    expected="a finite loss",
                    found=str(total),
                    remedy="Lower the model's learning rate, or train with train.precision=fp32.",
                )
            seen += count
            self.on_batch(total, seen / (time.perf_counter() - start))
            if number + 1 < len(batches) and self.team.any(self.should_stop()):
                return Position(position.epoch, number + 1, sums), None
        fault = self.team.first(self.detector.fault())
        if fault is not None:
            raise ModelError(
                f"epoch {position.epoch + 1}",
                expected="networks that learn",
                found=fault,
                remedy="Lower the model's learning rate, or take another seed.",
            )
        seconds = time.perf_counter() - start
        waited = self.team.mean(torch.tensor(prefetcher.waited_s, dtype=torch.float64)).item()
        means = {name: value / len(batches) for name, value in sums.items()}
        report = EpochReport(
            epoch=position.epoch + 1,
            loss=sum(means.values()),
            losses=means,
            slices_per_s=seen / seconds,
            wait_share=waited / seconds,
            seconds=seconds,
        )
        return Position(position.epoch + 1, 0, {}), report

    def iteration(
        self, slices: SliceBatch, place: Place, count: int | None = None
    ) -> dict[str, float]:
        """Every step once on one batch; the losses by step.

        ``count`` is how many slices the batch has over all processes; default: those given.
        """
        count = len(slices.images) if count is None else count
        batch, weight = self._batch(slices, place, count), self.team.weight(count)
        losses = []
        for step in self.steps:
            optimizer = self.optimizers[step.name]
            if step.optimizer.schedule is not None:
                factor = step.optimizer.schedule(batch.progress)
                for each in optimizer.param_groups:
                    each["lr"] = each["initial_lr"] * factor
            with self.execution.autocast():
                loss = self.losses[step.name](batch) * weight
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach().float())
        # Read at the end: each reading makes a GPU wait for what is still to be launched.
        values = self.team.mean(torch.stack(losses)).tolist()
        return {step.name: value for step, value in zip(self.steps, values, strict=True)}

    def _read_of(self, batch: list[int]) -> list[int]:
        """What of a batch this process reads."""
        return batch if self._whole else batch[self.team.share(len(batch))]

    @property
    def _whole(self) -> bool:
        """Whether it needs the others' slices: an anomaly may show them, and draws are for all."""
        return self.simulator is not None or self.augment is not None

    def _batch(self, slices: SliceBatch, place: Place, count: int) -> Batch:
        images = self.execution.images(slices.images)
        region = torch.from_numpy(slices.region).to(self.execution.device)
        progress = (place.epoch + place.batch / place.batches) / self.epochs
        if not self._whole:
            return Batch(images, region, progress=progress)
        # Of this place alone, so that a resumed run meets the same changes and anomalies, and so
        # do several processes: each draws for the whole batch, and makes what it has a share in.
        generator, here = _generator(self.seed, place), self.team.share(count)
        if self.augment is not None:
            images, region = self.augment(images, region, generator)
        if self.simulator is None:
            return Batch(images[here], region[here], progress=progress)
        simulated = self.simulator(images, region, generator, here)
        return Batch(images[here], region[here], simulated.images, simulated.mask, progress)


def _generator(seed: int, place: Place) -> torch.Generator:
    state = np.random.SeedSequence([seed, place.epoch, place.batch]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
