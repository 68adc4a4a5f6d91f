"""Speed up the frozen teacher during training; if possible, run it only once per slice."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medrd.models.detector import Detector
from medrd.models.fused import fused
from medrd.run.device import Execution

MOST_BYTES = 2 << 30
"""Limit on the memory for features, besides an eighth of the machine's memory. At 256², the
embedded teacher needs 0.7 MB per slice. Features beyond the limit are computed each time."""

_AT_A_TIME = 4
"""In float32 on a CPU, the teacher always gets this many images at a time. They fit into the
caches, and the last bits of an image's features depend on their number, but not on the other
images."""

_TOLERANCE = 1e-4
"""Largest accepted difference of folded networks' features, as a share of the largest."""


class FrozenTeacher:
    """Stands in for a detector's frozen teacher while a batch is trained on.

    In float32 on a CPU, BatchNorm is folded into the convolutions: features differ from the
    teacher's own in their last bits. Features of the batch's healthy slices are kept for the
    iteration (a simulated anomaly may be invisible), and for all epochs if slices are not
    augmented. Kept features equal computed ones bit for bit, so a resumed training continues as if
    it had not been stopped.

    Parameters
    ----------
    execution
        Device, precision and memory format of the training.
    remember
        Whether a slice is the same in all epochs.
    share
        The share of the memory limit that this process may use.
    """

    def __init__(
        self, detector: Detector, execution: Execution, *, remember: bool, share: float = 1.0
    ) -> None:
        self._execution = execution
        self._network: nn.Module | None = None
        for network in detector.frozen:
            if network is getattr(detector, "teacher", None):
                self._network = network
        self._show = detector.shown_to_teacher
        self._plain = execution.device.type == "cpu" and not execution.bf16
        self._quick = self._network
        if self._plain and self._network is not None:
            self._quick = _folded(self._network, execution)
        self._room = int(share * min(MOST_BYTES, _memory() // 8)) if remember else 0
        self._features: dict[int, list[Tensor]] = {}

    @contextmanager
    def of_batch(self, images: Tensor, which: Sequence[int] | None) -> Iterator[None]:
        """Stand in for the teacher within the block.

        Parameters
        ----------
        images
            (B, C, H, W): the batch's healthy slices.
        which
            Their indices in the data set; None if their features should not be kept.
        """
        network = self._network
        if network is None or self._quick is None:
            yield
            return
        lesson = _Lesson(self, self._show(images), which)
        network.forward = lesson.levels
        try:
            yield
        finally:
            del network.forward

    def known(self, number: int) -> list[Tensor] | None:
        """The stored levels (C, H, W) of a slice."""
        return self._features.get(number)

    def remember(self, number: int, levels: list[Tensor]) -> None:
        """Store a slice's levels (C, H, W), if memory permits."""
        size = sum(level.numel() * level.element_size() for level in levels)
        if size <= self._room and number not in self._features:
            self._room -= size
            # Copies: a view of its batch's levels would keep all of them in memory.
            self._features[number] = [level.clone() for level in levels]

    def compute(self, images: Tensor) -> list[Tensor]:
        """The levels (B, C, H, W) of images."""
        assert self._quick is not None
        forward = type(self._quick).forward
        count = len(images)
        if not self._plain:
            return list(forward(self._quick, images))
        places = torch.arange(-(-count // _AT_A_TIME) * _AT_A_TIME) % count
        parts = [
            forward(self._quick, self._execution.laid_out(images[part]))
            for part in places.split(_AT_A_TIME)
        ]
        return [torch.cat(levels)[:count] for levels in zip(*parts, strict=True)]

    def stacked(self, rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """The levels of a batch from those of its images."""
        levels = [torch.stack(level) for level in zip(*rows, strict=True)]
        return [self._execution.laid_out(x) if x.dim() == 4 else x for x in levels]


class _Lesson:
    """The teacher for one batch; ``healthy`` are its slices as the teacher sees them."""

    def __init__(
        self, teacher: FrozenTeacher, healthy: Tensor, which: Sequence[int] | None
    ) -> None:
        self._teacher, self._healthy, self._which = teacher, healthy, which
        self._rows: dict[int, list[Tensor]] = {}
        for row, number in enumerate(which or ()):
            if (levels := teacher.known(number)) is not None:
                self._rows[row] = levels

    @torch.no_grad()
    def levels(self, images: Tensor) -> list[Tensor]:
        """The levels of images, some of which may be healthy slices of this batch."""
        healthy = self._healthy_rows(images)
        missing = [row for row in range(len(images)) if row not in healthy & self._rows.keys()]
        if len(missing) == len(images):
            computed = self._teacher.compute(images)
        elif missing:
            computed = self._teacher.compute(images[missing])
        rows = dict(self._rows)
        for place, row in enumerate(missing):
            rows[row] = [level[place] for level in computed]
            if row in healthy:
                self._rows[row] = rows[row]
                if self._which is not None:
                    self._teacher.remember(self._which[row], rows[row])
        if len(missing) == len(images):
            return computed
        return self._teacher.stacked([rows[row] for row in range(len(images))])

    def _healthy_rows(self, images: Tensor) -> set[int]:
        if images.shape != self._healthy.shape:
            return set()
        if images is self._healthy:
            return set(range(len(images)))
        same = (images == self._healthy).flatten(1).all(dim=1)
        return set(same.nonzero()[:, 0].tolist())


def _folded(network: nn.Module, execution: Execution) -> nn.Module:
    """The network with BatchNorm folded into convolutions, or unchanged if that brings nothing or
    fails."""
    if not any(isinstance(each, nn.BatchNorm2d) for each in network.modules()):
        return network
    quick = execution.place(fused(network))
    like = next(network.parameters())
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(like)
    with torch.no_grad():
        pairs = zip(network(noise), quick(noise), strict=True)
        apart = max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in pairs)
    return quick if apart <= _TOLERANCE else network


def _memory() -> int:
    """Bytes of the machine's memory; if unknown, enough for the limit."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 8 * MOST_BYTES
