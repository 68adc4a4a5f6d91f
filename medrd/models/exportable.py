"""A detector and its scoring as one graph, for export."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medrd.models.detector import Detector
from medrd.models.scoring import Scoring, across_weights, smoothing_matrix


class Exportable(nn.Module):
    """Slices in, smoothed maps and scores out, for any number of slices.

    It computes the same as :class:`Scoring`, without what a graph cannot contain: autocast, and
    tensors created during the computation.

    Parameters
    ----------
    detector
        Trained; set to eval mode.
    size
        Side of the slices in pixels.
    """

    smoothing: Tensor | None

    def __init__(self, detector: Detector, scoring: Scoring, *, size: int) -> None:
        super().__init__()
        self.detector = detector.eval()
        self.scoring = scoring.eval()
        matrix = smoothing_matrix(size, scoring.sigma) if scoring.sigma else None
        self.register_buffer("smoothing", matrix)
        self.requires_grad_(False)

    @property
    def reads_positions(self) -> bool:
        """True if the slices' positions matter, because maps are smoothed across slices."""
        return self.scoring.sigma_across_mm > 0

    def forward(
        self, images: Tensor, region: Tensor, positions_mm: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Maps (N, H, W) and scores (N,), float32.

        Parameters
        ----------
        images
            (N, C, H, W) float32 in [0, 1], channels as the recipe lays them out.
        region
            (N, H, W) bool: the brain, or the part that shows the picture.
        positions_mm
            (N,) float32 positions along the stack, if :attr:`reads_positions`; the slices must then
            belong to one scan.
        """
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        maps, own = self.detector.map_and_score(images, region)
        maps = maps.float()
        if self.smoothing is not None:
            maps = self.smoothing @ maps @ self.smoothing.T
        if self.reads_positions:
            if positions_mm is None:
                raise ValueError("this model smooths across slices: say where they lie")
            weights = across_weights(positions_mm, self.scoring.sigma_across_mm)
            maps = torch.einsum("st,thw->shw", weights, maps)
        if self.scoring.image_score == "model":
            assert own is not None  # checked when the model was trained
            return maps, own.float()
        return maps, self.scoring.score(maps, region)
