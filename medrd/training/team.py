"""The processes that train one model: alone, or several that share each batch.

All of them hold the whole model and the same random numbers. Each computes the gradient of its
share of a batch, gradients are averaged (PyTorch's DistributedDataParallel), and everyone takes the
same step: what comes out is what one process would have got of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medrd.models import Batch, Detector, Step
from medrd.models.synced import synchronise

Loss = Callable[[Batch], Tensor]
Value = TypeVar("Value")


class Team(Protocol):
    """Who trains.

    Attributes
    ----------
    leads
        Whether this is the one process that writes.
    """

    leads: bool

    def share(self, count: int) -> slice:
        """Which of a batch's ``count`` images are this process's."""
        ...

    def weight(self, count: int) -> float:
        """Of this process's mean over its share, in the mean over the processes."""
        ...

    def join(self, step: Step, loss: Loss) -> Loss:
        """A step's loss, whose gradients will be those of all."""
        ...

    def mean(self, values: Tensor) -> Tensor:
        """Over the processes; everyone gets it."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether any process says so; everyone gets the same answer."""
        ...

    def first(self, value: Value | None) -> Value | None:
        """What the first process says that says anything; everyone gets it."""
        ...


class Alone:
    """One process."""

    leads = True

    def share(self, count: int) -> slice:
        """All of it."""
        return slice(0, count)

    def weight(self, count: int) -> float:
        """All of it."""
        return 1.0

    def join(self, step: Step, loss: Loss) -> Loss:
        """As it is."""
        return loss

    def mean(self, values: Tensor) -> Tensor:
        """As they are."""
        return values

    def any(self, flag: bool) -> bool:
        """As it is."""
        return flag

    def first(self, value: Value | None) -> Value | None:
        """As it is."""
        return value


ALONE = Alone()


class Workers:
    """The processes of PyTorch's default group, which must have been made.

    Parameters
    ----------
    detector
        On its device. Its BatchNorm layers, where they train, see all shares from now on.
    """

    def __init__(self, detector: Detector) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.leads = self.rank == 0
        self._device = next(detector.parameters()).device
        synchronise(detector)

    def share(self, count: int) -> slice:
        """A run of the batch; shares differ by one at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def weight(self, count: int) -> float:
        """1 where the shares are equal."""
        here = self.share(count)
        return (here.stop - here.start) * self.size / count

    def join(self, step: Step, loss: Loss) -> Loss:
        """Gradients are averaged while the backward pass goes on."""
        return DistributedDataParallel(_StepLoss(step, loss))

    def mean(self, values: Tensor) -> Tensor:
        """Of floating point numbers, wherever they are."""
        there = values.to(self._device, copy=True)
        dist.all_reduce(there)
        return (there / self.size).to(values.device)

    def any(self, flag: bool) -> bool:
        """See :meth:`Team.any`."""
        return bool(self.mean(torch.tensor([float(flag)])).item() > 0)

    def first(self, value: Value | None) -> Value | None:
        """By pickle; for what is small and rare."""
        values: list[Value | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return next((each for each in values if each is not None), None)


class _StepLoss(nn.Module):
    """A loss as the module that DistributedDataParallel asks for, with what it trains."""

    def __init__(self, step: Step, loss: Loss) -> None:
        super().__init__()
        self.loss = loss
        self.trained = nn.ParameterList(step.parameters)

    def forward(self, batch: Batch) -> Tensor:
        return self.loss(batch)
