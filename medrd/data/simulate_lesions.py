"""A lesion's look: a plateau of oedema, unevenly raised or lowered, with a core of another shade.

What gliomas show on FLAIR and T2: oedema levels the contrast of the tissues that it soaks and
raises them by about as much, while necrosis, cysts and solid tumour inside it can have any
shade. Nothing is taken from a patient: amounts are drawn evenly from wide ranges.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medrd.data.noise_fields import blur
from medrd.data.simulate_shapes import Draws, uniform

_SHIFT = (0.06, 0.45)
"""Of intensities in [0, 1], where a median brain has about 0.4."""
_DARK = 0.2  # share of the lesions that are lowered: most are bright on FLAIR and T2
_FLATTENED = (0.0, 0.7)
_UNEVENNESS = 0.6
_CORED = 0.5
_CORE_REACH = (0.6, 0.9)
_CORE_EDGE = 0.06
_CORE_LEVEL = (0.05, 0.95)
_COARSE = 64


@dataclass(frozen=True, eq=False)
class LesionDraws(Draws):
    """All that a batch of lesions depends on, besides shapes, noise and images.

    Attributes
    ----------
    shift
        (B, C) how far the oedema is raised, or lowered.
    flattened
        (B,) share of the contrast under it that is lost.
    cored
        (B,) bool: whether there is a core.
    reach
        (B,) how deep in the lesion the core begins, 0 at its edge, 1 in its middle.
    level
        (B, C) the core's shade.
    """

    shift: Tensor
    flattened: Tensor
    cored: Tensor
    reach: Tensor
    level: Tensor


def draw_lesions(count: int, channels: int, generator: torch.Generator) -> LesionDraws:
    """Draw ``count`` samples with a shade of their own in each channel."""
    amount = uniform(generator, count, 1, low=_SHIFT[0], high=_SHIFT[1])
    of_channel = uniform(generator, count, channels, low=0.6, high=1.2)
    sign = 1 - 2 * (uniform(generator, count, 1) < _DARK).float()
    return LesionDraws(
        shift=amount * of_channel * sign,
        flattened=uniform(generator, count, low=_FLATTENED[0], high=_FLATTENED[1]),
        cored=uniform(generator, count) < _CORED,
        reach=uniform(generator, count, low=_CORE_REACH[0], high=_CORE_REACH[1]),
        level=uniform(generator, count, channels, low=_CORE_LEVEL[0], high=_CORE_LEVEL[1]),
    )


def make_lesion(draws: LesionDraws, images: Tensor, alpha: Tensor, noise: Tensor) -> Tensor:
    """(N, C, H, W): what shows where the lesion covers the image.

    Parameters
    ----------
    images
        (N, C, H, W) in [0, 1].
    alpha
        (N, H, W) cover in [0, 1] with soft borders.
    noise
        (N, 1, H, W) in [-1, 1], of the lesion's unevenness.
    """
    weight = alpha[:, None]
    mean = (images * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3)).clamp(min=1e-6)
    oedema = torch.lerp(images, mean[:, :, None, None], draws.flattened[:, None, None, None])
    oedema = oedema + draws.shift[:, :, None, None] * (1 + _UNEVENNESS * noise)
    core = draws.level[:, :, None, None] + 0.25 * _UNEVENNESS * noise
    share = _depth(alpha).sub_(draws.reach[:, None, None]).div_(_CORE_EDGE).sigmoid_()
    share = share * draws.cored[:, None, None]
    return torch.lerp(oedema, core, share[:, None]).clamp_(0, 1)


def _depth(alpha: Tensor) -> Tensor:
    """How deep inside: (N, H, W), 1 where a blur as wide as the lesion is highest."""
    height, width = alpha.shape[1:]
    # So smooth a field needs no more points than this.
    step = max(1, min(height, width) // _COARSE)
    coarse = F.avg_pool2d(alpha[:, None], step)[:, 0]
    radius = (coarse.sum(dim=(1, 2)) / torch.pi).sqrt()
    hill = blur(coarse, (radius / 2).clamp(0.5, _COARSE / 8), most_px=_COARSE / 8)
    hill = hill / hill.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    return F.interpolate(hill[:, None], (height, width), mode="bilinear")[:, 0]
