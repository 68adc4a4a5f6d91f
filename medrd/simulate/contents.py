"""Contents of anomalies, which replace the healthy image, a batch at a time.

``slice`` is another sample's image; ``brighter`` and ``darker`` are unevenly raised and lowered
intensities with flattened contrast, as oedema, necrosis or a stain show; ``texture`` stands for the
texture photographs of DRAEM's successors, made procedurally; ``deform`` pushes the image away from
the anomaly's middle, as a mass does. ``lesion`` is made elsewhere, including its shape:
:mod:`medrd.simulate.lesions`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medrd.simulate.fields import PERIOD, blur, fractal, turned_grid
from medrd.simulate.shapes import Draws, groups, integers, log_uniform, uniform

CONTENTS = ("slice", "brighter", "darker", "texture", "deform", "lesion")
"""All but the last are as published: unlike anything healthy, but hardly like a lesion."""
TEXTURES = ("waves", "checks", "clouds", "speckle")

_AMOUNT = (0.3, 0.95)
_UNEVENNESS = 1.5
_CELLS = (2.0, 4.8)  # of the first of the noise's three octaves
_LARGEST_SHIFT = 0.08  # of another slice, as a share of the image's size
_WAVE_PX = (5.0, 40.0)  # at 256²
_GRAIN_PX = (1.0, 4.0)
_REACH_PX = (4.0, 12.0)  # sigma of the field that a deformation follows, at 256²


@dataclass(frozen=True, eq=False)
class ContentDraws(Draws):
    """The random numbers that, with the images, determine the contents of a batch.

    Attributes
    ----------
    kind
        (B,) position in the simulator's contents.
    source
        (B,) the sample whose image ``slice`` shows: another one, if there is one.
    flip, shift
        (B,) bool and (B, 2) share of the image's size: flip and shift of that image.
    lattice
        (B, PERIOD, PERIOD) uniform in [0, 1): gradients of noise, or grains.
    cells
        (B,) of the noise's first octave.
    amount
        (B, C) how far ``brighter`` and ``darker`` go towards white and black.
    texture
        (B,) position in :data:`TEXTURES`.
    turn, wave, grain
        (B,) of a texture: radians, wave length and grain in pixels at 256².
    level, contrast
        (B, C) a texture's mean and half its range.
    push
        (B,) how far ``deform`` moves, over the width of the field that it follows.
    """

    kind: Tensor
    source: Tensor
    flip: Tensor
    shift: Tensor
    lattice: Tensor
    cells: Tensor
    amount: Tensor
    texture: Tensor
    turn: Tensor
    wave: Tensor
    grain: Tensor
    level: Tensor
    contrast: Tensor
    push: Tensor


def draw_contents(
    count: int, channels: int, kinds: int, generator: torch.Generator
) -> ContentDraws:
    """Draw ``count`` samples, each with one of ``kinds`` contents and its own intensities."""
    step = 1 + integers(generator, 1, below=max(1, count - 1))
    common = uniform(generator, count, 1, low=_AMOUNT[0], high=_AMOUNT[1])
    of_channel = uniform(generator, count, channels, low=0.4)
    of_channel[:, 0] = 1  # one channel changes by the full amount, the others by less
    return ContentDraws(
        kind=integers(generator, count, below=kinds),
        # a cyclic shift: a permutation that leaves no sample in its place
        source=(torch.arange(count) + step) % count,
        flip=uniform(generator, count) < 0.5,
        shift=uniform(generator, count, 2, low=-_LARGEST_SHIFT, high=_LARGEST_SHIFT),
        lattice=uniform(generator, count, PERIOD, PERIOD),
        cells=log_uniform(generator, count, low=_CELLS[0], high=_CELLS[1]),
        amount=common * of_channel,
        texture=integers(generator, count, below=len(TEXTURES)),
        turn=uniform(generator, count, high=math.pi),
        wave=log_uniform(generator, count, low=_WAVE_PX[0], high=_WAVE_PX[1]),
        grain=uniform(generator, count, low=_GRAIN_PX[0], high=_GRAIN_PX[1]),
        level=uniform(generator, count, channels, low=0.1, high=0.9),
        contrast=uniform(generator, count, channels, low=0.05, high=0.4),
        push=uniform(generator, count, low=0.6, high=1.3),
    )


def make_contents(
    draws: ContentDraws,
    contents: Sequence[str],
    images: Tensor,
    region: Tensor,
    mask: Tensor,
    alpha: Tensor,
) -> Tensor:
    """Make each sample's content, which shows where its anomaly covers the image: (B, C, H, W).

    Samples with the content ``lesion`` stay as they are.

    Parameters
    ----------
    images, region
        (B, C, H, W), and (B, H, W) bool.
    mask, alpha
        (B, H, W): the shape as bool, and its cover in [0, 1] with soft borders.
    """
    made = images.clone()
    for name, samples in groups(draws.kind, contents):
        part = draws.of(samples, images.device)
        where = samples.to(images.device)
        if name == "slice":
            made[where] = _slice(part, images, region, images[where])
        elif name == "deform":
            made[where] = _deform(part, images[where], region[where], mask[where], alpha[where])
        elif name != "lesion":
            made[where] = _SHADERS[name](part, images[where])
    return made


def _slice(draws: ContentDraws, images: Tensor, region: Tensor, own: Tensor) -> Tensor:
    """Another sample's image, shifted and perhaps mirrored; unchanged where that image is empty."""
    height, width = region.shape[1:]
    rows = torch.arange(height, device=region.device)
    columns = torch.arange(width, device=region.device)
    y = (rows + (draws.shift[:, :1] * height).long()) % height
    x = torch.where(draws.flip[:, None], columns.flip(0), columns)
    x = (x + (draws.shift[:, 1:] * width).long()) % width
    source, y, x = draws.source[:, None, None], y[:, :, None], x[:, None, :]
    shown = region[source, y, x][:, None]
    # indexing puts the channels last, because of the slice between the indices
    return torch.where(shown, images[source, :, y, x].movedim(-1, 1), own)


def _noise(draws: ContentDraws, size: tuple[int, int]) -> Tensor:
    """(N, 1, H, W) in [-1, 1], mostly within a half."""
    half = PERIOD // 2
    angles = []
    for octave, (row, column) in enumerate(((0, 0), (0, half), (half, 0))):
        # A quarter of the lattice for each octave, and of it no more than its cells need.
        points = math.ceil(_CELLS[1] * 2**octave) + 1
        part = draws.lattice[:, row : row + points, column : column + points]
        angles.append(2 * math.pi * part)
    cells = draws.cells[:, None].expand(-1, 2)
    return fractal(angles, cells, size, persistence=0.6)[:, None]


def _share(draws: ContentDraws, images: Tensor) -> Tensor:
    """(N, C, H, W): how far to go, unevenly."""
    noise = _noise(draws, (images.shape[2], images.shape[3]))
    return (draws.amount[:, :, None, None] * noise.mul_(_UNEVENNESS).add_(1)).clamp_(0, 1)


def _brighter(draws: ContentDraws, images: Tensor) -> Tensor:
    return torch.lerp(images, torch.ones_like(images[:1]), _share(draws, images))


def _darker(draws: ContentDraws, images: Tensor) -> Tensor:
    return images * (1 - _share(draws, images))


def _texture(draws: ContentDraws, images: Tensor) -> Tensor:
    size = (images.shape[2], images.shape[3])
    pattern = torch.zeros(len(images), 1, *size, device=images.device)
    for name, samples in groups(draws.texture, TEXTURES):
        pattern[samples] = _PATTERNS[name](draws.of(samples, images.device), size)
    shade = draws.level[:, :, None, None] + draws.contrast[:, :, None, None] * pattern
    return shade.clamp(0, 1)


_SHADERS = {"brighter": _brighter, "darker": _darker, "texture": _texture}


def _phases(draws: ContentDraws, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Turned coordinates in radians of the texture's wave, gently bent."""
    y, x = turned_grid(draws.turn, size)
    scale = (2 * math.pi * 256 / draws.wave)[:, None, None]
    return y * scale + 3 * _noise(draws, size)[:, 0], x * scale


def _waves(draws: ContentDraws, size: tuple[int, int]) -> Tensor:
    return _phases(draws, size)[0].sin()[:, None]


def _checks(draws: ContentDraws, size: tuple[int, int]) -> Tensor:
    y, x = _phases(draws, size)
    return (4 * y.sin() * x.sin()).tanh()[:, None]


def _clouds(draws: ContentDraws, size: tuple[int, int]) -> Tensor:
    return (2 * _noise(draws, size)).clamp(-1, 1)


def _speckle(draws: ContentDraws, size: tuple[int, int]) -> Tensor:
    """Rayleigh-distributed grains, as coherent imaging and coarse material show."""
    rows, columns = (
        (torch.arange(length, device=draws.turn.device) / draws.grain[:, None]).long() % PERIOD
        for length in size
    )
    grains = draws.lattice[
        torch.arange(len(rows), device=rows.device)[:, None, None],
        rows[:, :, None],
        columns[:, None, :],
    ]
    rayleigh = (-2 * (1 - grains).log()).sqrt()
    return (rayleigh - math.sqrt(math.pi / 2))[:, None].clamp(-1, 1)


_PATTERNS = {"waves": _waves, "checks": _checks, "clouds": _clouds, "speckle": _speckle}


def _deform(
    draws: ContentDraws, images: Tensor, region: Tensor, mask: Tensor, alpha: Tensor
) -> Tensor:
    """The image pushed outwards, along the slope of the blurred mask.

    Each part of a mask thus has its own centre, and the displacement fades with ``alpha``. Pixels
    that would show something outside the region keep their value.
    """
    height, width = region.shape[1:]
    scale = min(height, width) / 256
    shape = mask.to(images.dtype)
    # Half the radius of a disc of this area, with a minimum for many small parts.
    reach = (shape.sum(dim=(1, 2)) / math.pi).sqrt() / 2
    least, most = (scale * sigma for sigma in _REACH_PX)
    reach = reach.clamp(least, most)
    hill = F.pad(blur(shape, reach, most_px=most)[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    slope_y = hill[:, 2:, 1:-1] - hill[:, :-2, 1:-1]
    slope_x = hill[:, 1:-1, 2:] - hill[:, 1:-1, :-2]
    steepest = (slope_y.square() + slope_x.square()).amax(dim=(1, 2)).sqrt().clamp(min=1e-6)
    by = alpha * (draws.push * reach / steepest)[:, None, None]
    rows = torch.arange(height, device=images.device)[:, None] + by * slope_y
    columns = torch.arange(width, device=images.device) + by * slope_x
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    joint = torch.cat([images, region[:, None].to(images.dtype)], dim=1)
    moved = F.grid_sample(joint, grid, padding_mode="border", align_corners=False)
    return torch.where(moved[:, -1:] > 0.999, moved[:, :-1], images).clamp_(0, 1)
