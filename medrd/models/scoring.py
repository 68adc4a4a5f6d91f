"""From a raw anomaly map to the smoothed one and a score for the image.

One scoring serves every detector, so that a table compares detectors and not filters.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REFERENCE_SIZE = 256
"""Sigmas are given in pixels of a 256-pixel image, as in the papers."""
TRUNCATE = 4.0
"""Radius of the kernel in sigmas (scipy's default, which RD4AD uses)."""


class Scoring(nn.Module):
    """Smoothing, masking and the image score.

    Parameters
    ----------
    size
        Side of the images in pixels.
    sigma_px
        Gaussian's sigma in pixels of a 256-pixel image; scaled to ``size``. 0: no smoothing.
    image_score
        ``max``, ``mean``, or ``top``: the mean of the ``top_fraction`` highest pixels, all
        inside the mask.
    """

    kernel: Tensor

    def __init__(
        self,
        *,
        size: int,
        sigma_px: float = 4.0,
        image_score: Literal["max", "top", "mean"] = "max",
        top_fraction: float = 0.01,
    ) -> None:
        super().__init__()
        sigma = sigma_px * size / REFERENCE_SIZE
        radius = int(TRUNCATE * sigma + 0.5)
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2) if sigma > 0 else torch.ones(1)
        self.register_buffer("kernel", (kernel / kernel.sum()).float(), persistent=False)
        self.image_score = image_score
        self.top_fraction = top_fraction

    def smooth(self, maps: Tensor) -> Tensor:
        """(B, H, W) -> (B, H, W) float32; borders as scipy's ``reflect``, edge pixel repeated."""
        maps = maps.float()
        radius = self.kernel.numel() // 2
        if radius == 0:
            return maps
        for dim in (1, 2):
            length = maps.shape[dim]
            index = torch.arange(-radius, length + radius, device=maps.device)
            index = index.remainder(2 * length)  # the mirrored signal has period 2 L
            index = torch.minimum(index, 2 * length - 1 - index)
            padded = maps.index_select(dim, index)[:, None]
            shape = (1, 1, -1, 1) if dim == 1 else (1, 1, 1, -1)
            maps = F.conv2d(padded, self.kernel.view(shape))[:, 0]
        return maps

    def score(self, maps: Tensor, mask: Tensor) -> Tensor:
        """Score of each image from its smoothed map inside the mask: (B, H, W) x 2 -> (B,).

        An image with an empty mask has score 0.
        """
        flat, inside = maps.flatten(1), mask.flatten(1)
        counts = inside.sum(1)
        if self.image_score == "mean":
            return (flat * inside).sum(1) / counts.clamp(min=1)
        low = flat.masked_fill(~inside, -torch.inf)
        if self.image_score == "max":
            best = low.amax(1)
        else:
            wanted = (counts * self.top_fraction).ceil().long().clamp(min=1)
            ordered = low.topk(int(wanted.max()), dim=1).values
            take = torch.arange(ordered.shape[1], device=maps.device) < wanted[:, None]
            best = ordered.masked_fill(~take, 0).sum(1) / wanted
        return torch.where(counts > 0, best, torch.zeros_like(best))

    def forward(self, maps: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Raw maps and mask (B, H, W) -> smoothed maps, 0 outside the mask, and scores (B,)."""
        smoothed = self.smooth(maps)
        return smoothed * mask, self.score(smoothed, mask)
