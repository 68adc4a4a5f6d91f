"""What is known of features and maps on healthy slices: their scale, and whether they vary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNIFORM = 1e-3
"""A reference whose spread is below this has seen nothing but one flat image."""


class Watch(Protocol):
    """What sees a detector's features during training and says when they have gone wrong."""

    def fault(self) -> str | None:
        """What is wrong, in words."""
        ...

    def state(self) -> dict[str, Any]:
        """What it judges by, as tensors and plain types."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        ...


class HealthyScale(nn.Module):
    """Brings maps to units of their standard deviation on healthy slices, inside their region.

    The mean is not taken off: where maps are summed it is one constant, and maps that are not
    negative stay so.
    """

    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("std", torch.ones(()))
        self._sums: Tensor | None = None

    @torch.no_grad()
    def add(self, maps: Tensor, region: Tensor) -> None:
        """Take in (B, H, W) maps of healthy slices and their region."""
        values = maps[region].double()
        sums = torch.stack([values.new_tensor(len(values)), values.sum(), values.square().sum()])
        self._sums = sums if self._sums is None else self._sums + sums

    def finish(self) -> None:
        """All maps have been added. Without any pixel among them the scale stays 1."""
        if self._sums is None or not self._sums[0]:
            return
        count, total, squares = self._sums
        variance = (squares / count - (total / count).square()).clamp(min=1e-12)
        self.std.copy_(variance.sqrt())
        self._sums = None

    def forward(self, maps: Tensor) -> Tensor:
        """Maps over their healthy standard deviation."""
        return maps / self.std


class CollapseWatch:
    """How much the directions of features vary, beside those of a reference that cannot collapse.

    A network that says the same everywhere has spread 0. Lengths don't count, since cosine
    losses leave them free. Numbers stay on their device until somebody asks.

    Parameters
    ----------
    limit
        Share of the reference's spread below which a network has collapsed.
    memory
        Weight of a new batch in the running shares.
    """

    def __init__(self, *, limit: float = 0.05, memory: float = 0.1) -> None:
        self.limit = limit
        self.memory = memory
        self.shares: dict[str, Tensor] = {}

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # what it keeps outlives a graph
    @torch.no_grad()
    def see(self, name: str, levels: Sequence[Tensor], reference: Sequence[Tensor]) -> None:
        """Note a batch's levels of the network of this name, and the reference's."""
        own = torch.stack([spread(level) for level in levels])
        other = torch.stack([spread(level) for level in reference])
        # Of images that are all alike nothing can be learnt, about a collapse either.
        share = torch.where(other > UNIFORM, own / other.clamp(min=UNIFORM), 1.0)
        old = self.shares.get(name)
        self.shares[name] = share if old is None else old.to(share).lerp(share, self.memory)

    def state(self) -> dict[str, Tensor]:
        """The running shares, by network."""
        return {name: share.cpu() for name, share in self.shares.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`state`."""
        self.shares = dict(state)

    def fault(self) -> str | None:
        """Which network has collapsed, and at which level; None if none has."""
        for name, shares in self.shares.items():
            for level, share in enumerate(shares.tolist(), start=1):
                if not share >= self.limit:
                    return (
                        f"a collapsed {name}: at level {level} its features vary "
                        f"{100 * share:.2g} % as much as those it is to match"
                    )
        return None


def spread(level: Tensor) -> Tensor:
    """Standard deviation of unit feature vectors over images and positions, as one number.

    (B, C, H, W) -> scalar: the root of the variance summed over channels; 0 for a constant.
    """
    units = F.normalize(level.detach().float(), dim=1)
    return units.var((0, 2, 3), correction=0).sum().sqrt()
