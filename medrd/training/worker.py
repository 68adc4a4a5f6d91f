"""The processes that train one model: one, or several with ``--workers``.

Each holds the whole model, computes the gradient of its share of every batch, and takes the same
step with the average of all gradients (PyTorch's DistributedDataParallel).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medrd.models.detector import Batch, Detector, Step

Loss = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Worker:
    """One of ``count`` processes; with more than one, PyTorch's default group must exist.

    Attributes
    ----------
    rank
        From 0; the first worker writes the run folder.
    """

    rank: int = 0
    count: int = 1

    def share(self, batch: list[int]) -> list[int]:
        """This worker's share of a batch; the shares' sizes differ by one at most."""
        size = len(batch)
        return batch[size * self.rank // self.count : size * (self.rank + 1) // self.count]

    def weight(self, batch: list[int]) -> float:
        """Factor on the share's mean loss, so that averages over workers are those of the batch."""
        return len(self.share(batch)) * self.count / len(batch)

    def parallel(self, step: Step, loss: Loss) -> Loss:
        """A step's loss whose gradients are averaged over all workers."""
        if self.count == 1:
            return loss
        # A timm backbone may hold parameters after its last level, which get no gradient.
        return DistributedDataParallel(_StepLoss(step, loss), find_unused_parameters=True)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all workers, on each of them."""
        if self.count > 1:
            dist.all_reduce(values)
        return values / self.count

    def share_statistics(self, detector: Detector) -> None:
        """Give every worker the first one's BatchNorm statistics."""
        if self.count > 1:  # timm's distribute_bn does the same, and takes a second to import
            for name, statistic in detector.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    dist.broadcast(statistic, 0)


ALONE = Worker()


class _StepLoss(nn.Module):
    """A loss as the module that DistributedDataParallel needs, with the networks that it trains."""

    def __init__(self, step: Step, loss: Loss) -> None:
        super().__init__()
        self.loss = loss
        self.trained = nn.ParameterList(step.parameters)

    def forward(self, batch: Batch) -> Tensor:
        return self.loss(batch)
