"""Entropic optimal transport between small sets of points (Sinkhorn divergence).

Feydy et al., "Interpolating between Optimal Transport and MMD using Sinkhorn Divergences",
AISTATS 2019. Same quantity as ``SamplesLoss("sinkhorn", p=2, blur=blur, debias=True)`` of
their package geomloss; RD++ calls it with a scaling of 0.95 and a diameter of 1e7, which takes
more annealing steps for the same value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def sinkhorn_divergence(
    x: Tensor, y: Tensor, *, diameter: float, blur: float = 0.05, scaling: float = 0.9
) -> Tensor:
    """Debiased transport cost between equally weighted points: (B, N, D), (B, M, D) -> (B,).

    ``OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2`` with cost ``|a - b|^2 / 2`` and temperature
    ``blur ** 2``; zero for a set and the same set in another order. Everything is float32.

    Parameters
    ----------
    diameter
        No two points are farther apart; it need not be tight.
    blur
        Length below which points are indistinguishable.
    scaling
        Factor between the lengths of successive iterations, from ``diameter`` down to
        ``blur``: nearer to 1 is slower and more exact.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.float(), y.float()
        pairs = [_costs(x, y), _costs(x, x), _costs(y, y)]
        temperatures = _temperatures(diameter, blur, scaling)
        across, within_x, within_y = (_transport(costs, temperatures) for costs in pairs)
        return across - within_x / 2 - within_y / 2


def _costs(x: Tensor, y: Tensor) -> Tensor:
    """Half the squared distances: (B, N, D), (B, M, D) -> (B, N, M)."""
    # Centred, because sets far from the origin would lose small distances to rounding.
    centre = x.detach().mean(1, keepdim=True)
    x, y = x - centre, y - centre
    norms = x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None]
    return (norms / 2 - x @ y.mT).clamp(min=0)


def _transport(costs: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Entropic transport cost of each (N, M) matrix: (B, N, M) -> (B,).

    The potentials are found without gradient. By the envelope theorem the derivative of the
    optimal cost by the cost matrix is the plan, so the plan carries the gradient alone.
    """
    with torch.no_grad():
        fixed = costs.detach()
        f, g = torch.zeros_like(fixed[:, :, 0]), torch.zeros_like(fixed[:, 0])
        for temperature in temperatures:
            # Both at once and averaged, so that a symmetric problem stays symmetric.
            new_f = _soft_minimum(fixed - g[:, None], temperature, dim=2)
            new_g = _soft_minimum(fixed - f[:, :, None], temperature, dim=1)
            f, g = (f + new_f) / 2, (g + new_g) / 2
        temperature = temperatures[-1]
        f, g = (  # not averaged, so that each satisfies its own marginal
            _soft_minimum(fixed - g[:, None], temperature, dim=2),
            _soft_minimum(fixed - f[:, :, None], temperature, dim=1),
        )
        value = f.mean(1) + g.mean(1)
        exponent = (f[:, :, None] + g[:, None] - fixed) / temperature
        plan = exponent.flatten(1).softmax(1).view_as(fixed)  # of mass 1 for certain
    return value + (plan * (costs - fixed)).sum((1, 2))


def _temperatures(largest: float, blur: float, scaling: float) -> list[float]:
    """Squared lengths from ``diameter`` down to the blur, which is repeated."""
    lengths = []
    while blur < largest < math.inf:  # not finite, and neither is the result
        lengths.append(largest)
        largest *= scaling
    return [length**2 for length in [*lengths, blur, blur, blur]]


def _soft_minimum(costs: Tensor, temperature: float, *, dim: int) -> Tensor:
    """Soft minimum of equally weighted entries; the minimum as the temperature goes to 0."""
    count = math.log(costs.shape[dim])
    return -temperature * (torch.logsumexp(-costs / temperature, dim) - count)
