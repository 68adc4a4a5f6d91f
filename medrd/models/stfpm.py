"""Student-Teacher Feature Pyramid Matching (STFPM).

Wang, Han, Ding, Huang, "Student-Teacher Feature Pyramid Matching for Anomaly Detection",
BMVC 2021, after the released code. Where the two differ, this follows the code: the paper
halves the squared distance, the code does not.

Peers' versions differ more: anomalib sums the loss over the batch, which multiplies the gradient
by half the batch's size while the learning rate stays at 0.4, and runs of it collapse. The mean is
taken here, and :meth:`STFPM.fault` watches for a student that died all the same.

Left out: the fourth layers, which the released code computes and never reads; and its choice of
the epoch with the lowest mean map on a fifth of the normal images. Its batches have 32 images, and
its maps are not smoothed: batch size and smoothing (``scoring.sigma_px``) are the config's, the
same for all detectors unless it says otherwise.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medrd.models.detector import Batch, Detector, OptimizerSpec, Step, group
from medrd.models.student import fresh_encoder
from medrd.models.teacher import Teacher

WINDOW = 20
"""Batches at the end of an epoch by which the student is judged."""
GRACE = 100
"""Batches during which a young student may be as bad as a dead one: at the paper's learning rate
a healthy one beats a constant after 20 to 50."""
DEAD = 0.01
"""Spread of a dead student's features over that of the teacher's."""
LEARNS = 0.98
"""A loss that has fallen to no less than this share of what it was has not been learnt from."""
UNIFORM = 0.01
"""A constant student's distance below which the images are too alike to judge by."""


class STFPM(Detector):
    """Frozen teacher, and a student of its kind that starts with random weights.

    Parameters
    ----------
    teacher
        Built and loaded; it is frozen here.
    lr, momentum, weight_decay
        SGD's.
    """

    watch: _Pulse

    def __init__(
        self,
        teacher: Teacher,
        *,
        lr: float = 0.4,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.student = fresh_encoder(teacher)
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.size_multiple = teacher.strides[-1]
        self.watch = _Pulse()
        self.freeze(teacher)

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Teacher's and student's levels of (B, 3, H, W) images, of length 1 over channels."""
        with torch.no_grad():
            targets = [_unit(level) for level in self.teacher(images)]
        return targets, [_unit(level) for level in self.student(images)]

    def distillation_loss(self, batch: Batch) -> Tensor:
        """Sum over levels of the mean squared distance: a scalar in [0, 12]."""
        targets, outputs = self.features(batch.images)
        losses = torch.stack(
            [squared_distance(a, b).mean() for a, b in zip(targets, outputs, strict=True)]
        )
        if self.training:
            self.watch.feel(targets, outputs, losses.detach())
        return losses.sum()

    def steps(self) -> list[Step]:
        """One: SGD on the student."""
        settings = {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay}
        return [
            Step(
                name="distil",
                groups=[group(self.student)],
                optimizer=OptimizerSpec("sgd", settings),
                loss=self.distillation_loss,
            )
        ]

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Product of the levels' squared distances, in [0, 64]: (B, H, W) float32.

        Multiplied at the shallowest level's size, then brought to that of the images.
        """
        targets, outputs = self.features(images)
        size = (targets[0].shape[-2], targets[0].shape[-1])
        product = torch.ones_like(targets[0][:, :1])
        for a, b in zip(targets, outputs, strict=True):
            product = product * _resize(squared_distance(a, b)[:, None], size)
        return _resize(product, (images.shape[-2], images.shape[-1]))[:, 0]


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared length of the difference over channels: (B, C, H, W) x 2 -> (B, H, W)."""
    return (a - b).square().sum(1)


def _unit(level: Tensor) -> Tensor:
    """Length 1 over channels, in float32 whatever the autocast."""
    return F.normalize(level.float(), dim=1)


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


class _Beat(NamedTuple):
    """What one batch shows of each level: (L,) each, on the device of the features.

    Attributes
    ----------
    loss
        Mean squared distance between student and teacher.
    constant
        What the best student that ignores the image would have: the same vector everywhere.
    alive, wanted
        Variance between the batch's images at the same position, of student and teacher.
    """

    loss: Tensor
    constant: Tensor
    alive: Tensor
    wanted: Tensor


class _Pulse:
    """The last batches of an epoch, and what they say of the student.

    Numbers stay on their device until somebody asks, so that training never waits for them.
    """

    def __init__(self) -> None:
        self.beats: deque[_Beat] = deque(maxlen=WINDOW)
        self.age = 0
        self.before: tuple[int, list[float]] | None = None

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # what it keeps outlives a graph
    @torch.no_grad()
    def feel(self, targets: list[Tensor], outputs: list[Tensor], losses: Tensor) -> None:
        """Note a batch. Features are of length 1."""
        self.age += 1
        constants, alive, wanted = [], [], []
        for target, output in zip(targets, outputs, strict=True):
            direction = F.normalize(target.mean((0, 2, 3), keepdim=True), dim=1)
            constants.append(squared_distance(target, direction).mean())
            alive.append(_spread(output))
            wanted.append(_spread(target))
        self.beats.append(
            _Beat(losses, torch.stack(constants), torch.stack(alive), torch.stack(wanted))
        )

    def fault(self) -> str | None:
        """What is wrong, and where; forgets the batches."""
        if not self.beats:
            return None
        # beats x 4 x levels -> four lists of levels
        # A resumed run's first ones lie on the CPU.
        shown = torch.stack([torch.stack(beat).cpu() for beat in self.beats]).mean(0).tolist()
        self.beats.clear()
        loss, constant, alive, wanted = shown
        stuck = self._stuck(loss)
        if self.age < GRACE:
            return None
        for level, value in enumerate(loss):
            if constant[level] < UNIFORM:
                continue
            if alive[level] < DEAD * wanted[level]:
                share = 100 * alive[level] / wanted[level]
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
        """As tensors and plain types."""
        beats = [torch.stack(beat).cpu() for beat in self.beats]
        return {"age": self.age, "before": self.before, "beats": beats}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.age, self.before = state["age"], state["before"]
        self.beats.clear()
        self.beats.extend(_Beat(*beat.unbind()) for beat in state["beats"])

    def _stuck(self, loss: list[float]) -> list[bool]:
        """Which levels' losses hardly fell since the last look, at least GRACE batches ago.

        With a low learning rate a healthy student is long worse than a constant, but it improves.
        """
        if self.before is None:
            self.before = (self.age, loss)
        age, before = self.before
        if self.age - age < GRACE:
            return [False] * len(loss)
        self.before = (self.age, loss)
        return [now > LEARNS * then for now, then in zip(loss, before, strict=True)]


def _spread(units: Tensor) -> Tensor:
    """Variance over the batch, summed over channels, mean over positions; 0 for one image."""
    return units.var(0, correction=0).sum(0).mean()
