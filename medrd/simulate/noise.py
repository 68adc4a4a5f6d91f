"""Noise for training denoising detectors.

:class:`CoarseNoise` is that of the denoising autoencoder (Kascenas et al., MIDL 2022),
:class:`SimplexBox` that of RD++ (Tien et al., CVPR 2023). The released versions may leave [0, 1];
ours are clipped to this range of images. Draws are made as in
:mod:`medrd.simulate.anomalies`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medrd.config import ChannelLayout, CoarseNoiseConfig, SimplexBoxConfig
from medrd.simulate.anomalies import GREY, Simulated, like
from medrd.simulate.fields import PERIOD, simplex
from medrd.simulate.label import scaled_pixels
from medrd.simulate.shapes import integers, places, uniform

CELL_PX = 32.0
"""Width of the first octave's cells of simplex noise, at 256²; it scales with the image."""


class CoarseNoise:
    """Gaussian noise on a coarse grid, bilinearly enlarged and rolled, over the whole region.

    Parameters
    ----------
    settings
        Standard deviation of the noise, and its points per side for images of any size.
    layout
        What the channels are: one modality's noise is alike in all channels.
    """

    def __init__(self, settings: CoarseNoiseConfig, *, layout: ChannelLayout = GREY) -> None:
        self.settings = settings
        self.layout = layout

    @torch.no_grad()
    def __call__(self, images: Tensor, region: Tensor, generator: torch.Generator) -> Simulated:
        """Add noise to (B, C, H, W) in (B, H, W) bool; the mask is the region."""
        with torch.autocast(images.device.type, enabled=False):
            healthy = images[:, : len(self.layout.modalities)]
            count, channels, *size = healthy.shape
            device = images.device
            values = torch.randn(
                count, channels, self.settings.grid, self.settings.grid, generator=generator
            )
            rolls = [integers(generator, count, below=length).to(device) for length in size]
            down, across = (
                _enlarging(self.settings.grid, length, roll)
                for length, roll in zip(size, rolls, strict=True)
            )
            noise = down[:, None] @ (self.settings.sigma * values).to(device) @ across.mT[:, None]
            changed = torch.where(region[:, None], (healthy + noise).clamp_(0, 1), healthy)
            return Simulated(like(images, changed), region.clone())


def _enlarging(grid: int, length: int, roll: Tensor) -> Tensor:
    """(N, length, grid): linear interpolation from end to end, then a roll by (N,) pixels."""
    pixel = torch.arange(length, device=roll.device)
    rolled = (pixel - roll[:, None]) % length
    position = rolled * ((grid - 1) / max(1, length - 1))
    points = torch.arange(grid, device=roll.device)
    return (1 - (position[..., None] - points).abs()).clamp(min=0)


class SimplexBox:
    """Octaves of simplex noise in one random box per image.

    The released code puts the box anywhere in the picture; here its centre is in the region, and
    only pixels in the region change. In the released code, channels differ by one pixel of depth in
    a three-dimensional noise; here they are equal or independent.

    Parameters
    ----------
    settings
        Octaves of the noise, each with cells half as wide and ``persistence`` times as high as the
        one before; ``amplitude`` is a factor on their sum, in which the first has height 1. The
        box's sides are drawn from a range that includes both ends, at 256², and scale with the
        image.
    layout
        What the channels are: one modality's noise is alike in all channels.
    """

    def __init__(self, settings: SimplexBoxConfig, *, layout: ChannelLayout = GREY) -> None:
        self.settings = settings
        self.layout = layout

    @torch.no_grad()
    def __call__(self, images: Tensor, region: Tensor, generator: torch.Generator) -> Simulated:
        """Add noise to (B, C, H, W); the mask is the box within (B, H, W) bool."""
        with torch.autocast(images.device.type, enabled=False):
            healthy = images[:, : len(self.layout.modalities)]
            count, channels, height, width = healthy.shape
            device = images.device
            least, most = (
                max(1, scaled_pixels(n, min(height, width))) for n in self.settings.box_px
            )
            share = uniform(generator, count, 1).to(device)
            sides = (least + integers(generator, count, 2, below=most - least + 1)).to(device)
            angles = uniform(
                generator, count * channels, self.settings.octaves, PERIOD, PERIOD, high=2 * math.pi
            ).to(device)

            noise = self._octaves(angles, most, 256 / min(height, width))
            noise = noise.reshape(count, channels, most, most)
            step = torch.arange(most, device=device)
            rows, columns = (
                # A box at the border is moved in.
                (middle - side[:, None] // 2).clamp(min=0).minimum(length - side[:, None]) + step
                for middle, side, length in zip(
                    places(region, share), sides.unbind(1), (height, width), strict=True
                )
            )
            inside = (step < sides[:, :1])[:, :, None] & (step < sides[:, 1:])[:, None, :]
            at = (
                torch.arange(count, device=device)[:, None, None],
                rows.clamp(max=height - 1)[:, :, None],
                columns.clamp(max=width - 1)[:, None, :],
            )
            box = torch.zeros(count, height, width, device=device)
            # Added, not assigned: pixels beyond the image were moved onto the box, with weight 0.
            box.index_put_(at, inside.float(), accumulate=True)
            mask = (box > 0) & region
            added = torch.zeros(count, height, width, channels, device=device)
            added.index_put_(at, (noise * inside[:, None]).movedim(1, -1), accumulate=True)
            sum_ = (healthy + self.settings.amplitude * added.movedim(-1, 1)).clamp_(0, 1)
            return Simulated(like(images, torch.where(mask[:, None], sum_, healthy)), mask)

    def _octaves(self, angles: Tensor, side: int, scale: float) -> Tensor:
        """(N, octaves, PERIOD, PERIOD) -> (N, side, side)."""
        pixel = torch.arange(side, device=angles.device) * (scale / CELL_PX)
        y, x = (n.expand(len(angles), side, side) for n in (pixel[:, None], pixel[None, :]))
        return torch.stack(
            [
                self.settings.persistence**octave
                * simplex(angles[:, octave], y * 2**octave, x * 2**octave)
                for octave in range(self.settings.octaves)
            ]
        ).sum(dim=0)
