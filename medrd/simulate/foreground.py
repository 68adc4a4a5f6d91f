"""Find the object in a picture, so that anomalies are placed on it.

RD with Expert segments objects with GrabCut or Otsu's threshold, by manual lists of categories, and
uses whole pictures for textures. Here each picture decides: the object is the part that differs
from the colour of the picture's border, if this splits the picture clearly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BINS = 64
_BORDER = 1 / 64
"""Width of the border, as a share of the shorter side."""
_BLUR, _CLOSING = 9 / 256, 33 / 256
"""Sides of the squares that smooth the difference, and close gaps and holes, likewise."""
_BRIGHT = 0.98
"""Quantile of the difference at which it is clipped, so that highlights do not form a class."""
_CLEAR = 0.65
"""Share of the variance that the two parts must explain."""
_BORDER_SHARE = 0.2
"""If more of the border than this is on the object's side, its colour is not the background's."""
_AREA = (0.03, 0.95)


@torch.no_grad()
def foreground(images: Tensor, region: Tensor) -> Tensor:
    """The object in each picture, or the whole region if none stands out.

    Otsu, "A Threshold Selection Method from Gray-Level Histograms", 1979, on the difference from
    the border's median colour (in the channel that differs most).

    Parameters
    ----------
    images
        (B, C, H, W) float32 in [0, 1].
    region
        (B, H, W) bool; the result stays inside it.

    Returns
    -------
    (B, H, W) bool.
    """
    side = min(images.shape[-2:])
    edge = torch.ones(images.shape[-2:], dtype=torch.bool, device=images.device)
    width = max(1, round(_BORDER * side))
    edge[width:-width, width:-width] = False
    colour = images[:, :, edge].median(dim=2).values[:, :, None, None]
    difference = _mean((images - colour).abs().amax(1), _odd(_BLUR * side))
    flat = difference.flatten(1)
    most = flat.kthvalue(max(1, int(_BRIGHT * flat.shape[1])), dim=1).values
    difference = (difference / most.clamp(min=1e-6)[:, None, None]).clamp(max=1)
    threshold, explained = otsu(difference)
    inside = difference > threshold[:, None, None]
    reach = _odd(_CLOSING * side)
    inside = _shrunk(_grown(inside, reach), reach)
    area = inside.flatten(1).float().mean(1)
    on_border = inside[:, edge].float().mean(1)
    clear = (explained >= _CLEAR) & (on_border <= _BORDER_SHARE)
    clear &= (area >= _AREA[0]) & (area <= _AREA[1])
    return torch.where(clear[:, None, None], inside, True) & region


def otsu(values: Tensor) -> tuple[Tensor, Tensor]:
    """The threshold that splits each image best, and the share of variance that it explains.

    (B, H, W) in [0, 1] -> (B,), (B,): bins of 1/64, the threshold at a bin's upper end.
    """
    bins = (values.flatten(1) * _BINS).long().clamp(0, _BINS - 1)
    counts = torch.zeros(len(values), _BINS, dtype=torch.float64, device=values.device)
    counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.float64))
    share = counts / counts.sum(1, keepdim=True)
    middle = (torch.arange(_BINS, device=values.device, dtype=torch.float64) + 0.5) / _BINS
    below = share.cumsum(1)
    moment = (share * middle).cumsum(1)
    mean = moment[:, -1:]
    variance = (share * (middle - mean).square()).sum(1)
    between = (mean * below - moment).square() / (below * (1 - below)).clamp(min=1e-12)
    best, place = between[:, :-1].max(1)
    return ((place + 1) / _BINS).to(values.dtype), best / variance.clamp(min=1e-12)


def _odd(length: float) -> int:
    return 2 * int(length / 2) + 1


def _mean(maps: Tensor, side: int) -> Tensor:
    return F.avg_pool2d(maps[:, None], side, 1, side // 2, count_include_pad=False)[:, 0]


def _grown(mask: Tensor, side: int) -> Tensor:
    return F.max_pool2d(mask[:, None].float(), side, 1, side // 2)[:, 0] > 0


def _shrunk(mask: Tensor, side: int) -> Tensor:
    return ~_grown(~mask, side)
