"""Monitors that watch features during training and find networks that have collapsed.

Numbers stay on their device until :meth:`Monitor.fault` is called, so that training never waits
for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

FLAT = 1e-3
"""Spread of the reference below which all images are flat and nothing can be concluded."""

COLLAPSED = 0.05
"""Share of the reference's spread below which a network has collapsed."""
MEMORY = 0.1
"""Weight of a new batch in :class:`CollapseMonitor`'s running shares."""
WINDOW = 20
"""Batches at the end of an epoch by which :class:`StudentMonitor` decides."""
GRACE = 100
"""Batches during which an untrained student may be as bad as a dead one: at the paper's learning
rate, a healthy student beats a constant after 20 to 50."""
DEAD = 0.01
"""Spread of a dead student's features relative to that of the teacher's."""
LEARNS = 0.98
"""A loss that has fallen to no less than this share of its earlier value is stuck."""
UNIFORM = 0.01
"""Distance of a constant student below which the images are too alike to conclude anything."""


class Monitor(Protocol):
    """Notes a detector's features during training and reports when they have gone wrong."""

    def see(self, *args: Any, **kwargs: Any) -> None:
        """Note the features of a batch."""
        ...

    def fault(self) -> str | None:
        """Describe what is wrong; None if nothing is."""
        ...

    def state(self) -> dict[str, Any]:
        """Return all that has been noted, as tensors and plain types."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        ...


class CollapseMonitor:
    """Measures how much the directions of features vary, relative to a reference network.

    The reference cannot collapse. A network whose output is the same everywhere has spread 0.
    Lengths are ignored, since cosine losses leave them free.
    """

    def __init__(self) -> None:
        self.shares: dict[str, Tensor] = {}

    @torch.no_grad()
    def see(self, name: str, levels: Sequence[Tensor], reference: Sequence[Tensor]) -> None:
        """Note a batch's levels of the network of this name, and the reference's."""
        own = torch.stack([spread(level) for level in levels])
        other = torch.stack([spread(level) for level in reference])
        share = torch.where(other > FLAT, own / other.clamp(min=FLAT), 1.0)
        old = self.shares.get(name)
        self.shares[name] = share if old is None else old.to(share).lerp(share, MEMORY)

    def fault(self) -> str | None:
        """Name the network that has collapsed, and the level; None if none has."""
        for name, shares in self.shares.items():
            for level, share in enumerate(shares.tolist(), start=1):
                if not share >= COLLAPSED:
                    return (
                        f"a collapsed {name}: at level {level} its features vary "
                        f"{100 * share:.2g} % as much as those that it should match"
                    )
        return None

    def state(self) -> dict[str, Tensor]:
        """The running shares, by network."""
        return {name: share.cpu() for name, share in self.shares.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state` returned."""
        self.shares = dict(state)


def spread(level: Tensor) -> Tensor:
    """Standard deviation of unit feature vectors over images and positions, as one number.

    (B, C, H, W) -> scalar: the root of the variance summed over channels; 0 for a constant.
    """
    units = F.normalize(level.detach().float(), dim=1)
    return units.var((0, 2, 3), correction=0).sum().sqrt()


class BatchSummary(NamedTuple):
    """Summary of one batch by level: (L,) each, on the device of the features.

    Attributes
    ----------
    loss
        Mean squared distance between student and teacher.
    constant
        The distance of the best student that ignores the image: the same vector everywhere.
    student, teacher
        Variance of their features between the batch's images, at the same position.
    """

    loss: Tensor
    constant: Tensor
    student: Tensor
    teacher: Tensor


class StudentMonitor:
    """Finds a student that has died, or that never learns, from the last batches of an epoch.

    Parameters
    ----------
    grace
        Batches before the first check, and between two checks of whether the loss still falls.
    """

    def __init__(self, *, grace: int = GRACE) -> None:
        self.grace = grace
        self.batches: deque[BatchSummary] = deque(maxlen=WINDOW)
        self.age = 0
        self.before: tuple[int, list[float]] | None = None

    @torch.no_grad()
    def see(self, targets: list[Tensor], outputs: list[Tensor], losses: Tensor) -> None:
        """Note a batch: the teacher's and student's levels, of unit length, and losses (L,)."""
        self.age += 1
        constants, student, teacher = [], [], []
        for target, output in zip(targets, outputs, strict=True):
            direction = F.normalize(target.mean((0, 2, 3), keepdim=True), dim=1)
            constants.append((target - direction).square().sum(1).mean())
            student.append(_between_images(output))
            teacher.append(_between_images(target))
        self.batches.append(
            BatchSummary(losses, torch.stack(constants), torch.stack(student), torch.stack(teacher))
        )

    def fault(self) -> str | None:
        """Describe what is wrong, and at which level; forgets the batches."""
        if not self.batches:
            return None
        # Batches x 4 x levels -> four lists of levels. A resumed run's first ones are on the CPU.
        summaries = torch.stack([torch.stack(summary).cpu() for summary in self.batches])
        loss, constant, student, teacher = summaries.mean(0).tolist()
        self.batches.clear()
        stuck = self._stuck(loss)
        if self.age < self.grace:
            return None
        for level, value in enumerate(loss):
            if constant[level] < UNIFORM:
                continue
            if student[level] < DEAD * teacher[level]:
                share = 100 * student[level] / teacher[level]
                return (
                    f"a dead student: from image to image its level {level + 1} varies "
                    f"{share:.2g} % as much as the teacher's"
                )
            if stuck[level] and value >= constant[level]:
                return (
                    f"a student that learns nothing: at level {level + 1} its distance from the "
                    f"teacher stays at {value:.3g}, that of a constant is {constant[level]:.3g}"
                )
        return None

    def state(self) -> dict[str, Any]:
        """Return all that has been noted, as tensors and plain types."""
        beats = [torch.stack(summary).cpu() for summary in self.batches]
        return {"age": self.age, "before": self.before, "beats": beats}

    def load(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self.age, self.before = state["age"], state["before"]
        self.batches.clear()
        self.batches.extend(BatchSummary(*beat.unbind()) for beat in state["beats"])

    def _stuck(self, loss: list[float]) -> list[bool]:
        """Find levels whose loss hardly fell since the last check, at least ``grace`` batches ago.

        With a low learning rate, a healthy student is worse than a constant for long, but improves.
        """
        if self.before is None:
            self.before = (self.age, loss)
        age, before = self.before
        if self.age - age < self.grace:
            return [False] * len(loss)
        self.before = (self.age, loss)
        return [now > LEARNS * then for now, then in zip(loss, before, strict=True)]


def _between_images(units: Tensor) -> Tensor:
    """Variance over the batch, summed over channels, mean over positions; 0 for one image."""
    return units.var(0, correction=0).sum(0).mean()
