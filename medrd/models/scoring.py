"""The smoothing of raw anomaly maps, and the score of an image.

All detectors share one scoring, so that a table compares detectors, not filters.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

REFERENCE_SIZE = 256
"""Sigmas are given in pixels of a 256-pixel image, as in the papers."""
TRUNCATE = 4.0
"""Radius of the kernel in sigmas (scipy's default, which RD4AD uses)."""


@lru_cache(maxsize=16)
def smoothing_matrix(length: int, sigma: float) -> Tensor:
    """The Gaussian along one axis as a matrix (length, length) float32, with mirrored borders.

    Two products with it smooth a batch of maps several times as fast on a CPU as convolutions
    with one channel do, and in full float32 on a GPU.
    """
    # A tensor made in inference mode could not take part in training later.
    with torch.inference_mode(False):
        radius = int(TRUNCATE * sigma + 0.5)
        offsets = torch.arange(-radius, radius + 1)
        kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
        index = torch.arange(length)[:, None] + offsets
        index = index.remainder(2 * length)  # the mirrored signal has period 2 L
        index = torch.minimum(index, 2 * length - 1 - index)
        matrix = torch.zeros(length, length, dtype=torch.float64)
        matrix.scatter_add_(1, index, (kernel / kernel.sum()).expand(length, -1))
        return matrix.float()


def smooth_across(maps: Tensor, positions_mm: Tensor, sigma_mm: float) -> Tensor:
    """Gaussian across the slices of a stack: (S, H, W), positions (S,) in mm -> (S, H, W) float32.

    Each slice becomes the mean of all, weighted by distance. Slices may be missing or unevenly
    spaced: the weights of the existing ones sum to one.
    """
    weights = across_weights(positions_mm, sigma_mm).to(maps.device)
    with torch.autocast(maps.device.type, enabled=False):
        return (weights @ maps.float().flatten(1)).view_as(maps)


def across_weights(positions_mm: Tensor, sigma_mm: float) -> Tensor:
    """Weights of each slice (column) in each other (row): (S,) -> (S, S) float32, rows sum to 1."""
    apart = (positions_mm[:, None] - positions_mm[None]).double() / sigma_mm
    weights = torch.exp(-0.5 * apart**2) * (apart.abs() <= TRUNCATE)
    return (weights / weights.sum(1, keepdim=True)).float()


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
        inside the mask; ``model``: the score that the method itself gives.
    sigma_across_mm
        Gaussian's sigma across the slices of a scan, in mm; 0: none.
    """

    def __init__(
        self,
        *,
        size: int,
        sigma_px: float,
        image_score: Literal["max", "top", "mean", "model"],
        top_fraction: float,
        sigma_across_mm: float,
    ) -> None:
        super().__init__()
        self.sigma_across_mm = sigma_across_mm
        self.sigma = sigma_px * size / REFERENCE_SIZE
        self.image_score = image_score
        self.top_fraction = top_fraction

    def smooth(self, maps: Tensor) -> Tensor:
        """(B, H, W) -> (B, H, W) float32; borders as scipy's ``reflect``, edge pixel repeated."""
        maps = maps.float()
        if self.sigma == 0:
            return maps
        rows, columns = (
            smoothing_matrix(length, self.sigma).to(maps.device) for length in maps.shape[1:]
        )
        # Autocast is off, because the maps must be float32 even if the caller uses autocast.
        with torch.autocast(maps.device.type, enabled=False):
            return rows @ maps @ columns.T

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
            # Take the largest possible number: the actual number is data, and shapes in an exported
            # graph must not depend on data.
            most = max(1, math.ceil(low.shape[1] * self.top_fraction))
            ordered = low.topk(most, dim=1).values
            take = torch.arange(ordered.shape[1], device=maps.device) < wanted[:, None]
            best = ordered.masked_fill(~take, 0).sum(1) / wanted
        return torch.where(counts > 0, best, torch.zeros_like(best))

    def forward(
        self, maps: Tensor, mask: Tensor, own: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Raw maps and mask (B, H, W) -> smoothed maps (B, H, W) and scores (B,).

        ``own`` (B,) are the method's own scores. The maps are not masked; this is done on the final
        grid, because zeros outside the mask would bleed into its border when the map is resampled.

        Raises
        ------
        ValueError
            ``image_score`` is ``model`` and the method has no scores.
        """
        smoothed = self.smooth(maps)
        if self.image_score != "model":
            return smoothed, self.score(smoothed, mask)
        if own is None:
            raise ValueError("this method has no image score of its own; use max, top or mean")
        return smoothed, own.float()
