"""Lesions that look like gliomas, grown into slices and their neighbours.

A lesion is a three-dimensional ellipsoid with an irregular edge that may follow the tissues. Its
oedema reduces the contrast of the tissue and raises the intensity by about as much on FLAIR and T2
(and lowers it on T1). It may have a core of any brightness, with a bright rim on T1ce, and a second
part elsewhere. Nothing is taken from a patient: amounts are drawn evenly from wide ranges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medrd.config import ChannelLayout
from medrd.simulate.fields import bicubic, box_mean
from medrd.simulate.shapes import Draws, log_uniform, places, uniform

PARTS = 2
OUTLINED = 0.4
"""Cover from which on a lesion's soft border belongs to its label."""

_SECOND = 0.35  # of the lesions have a second part
_RADIUS_MM = (4.0, 38.0)
_ASPECT = 0.4  # axes differ by up to exp(2 x 0.4)
_BELOW = 0.6  # distance of the centre from the slice, in radii
_ROUGHNESS = 0.8
_FOLLOW = 0.25
_DETAIL_MM = 22.5  # tissue is what differs from a mean over a square this wide
_SOFTNESS = (0.05, 0.5)  # of the border, in radii
_SHIFT = (0.06, 0.45)  # of intensities in [0, 1], where a median brain has about 0.4
_DARK = 0.2  # share of the lesions that go the other way
_RIMMED = ("t1ce", "t1c", "t1gd")
_OTHER_WAY = dict.fromkeys(("t1", *_RIMMED), -0.5)
_FLATTENED = (0.0, 0.7)
_UNEVENNESS = 0.3
_CORED = 0.5
_REACH = (0.3, 0.8)
_CORE_EDGE = 0.06
_CORE_LEVEL = (0.05, 0.95)
_CORE_UNEVENNESS = 0.12
_WITH_RIM = 0.7
_RIM = (0.1, 0.6)
_RIM_WIDTH = 0.08
_GRAIN = 3  # pixels: what differs from a mean over this square is grain
_MOST_GRAIN = 0.05  # what differs more is an edge of tissue

# Noise: octaves on ever finer lattices, and how fast it changes from slice to slice.
_LATTICES = (4, 8, 16, 32)
_HEIGHTS = (0.83, 0.42, 0.29, 0.17)
_PLANES = 2
_TURN_MM = 6.0


@dataclass(frozen=True, eq=False)
class LesionDraws(Draws):
    """The random numbers that, with the images, determine a batch of lesions.

    P are parts, M modalities.

    Attributes
    ----------
    present
        (B, P) bool.
    place
        (B, P) position of the centre, as a share of the region's pixels.
    radius_mm, turn, below
        (B, P) mean half-axis, direction in the slice (radians), height over the slice (radii).
    aspect
        (B, P, 3) half-axes over the mean one.
    roughness, follow, softness
        (B, P) of the edge: noise, how much tissue draws it (either way), width; in radii.
    shift
        (B, P, M) increase of intensity by oedema.
    flattened
        (B, P) share of the tissue contrast that oedema removes.
    reach
        (B, P) ratio of the core's radius to the lesion's; 0 without a core.
    level
        (B, P, M) brightness of the core.
    rim
        (B, P) brightness of the core's rim on scans with contrast agent.
    edge, oedema, core
        (B, P, 2, N) standard normal: noise of the edge, of the oedema and of the core.
    """

    present: Tensor
    place: Tensor
    radius_mm: Tensor
    turn: Tensor
    below: Tensor
    aspect: Tensor
    roughness: Tensor
    follow: Tensor
    softness: Tensor
    shift: Tensor
    flattened: Tensor
    reach: Tensor
    level: Tensor
    rim: Tensor
    edge: Tensor
    oedema: Tensor
    core: Tensor


def draw_lesions(
    count: int, modalities: tuple[str, ...], generator: torch.Generator
) -> LesionDraws:
    """Draw ``count`` lesions for images of these modalities."""
    parts = (count, PARTS)
    signs = torch.tensor([_OTHER_WAY.get(name, 1.0) for name in modalities])
    amount = uniform(generator, *parts, 1, low=_SHIFT[0], high=_SHIFT[1])
    of_modality = uniform(generator, *parts, len(modalities), low=0.6, high=1.2)
    way = 1 - 2 * (uniform(generator, *parts, 1) < _DARK).float()
    aspect = uniform(generator, *parts, 3, low=-_ASPECT, high=_ASPECT)
    points = sum(side * side for side in _LATTICES)
    cored = uniform(generator, *parts) < _CORED
    rimmed = uniform(generator, *parts) < _WITH_RIM
    return LesionDraws(
        present=uniform(generator, *parts) < torch.tensor([1.0] + [_SECOND] * (PARTS - 1)),
        place=uniform(generator, *parts),
        radius_mm=log_uniform(generator, *parts, low=_RADIUS_MM[0], high=_RADIUS_MM[1]),
        turn=uniform(generator, *parts, high=math.pi),
        below=uniform(generator, *parts, low=-_BELOW, high=_BELOW),
        aspect=(aspect - aspect.mean(dim=2, keepdim=True)).exp(),
        roughness=uniform(generator, *parts, high=_ROUGHNESS),
        follow=uniform(generator, *parts, low=-_FOLLOW, high=_FOLLOW),
        softness=uniform(generator, *parts, low=_SOFTNESS[0], high=_SOFTNESS[1]),
        shift=amount * of_modality * way * signs,
        flattened=uniform(generator, *parts, low=_FLATTENED[0], high=_FLATTENED[1]),
        reach=uniform(generator, *parts, low=_REACH[0], high=_REACH[1]) * cored,
        level=uniform(generator, *parts, len(modalities), low=_CORE_LEVEL[0], high=_CORE_LEVEL[1]),
        rim=uniform(generator, *parts, low=_RIM[0], high=_RIM[1]) * rimmed,
        edge=torch.randn(*parts, _PLANES, points, generator=generator),
        oedema=torch.randn(*parts, _PLANES, points, generator=generator),
        core=torch.randn(*parts, _PLANES, points, generator=generator),
    )


def grow_lesions(
    draws: LesionDraws, stack: Tensor, inside: Tensor, layout: ChannelLayout
) -> tuple[Tensor, Tensor]:
    """Put the lesions into a batch of stacks.

    Parameters
    ----------
    stack
        (N, K, M, H, W) in [0, 1]: slices at the layout's offsets.
    inside
        (N, K, H, W) bool: where lesions may be.

    Returns
    -------
    changed
        As ``stack``.
    cover
        (N, H, W) in [0, 1]: how much of the first slice, the one at offset 0, is lesion.
    """
    changed, total = stack, torch.zeros_like(stack[:, 0, 0])
    within = inside.to(stack.dtype)
    for part in range(PARTS):
        radii = _radii(draws, part, changed[:, :, 0], inside, layout)
        edge = (1 - radii) * (2.2 / draws.softness[:, part, None, None, None])
        cover = edge.sigmoid_() * within * draws.present[:, part, None, None, None]
        look = _look(draws, part, changed, cover, radii, layout)
        changed = torch.lerp(changed, look, cover[:, :, None])
        total = torch.maximum(total, cover[:, 0])
    return changed, total


def _radii(
    draws: LesionDraws, part: int, tissue: Tensor, inside: Tensor, layout: ChannelLayout
) -> Tensor:
    """(N, K, H, W): distance from the middle, 1 about where the edge is."""
    height, width = tissue.shape[2:]
    device = tissue.device
    row, column = places(inside[:, 0], draws.place[:, part : part + 1])
    y = (torch.arange(height, device=device) - row)[:, :, None] * layout.pixel_mm
    x = (torch.arange(width, device=device) - column)[:, None, :] * layout.pixel_mm
    cos, sin = (f(draws.turn[:, part])[:, None, None] for f in (torch.cos, torch.sin))
    axes = (draws.aspect[:, part] * draws.radius_mm[:, part, None])[:, :, None, None]
    flat = ((cos * x + sin * y) / axes[:, 0]) ** 2 + ((cos * y - sin * x) / axes[:, 1]) ** 2
    offsets = torch.tensor(layout.offsets_mm, device=device)
    z = offsets + (draws.below * draws.radius_mm)[:, part, None]
    radii = (flat[:, None] + (z / axes[:, 2, 0])[:, :, None, None] ** 2).sqrt()
    noise = _noise(draws.edge[:, part], (height, width), layout)
    radii = radii + draws.roughness[:, part, None, None, None] * noise
    return radii + draws.follow[:, part, None, None, None] * _detail(tissue, inside, layout)


def _detail(tissue: Tensor, inside: Tensor, layout: ChannelLayout) -> Tensor:
    """(N, K, H, W) in [-2, 2]: brightness relative to the surroundings, in standard deviations."""
    side = 2 * max(1, round(_DETAIL_MM / layout.pixel_mm / 2)) + 1
    side = min(side, 2 * (min(tissue.shape[2:]) // 2) - 1)
    fine = tissue - box_mean(tissue, side)
    count = inside.sum(dim=(1, 2, 3), keepdim=True) + 1
    spread = ((fine.square() * inside).sum(dim=(1, 2, 3), keepdim=True) / count).sqrt()
    return (fine / (spread + 1e-3)).clamp_(-2, 2)


def _look(
    draws: LesionDraws,
    part: int,
    stack: Tensor,
    cover: Tensor,
    radii: Tensor,
    layout: ChannelLayout,
) -> Tensor:
    """(N, K, M, H, W) in [0, 1]: the appearance of the lesion where it covers the image."""
    size = (stack.shape[3], stack.shape[4])
    weight = cover[:, :, None]
    area = weight.sum(dim=(1, 3, 4), keepdim=True).clamp(min=1e-6)
    mean = (stack * weight).sum(dim=(1, 3, 4), keepdim=True) / area

    def of_part(values: Tensor) -> Tensor:
        return values[:, part].reshape(len(stack), 1, -1, 1, 1)

    # The grain of the image stays, because the lesion replaces tissue, not scanner noise.
    coarse = F.avg_pool2d(stack.flatten(0, 1), _GRAIN, 1, _GRAIN // 2).view_as(stack)
    grain = (stack - coarse).clamp(-_MOST_GRAIN, _MOST_GRAIN)
    noise = _noise(draws.oedema[:, part], size, layout)[:, :, None]
    look = torch.lerp(coarse, mean, of_part(draws.flattened))
    look = look + of_part(draws.shift) * (1 + _UNEVENNESS * noise)
    reach = draws.reach[:, part, None, None, None]
    share = ((reach - radii) / _CORE_EDGE).sigmoid_() * (reach > 0)
    noise = _noise(draws.core[:, part], size, layout)[:, :, None]
    look = torch.lerp(look, of_part(draws.level) + _CORE_UNEVENNESS * noise, share[:, :, None])
    rim = torch.exp(-(((radii - reach) / _RIM_WIDTH) ** 2)) * (reach > 0)
    for number, name in enumerate(layout.modalities):
        if name in _RIMMED:
            look[:, :, number] += rim * draws.rim[:, part, None, None, None]
    return (look + grain).clamp_(0, 1)


def _noise(lattices: Tensor, size: tuple[int, int], layout: ChannelLayout) -> Tensor:
    """(N, 2, points) -> (N, K, H, W) with a deviation near 1/2, similar in nearby slices."""
    octaves = lattices.split([side * side for side in _LATTICES], dim=2)
    field = lattices.new_zeros(1)
    for side, height, values in zip(_LATTICES, _HEIGHTS, octaves, strict=True):
        plane = height * values.unflatten(2, (side, side))
        if side > _LATTICES[0]:
            plane = plane + bicubic(field, (side, side))
        field = plane
    field = bicubic(field, size)
    turn = torch.tensor(layout.offsets_mm, device=field.device)[:, None, None] / _TURN_MM
    return field[:, :1] * turn.cos() + field[:, 1:] * turn.sin()
