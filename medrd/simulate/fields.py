"""Batched random fields on any device: Perlin and simplex noise, and a blur whose width varies.

Everything here is a deterministic function of small tensors (angles of lattice gradients, sizes
of cells). Callers draw those on the CPU, so that a GPU makes the same fields up to rounding.

Perlin, "Improving Noise", SIGGRAPH 2002 (the quintic fade); Perlin, "Noise hardware", 2001
(simplex noise).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PERIOD = 64
"""Lattice points per side of :func:`simplex`'s gradients; the noise repeats after this many
cells."""

_BLOCK = 32  # pixels that a blur works out at once

_SKEW = (math.sqrt(3) - 1) / 2  # from the triangular grid to the square one
_UNSKEW = (3 - math.sqrt(3)) / 6
_SIMPLEX_SCALE = 99.2  # brings the largest value that unit gradients can give to 1


def perlin(angles: Tensor, cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Perlin noise, with a number of lattice cells along each axis for each sample.

    Parameters
    ----------
    angles
        (N, L, L) directions in radians of the gradients at lattice points (row, column).
    cells
        (N, 2) cells along y and x, at most L - 1.
    size
        Height and width in pixels.

    Returns
    -------
    (N, H, W) float32 in [-1, 1], 0 at lattice points.
    """
    return fractal([angles], cells, size, persistence=1.0)


def fractal(
    angles: Sequence[Tensor], cells: Tensor, size: tuple[int, int], *, persistence: float
) -> Tensor:
    """Octaves of Perlin noise, each with twice the cells and a lower height than the one before.

    For each sample and octave, noise is a sum over lattice points of a weight along y times a
    weight along x. One thin matrix product for all octaves replaces gathers for each pixel.

    Parameters
    ----------
    angles
        Angles for each octave (N, L, L), as :func:`perlin`'s.
    cells
        (N, 2) of the first octave; 2^i times as many in octave i must fit its lattice.
    persistence
        Height of an octave over that of the one before.

    Returns
    -------
    (N, H, W) float32 in [-1, 1].
    """
    total = sum(persistence**octave for octave in range(len(angles)))
    left, right = [], []
    for octave, turned in enumerate(angles):
        (weight_y, slope_y), (weight_x, slope_x) = (
            _axis_weights(2**octave * cells[:, axis], size[axis], turned.shape[1 + axis])
            for axis in range(2)
        )
        height = math.sqrt(2) * persistence**octave / total
        left += [slope_y @ (turned.sin() * height), weight_y @ (turned.cos() * height)]
        right += [weight_x, slope_x]
    return torch.bmm(torch.cat(left, dim=2), torch.cat(right, dim=2).mT)


def _axis_weights(cells: Tensor, length: int, points: int) -> tuple[Tensor, Tensor]:
    """(N, length, points): each lattice point's weight at each pixel, and it times the offset."""
    pixel = torch.arange(length, device=cells.device)
    lattice = torch.arange(points, device=cells.device)
    offset = (pixel * (cells / length)[:, None])[..., None] - lattice
    t = offset.abs().clamp_(max=1)
    weight = 1 - t * t * t * (t * (6 * t - 15) + 10)
    return weight, weight * offset


def rotate(fields: Tensor, turn: Tensor, size: tuple[int, int]) -> Tensor:
    """Turn (N, h, w) fields by (N,) radians about their centres and enlarge them to ``size``.

    Corners are filled by mirroring.
    """
    y, x = turned_grid(turn, size)
    grid = torch.stack([x, y], dim=-1).mul_(2)
    turned: Tensor = F.grid_sample(
        fields[:, None], grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return turned[:, 0]


def turned_grid(turn: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of the pixels' centres after a turn: (N, H, W) each, [-1/2, 1/2] upright."""
    rows, columns = (
        (torch.arange(length, device=turn.device) + 0.5) / length - 0.5 for length in size
    )
    y, x = rows[:, None], columns[None, :]
    cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
    return cos * y - sin * x, sin * y + cos * x


def simplex(angles: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Two-dimensional simplex noise at given points.

    Parameters
    ----------
    angles
        (N, PERIOD, PERIOD) directions of the gradients in radians.
    y, x
        (N, H, W) where to evaluate, in cells; any sign.

    Returns
    -------
    (N, H, W) float32 in [-1, 1].
    """
    shape = y.shape
    y, x = y.flatten(1), x.flatten(1)
    gradient_y, gradient_x = angles.sin().flatten(1), angles.cos().flatten(1)
    skew = (y + x) * _SKEW
    row, column = (y + skew).floor_(), (x + skew).floor_()
    unskew = (row + column) * _UNSKEW
    dy, dx = y - row + unskew, x - column + unskew
    row, column = row.long(), column.long()
    # Two triangles share a cell of the skewed square grid; the middle corner tells which.
    lower = (dy > dx).long()
    total = torch.zeros_like(y)
    zero, one = torch.zeros_like(lower[:, :1]), torch.ones_like(lower[:, :1])
    for number, (step_y, step_x) in enumerate(((zero, zero), (lower, 1 - lower), (one, one))):
        off_y = (dy - step_y).add_(number * _UNSKEW)
        off_x = (dx - step_x).add_(number * _UNSKEW)
        at = ((row + step_y) & (PERIOD - 1)).mul_(PERIOD).add_((column + step_x) & (PERIOD - 1))
        near = (off_y.square() + off_x.square()).neg_().add_(0.5).clamp_(min=0).square_().square_()
        slope = (gradient_y.gather(1, at) * off_y).addcmul_(gradient_x.gather(1, at), off_x)
        total.addcmul_(near, slope, value=_SIMPLEX_SCALE)
    return total.reshape(shape)


def blur(images: Tensor, sigma_px: Tensor, *, most_px: float) -> Tensor:
    """Gaussian blur with a width for each image, cut off at 3 sigma; borders are replicated.

    The pixels of a block of rows depend on few others, with the same weights for every block: one
    small matrix product per block, which on the CPU is faster than a convolution.

    Parameters
    ----------
    images
        (N, H, W).
    sigma_px
        (N,) in pixels; 0 changes nothing.
    most_px
        A bound on ``sigma_px`` that is known without a transfer from the device.
    """
    reach = math.ceil(3 * most_px)
    away = torch.arange(-reach, reach + 1, device=sigma_px.device)
    sigma = sigma_px[:, None].clamp(min=1e-3)
    kernel = torch.exp(-0.5 * (away / sigma).square()) * (away.abs() <= 3 * sigma)
    kernel /= kernel.sum(dim=1, keepdim=True)
    # Row i of a block reads from its i-th pixel on: the same kernel, moved on by one each row.
    # unfold moves it the other way, hence the flip.
    spread = F.pad(kernel, (_BLOCK - 1, _BLOCK - 1))
    band = spread.unfold(1, _BLOCK + 2 * reach, 1).flip(1)
    for dim in (1, 2):
        sides = (0, 0, reach, reach) if dim == 1 else (reach, reach, 0, 0)
        padded = F.pad(images[:, None], sides, mode="replicate")[:, 0]
        images = torch.empty_like(images)
        for first in range(0, images.shape[dim], _BLOCK):
            count = min(_BLOCK, images.shape[dim] - first)
            weights = band[:, :count, : count + 2 * reach]
            near = padded.narrow(dim, first, count + 2 * reach)
            block = weights @ near if dim == 1 else near @ weights.mT
            images.narrow(dim, first, count).copy_(block)
    return images


def box_mean(images: Tensor, side: int) -> Tensor:
    """Mean over a square of this odd side around each pixel of (..., H, W); 0 counts beyond.

    On a CPU, two products with matrices of 0 and 1 are several times as fast as pooling.
    """
    near = [
        (torch.arange(length)[:, None] - torch.arange(length)).abs() <= side // 2
        for length in images.shape[-2:]
    ]
    rows, columns = (each.to(images) / side for each in near)
    return rows @ images @ columns


def bicubic(fields: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge (..., h, w) to (..., H, W) like F.interpolate with aligned corners, but faster."""
    rows, columns = (
        _bicubic_weights(small, large).to(fields)
        for small, large in zip(fields.shape[-2:], size, strict=True)
    )
    return rows @ fields @ columns.mT


@functools.cache
def _bicubic_weights(small: int, large: int) -> Tensor:
    """(large, small): the weights of the original values along one axis."""
    each = torch.eye(small)[None, None]
    return F.interpolate(each, (large, small), mode="bicubic", align_corners=True)[0, 0]
