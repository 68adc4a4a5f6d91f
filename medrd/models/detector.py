"""What every detector is: steps to optimise, and a map to read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """What a loss is computed from.

    Attributes
    ----------
    images
        (B, 3, H, W) float32 in [0, 1], healthy.
    region
        (B, H, W) bool: the brain, or what there is of a picture.
    """

    images: Tensor
    region: Tensor


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimiser by name, with its settings; the training loop makes it."""

    kind: Literal["adam", "adamw", "sgd"]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One optimisation step of an iteration.

    The loop zeroes the gradients of ``parameters``, calls ``loss`` on the batch, goes
    backward and lets the optimiser step; the steps of an iteration run in their order.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    optimizer: OptimizerSpec
    loss: Callable[[Batch], Tensor]


class Detector(nn.Module):
    """Base of all detectors.

    Subclasses list their frozen networks in ``frozen``: those stay in eval mode (so that
    BatchNorm statistics don't move) and get no gradient, whatever ``train()`` is called.
    """

    frozen: Sequence[nn.Module] = ()
    size_multiple: int = 1
    """Height and width of the images must be multiples of this (pixels)."""

    def freeze(self, *networks: nn.Module) -> None:
        """Keep these networks as they are, for good."""
        # object.__setattr__: a plain tuple of modules, not registered a second time
        object.__setattr__(self, "frozen", networks)
        for network in networks:
            network.requires_grad_(False)
            network.eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode, leaving frozen networks in eval."""
        super().train(mode)
        for network in self.frozen:
            network.eval()
        return self

    @abstractmethod
    def steps(self) -> Sequence[Step]:
        """The optimisation steps of one iteration; empty for an untrained detector."""

    @abstractmethod
    def anomaly_map(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, H, W) float32, unsmoothed, not rescaled per image."""

    def forward(self, images: Tensor) -> Tensor:
        """The anomaly map, so that a detector can be traced and exported as it is."""
        return self.anomaly_map(images)
