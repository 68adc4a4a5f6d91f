"""Figures that run along with training: the scale of healthy maps, and the spread of features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNIFORM = 1e-3
"""A reference whose spread is below this has seen nothing but one flat image."""


class RunningScale(nn.Module):
    """Mean and standard deviation of maps of healthy slices, inside their region.

    The plain mean over the first batches, then an exponential one, so that the beginning of the
    training is forgotten. Outside training they stay as they are.

    Parameters
    ----------
    momentum
        Weight of a new batch.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, momentum: float = 0.01) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("batches", torch.zeros(()))

    @torch.no_grad()
    def update(self, maps: Tensor, region: Tensor) -> None:
        """Take in (B, H, W) maps and their region; a batch without any region says nothing."""
        if not self.training:
            return
        inside = region.to(maps.dtype)
        count = inside.sum()
        some = (count > 0).to(maps.dtype)
        mean = (maps * inside).sum() / count.clamp(min=1)
        variance = ((maps - mean).square() * inside).sum() / count.clamp(min=1)
        self.batches += some
        weight = some * torch.clamp(1 / self.batches.clamp(min=1), min=self.momentum)
        self.mean += weight * (mean - self.mean)
        self.variance += weight * (variance - self.variance)

    def forward(self, maps: Tensor) -> Tensor:
        """z-normalised maps."""
        return (maps - self.mean) / self.variance.clamp(min=1e-12).sqrt()


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
        self.shares[name] = share if old is None else old.lerp(share, self.memory)

    def fault(self) -> str | None:
        """Which network has collapsed, and at which level; None if none has."""
        for name, shares in self.shares.items():
            for level, share in enumerate(shares.tolist(), start=1):
                if not share >= self.limit:
                    return (
                        f"a collapsed {name}: at level {level} its features vary "
                        f"{100 * share:.2g} % as much as the pretrained network's"
                    )
        return None


def spread(level: Tensor) -> Tensor:
    """Standard deviation of unit feature vectors over images and positions, as one number.

    (B, C, H, W) -> scalar: the root of the variance summed over channels; 0 for a constant.
    """
    units = F.normalize(level.detach().float(), dim=1)
    return units.var((0, 2, 3), correction=0).sum().sqrt()
