"""The interface of all detectors: steps to optimise, and an anomaly map."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from medrd.models.monitors import Monitor
from medrd.models.settings import ModelSection
from medrd.models.teacher import Backbone, Teacher

Simulation = Literal["anomalies", "simplex_box", "coarse_noise"]
"""Simulated changes of a healthy slice: anomalies (with their mask), simplex noise in one box
(RD++), or coarse Gaussian noise over the whole region (DAE)."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The input of a loss.

    Attributes
    ----------
    images
        (B, 3, H, W) float32 in [0, 1], healthy; any number of channels for detectors that take it.
    region
        (B, H, W) bool: the brain, or the part that shows the picture.
    simulated
        The same slices, changed as :attr:`Detector.simulation` requires; None for detectors without
        simulation.
    mask
        (B, H, W) bool, where ``simulated`` visibly differs (for noise: where it was added).
    progress
        Completed share of the training, in [0, 1).
    """

    images: Tensor
    region: Tensor
    simulated: Tensor | None = None
    mask: Tensor | None = None
    progress: float = 0.0

    def changed(self) -> tuple[Tensor, Tensor]:
        """``simulated`` and ``mask``. Raises ValueError if there are none."""
        if self.simulated is None or self.mask is None:
            raise ValueError("this detector needs simulated images, and the batch has none")
        return self.simulated, self.mask


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimiser by name, with its settings; the training loop constructs it.

    Attributes
    ----------
    kind
        ``stable_adamw`` is AdamW with each tensor's update clipped by its root mean square
        (Wortsman et al., NeurIPS 2023).
    schedule
        Factor on every learning rate as a function of the progress in [0, 1); None for 1.
    clip_norm
        Largest norm of the step's whole gradient; None for no limit.
    """

    kind: Literal["adam", "adamw", "stable_adamw", "sgd"]
    settings: dict[str, Any] = field(default_factory=dict)
    schedule: Callable[[float], float] | None = None
    clip_norm: float | None = None


def warmed_up_cosine(
    progress: float, warm_up: float, *, first: float = 0.0, last: float = 0.0
) -> float:
    """A schedule's factor: rises from ``first`` to 1 until ``warm_up``, falls to ``last`` at 1."""
    if progress < warm_up:
        return first + (1 - first) * progress / warm_up
    cosine = math.cos(math.pi * (progress - warm_up) / (1 - warm_up))
    return last + (1 - last) * (1 + cosine) / 2


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that one optimiser treats alike; ``settings`` override the optimiser's."""

    parameters: Sequence[nn.Parameter]
    settings: dict[str, Any] = field(default_factory=dict)


def group(*networks: nn.Module, **settings: Any) -> ParameterGroup:
    """All parameters of these networks."""
    return ParameterGroup([p for network in networks for p in network.parameters()], settings)


@dataclass(frozen=True)
class Step:
    """One optimisation step of an iteration.

    The loop zeroes the gradients of its parameters, calls ``loss`` on the batch, runs the backward
    pass and takes the optimiser's step. The steps of an iteration run in their order.
    """

    name: str
    groups: Sequence[ParameterGroup]
    optimizer: OptimizerSpec
    loss: Callable[[Batch], Tensor]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of all groups."""
        return [p for each in self.groups for p in each.parameters]


class Detector(nn.Module):
    """Base of all detectors.

    A detector is made from its teacher, if it has one, and from its section of a config. The
    teacher is built and loaded before, and frozen here.

    Subclasses list their frozen networks in ``frozen``: these get no gradient and stay in eval mode
    even after ``train()``, so that BatchNorm statistics do not change.
    """

    section: ClassVar[type[ModelSection]]
    """Its settings: the ``model`` section of a config."""
    source: ClassVar[str]
    """The paper that describes it, in short."""
    teacher_kind: ClassVar[type[Backbone] | None] = Teacher
    """The class of its teacher; None for a detector without one."""
    frozen: Sequence[nn.Module] = ()
    frozen_batchnorm: Sequence[nn.Module] = ()
    """Networks that are trained while their BatchNorm stays in eval mode."""
    size_multiple: int = 1
    """Height and width of the images must be multiples of this (pixels)."""
    simulation: Simulation | None = None
    """The simulated changes that its training batches must contain besides healthy slices."""
    collects: bool = False
    """True for a detector that needs one more pass over the healthy slices, after the optimisation
    or instead of it: :meth:`collect` for each batch in eval mode, then :meth:`finish`."""
    scores_images: bool = False
    """True if :meth:`map_and_score` returns the method's own image score."""
    monitor: Monitor | None = None
    """Watches features during training, for detectors that could collapse."""
    exports: bool = True
    """False if :meth:`map_and_score` branches on its images, so that no graph holds for all."""
    training_only: tuple[str, ...] = ()
    """Direct submodules that prediction does not need; a saved model omits them."""

    def freeze(self, *networks: nn.Module) -> None:
        """Freeze these networks permanently."""
        # object.__setattr__: a plain tuple of modules, not registered a second time
        object.__setattr__(self, "frozen", networks)
        for network in networks:
            network.requires_grad_(False)
            network.eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode, leaving ``frozen`` and ``frozen_batchnorm`` networks in eval."""
        super().train(mode)
        for network in (*self.frozen, *self.frozen_batchnorm):
            network.eval()
        return self

    def parameter_counts(self) -> dict[str, int]:
        """Count all parameters, the trained ones, and those kept for prediction."""
        unread = [self.get_submodule(name) for name in self.training_only]
        everything = sum(p.numel() for p in self.parameters())
        return {
            "all": everything,
            "trained": sum(p.numel() for p in self.parameters() if p.requires_grad),
            "kept": everything - sum(p.numel() for n in unread for p in n.parameters()),
        }

    def keep_for_prediction(self) -> None:
        """Delete the networks that only training needs."""
        gone = [getattr(self, name) for name in self.training_only]
        kept = (n for n in self.frozen if not any(n is network for network in gone))
        object.__setattr__(self, "frozen", tuple(kept))
        for name in self.training_only:
            delattr(self, name)

    @abstractmethod
    def steps(self) -> Sequence[Step]:
        """The optimisation steps of one iteration; empty for an untrained detector."""

    @abstractmethod
    def anomaly_map(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, H, W) float32, unsmoothed, not rescaled per image.

        It is never negative; 0 means no score.
        """

    def map_and_score(self, images: Tensor, region: Tensor) -> tuple[Tensor, Tensor | None]:
        """The anomaly map, and the method's own image score if it has one.

        (B, 3, H, W) and (B, H, W) bool -> (B, H, W), and (B,) float32 or None. Scores of
        detectors without one of their own are made from the map by
        :class:`medrd.models.scoring.Scoring`.
        """
        return self.anomaly_map(images), None

    @property
    def memory_size(self) -> int:
        """Count the numbers that it stores from its training slices, besides parameters."""
        return 0

    def shown_to_teacher(self, images: Tensor) -> Tensor:
        """The channels of slices that the teacher sees, for detectors that do not show it all."""
        return images

    def teacher_loaded(self) -> None:
        """Hook that runs when the teacher has its weights, to copy them into other networks."""

    def fault(self) -> str | None:
        """Describe what is wrong with the networks after an epoch (for example a collapse).

        None if nothing is wrong; otherwise training stops.
        """
        return None if self.monitor is None else self.monitor.fault()

    def monitor_state(self) -> dict[str, Any]:
        """The monitor's state as plain types and tensors, for a checkpoint."""
        return {} if self.monitor is None else self.monitor.state()

    def load_monitor_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`monitor_state` returned."""
        if self.monitor is not None:
            self.monitor.load(state)

    def collect(self, batch: Batch) -> None:
        """Process a batch of healthy slices, each shown once; for detectors with ``collects``."""
        raise NotImplementedError

    def finish(self, generator: torch.Generator) -> None:
        """Finish once all slices have been collected. ``generator`` is on the CPU and seeded."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """The anomaly map, so that a detector can be traced and exported as it is."""
        return self.anomaly_map(images)
