"""Shapes of anomalies: random outlines inside a region, a batch at a time.

``perlin`` is the mask of DRAEM (Zavrtanik et al., ICCV 2021), also used by DeSTSeg and RD with
Expert: noise with 2^k cells per axis, k from 0 to 5, rotated by up to 90 degrees, above 0.5.
``simplex`` is the same with simplex noise, which has no preferred axes, and a threshold that the
same share of pixels exceeds. ``ellipsoid`` and ``blob`` (one ellipse with an irregular edge) are
single and round, like lesions, with the sizes of gliomas in slices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from medrd.simulate.fields import PERIOD, perlin, rotate, simplex, turned_grid

SHAPES = ("perlin", "simplex", "ellipsoid", "blob")

_LARGEST_EXPONENT = 5
_THRESHOLD = 0.5
_SIMPLEX_THRESHOLD = 0.83  # as rare as 0.5 is in Perlin noise: 5 % of all pixels
_MOST_ELLIPSES = 3
# Larger half-axes in pixels at 256² of 240 mm: lesions of 11 to 68 mm, as gliomas in slices are.
_RADIUS_PX = (6.0, 36.0)
_LEAST_ASPECT = 0.45
_PLACES_ASIDE = 64  # places are chosen on a grid this fine, which avoids sums over all pixels


class Draws:
    """Base of the random numbers of a batch: tensors whose first axis is the sample."""

    if TYPE_CHECKING:
        __dataclass_fields__: dict[str, object]

    def of(self, samples: Tensor, device: torch.device) -> Self:
        """Select the draws of some samples, on a device."""
        drawn = [getattr(self, f.name) for f in fields(self)]  # type: ignore[arg-type]
        index = samples.to(drawn[0].device)
        picked = [values[index] for values in drawn]
        if drawn[0].device != device:
            picked = unpack(pack(picked).to(device), picked)
        return type(self)(*picked)


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """Pack tensors into one (B, N): one copy to a GPU is much faster than twenty small ones."""
    # float64 holds whole numbers, booleans and float32 exactly
    return torch.cat([each.reshape(len(each), -1).double() for each in tensors], 1)


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Invert :func:`pack`; shapes and types are those of ``like``, the tensors that were packed."""
    widths = [each[0].numel() for each in like]
    return [
        part.reshape(each.shape).to(each.dtype)
        for part, each in zip(packed.split(widths, 1), like, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class ShapeDraws(Draws):
    """The random numbers that, with the region, determine the shapes of a batch.

    Every sample has draws for every kind of shape, so that a sample does not depend on the kinds of
    the others.

    Attributes
    ----------
    kind
        (B,) position in the simulator's shapes.
    angles
        (B, PERIOD, PERIOD) of a noise's gradients.
    cells
        (B, 2) of the noise, along y and x.
    turn
        (B,) of the noise, radians.
    ellipses
        (B,) number of ellipses.
    place, radius, aspect, axis
        (B, 3) of each ellipse: position (a share of the region's pixels), larger half-axis in
        pixels at 256², ratio of the smaller half-axis to it, and its direction in radians.
    roughness, grain
        (B,) of a blob's edge: height in radii, and length of its waves in radii.
    """

    kind: Tensor
    angles: Tensor
    cells: Tensor
    turn: Tensor
    ellipses: Tensor
    place: Tensor
    radius: Tensor
    aspect: Tensor
    axis: Tensor
    roughness: Tensor
    grain: Tensor


def uniform(generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform numbers, float32 on the CPU."""
    return torch.rand(shape, generator=generator) * (high - low) + low


def log_uniform(generator: torch.Generator, *shape: int, low: float, high: float) -> Tensor:
    """Numbers whose logarithm is uniform."""
    return uniform(generator, *shape, low=math.log(low), high=math.log(high)).exp()


def integers(generator: torch.Generator, *shape: int, below: int) -> Tensor:
    """Whole numbers from 0, int64 on the CPU."""
    return torch.randint(below, shape, generator=generator)


def draw_shapes(count: int, kinds: int, generator: torch.Generator) -> ShapeDraws:
    """Draw ``count`` samples of one of ``kinds`` shapes each."""
    return ShapeDraws(
        kind=integers(generator, count, below=kinds),
        angles=uniform(generator, count, PERIOD, PERIOD, high=2 * math.pi),
        cells=(2 ** integers(generator, count, 2, below=_LARGEST_EXPONENT + 1)).float(),
        turn=uniform(generator, count, low=-math.pi / 2, high=math.pi / 2),
        ellipses=1 + integers(generator, count, below=_MOST_ELLIPSES),
        place=uniform(generator, count, _MOST_ELLIPSES),
        radius=log_uniform(generator, count, _MOST_ELLIPSES, low=_RADIUS_PX[0], high=_RADIUS_PX[1]),
        aspect=uniform(generator, count, _MOST_ELLIPSES, low=_LEAST_ASPECT),
        axis=uniform(generator, count, _MOST_ELLIPSES, high=math.pi),
        roughness=uniform(generator, count, low=0.4, high=1.0),
        grain=uniform(generator, count, low=0.6, high=1.2),
    )


def groups(kind: Tensor, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Each name that occurs, with the samples (on the CPU) that drew it."""
    kind = kind.cpu()
    for number, name in enumerate(names):
        samples = (kind == number).nonzero()[:, 0]
        if len(samples):
            yield name, samples


def make_shapes(draws: ShapeDraws, shapes: Sequence[str], region: Tensor) -> Tensor:
    """(B, H, W) bool: the drawn shapes within ``region``, on its device."""
    made = torch.zeros_like(region)
    for name, samples in groups(draws.kind, shapes):
        part = draws.of(samples, region.device)
        where = samples.to(region.device)
        made[where] = _MAKERS[name](part, region[where])
    return made & region


def _perlin(draws: ShapeDraws, region: Tensor) -> Tensor:
    size = (region.shape[1], region.shape[2])
    points = 2**_LARGEST_EXPONENT + 1
    noise = perlin(draws.angles[:, :points, :points], draws.cells, _coarse(size))
    return rotate(noise, draws.turn, size) > _THRESHOLD


def _simplex(draws: ShapeDraws, region: Tensor) -> Tensor:
    size = (region.shape[1], region.shape[2])
    y, x = turned_grid(draws.turn, _coarse(size))
    cells = draws.cells[:, :, None, None]
    noise = simplex(draws.angles, y * cells[:, 0], x * cells[:, 1])
    return F.interpolate(noise[:, None], size, mode="bilinear")[:, 0] > _SIMPLEX_THRESHOLD


def _coarse(size: tuple[int, int]) -> tuple[int, int]:
    """The size at which noise is computed: four pixels for the finest cell are enough."""
    step = max(1, min(size) // (4 * 2**_LARGEST_EXPONENT))
    return size[0] // step, size[1] // step


def _ellipsoid(draws: ShapeDraws, region: Tensor) -> Tensor:
    squared = _squared_radius(draws, region, _MOST_ELLIPSES)
    covered = squared[:, 0] < 1
    for number in range(1, _MOST_ELLIPSES):
        drawn = (draws.ellipses > number)[:, None, None]
        covered |= (squared[:, number] < 1) & drawn
    return covered


def _blob(draws: ShapeDraws, region: Tensor) -> Tensor:
    size = (region.shape[1], region.shape[2])
    # The noise is in pixels at 256², so that its wavelength scales with the radius.
    cells = 256 / (draws.grain * draws.radius[:, 0])
    noise = perlin(draws.angles, cells[:, None].expand(-1, 2).clamp(max=PERIOD - 1), size)
    edge = 1 + draws.roughness[:, None, None] * noise
    return _squared_radius(draws, region, 1)[:, 0].sqrt() < edge


_MAKERS = {"perlin": _perlin, "simplex": _simplex, "ellipsoid": _ellipsoid, "blob": _blob}


def _squared_radius(draws: ShapeDraws, region: Tensor, count: int) -> Tensor:
    """(N, count, H, W): squared distance from an ellipse's centre, 1 on its edge."""
    _, height, width = region.shape
    centre_y, centre_x = places(region, draws.place[:, :count])
    scale = min(height, width) / 256
    major = draws.radius[:, :count] * scale
    minor = major * draws.aspect[:, :count]
    cos, sin = draws.axis[:, :count].cos(), draws.axis[:, :count].sin()
    yy = (sin / major).square() + (cos / minor).square()
    xx = (cos / major).square() + (sin / minor).square()
    yx = 2 * sin * cos * (major.pow(-2) - minor.pow(-2))
    y = torch.arange(height, device=region.device) - centre_y[..., None]
    x = torch.arange(width, device=region.device) - centre_x[..., None]
    # yy y² + yx y x + xx x², as a matrix product of three columns with three rows
    left = torch.stack([yy[..., None] * y * y, yx[..., None] * y, torch.ones_like(y)], dim=-1)
    right = torch.stack([torch.ones_like(x), x, xx[..., None] * x * x], dim=-2)
    return left @ right


def places(region: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels at these shares of the region, in reading order: rows and columns, (N, K) each."""
    step = max(1, min(region.shape[1], region.shape[2]) // _PLACES_ASIDE)
    coarse = region[:, step // 2 :: step, step // 2 :: step]
    before = coarse.flatten(1).cumsum(dim=1)
    wanted = (share * before[:, -1:]).long() + 1
    at = torch.searchsorted(before, wanted).clamp(max=before.shape[1] - 1)
    row = at.div(coarse.shape[2], rounding_mode="floor")
    return row * step + step // 2, at % coarse.shape[2] * step + step // 2
