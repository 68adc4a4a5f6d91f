"""Applies a detector to prepared slices: the only way from images to maps and scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrd.data.kind import Prepared
from medrd.models.detector import Detector
from medrd.models.scoring import Scoring, smooth_across
from medrd.run.device import Execution


@dataclass(frozen=True, eq=False)
class Prediction:
    """A detector's result for one scan or picture.

    Attributes
    ----------
    grid_map
        float32 on the input's own grid, (X, Y, Z) or (H, W); 0 where there is no score.
    image_scores
        (S,) float32, one for each scored slice in their order (one for a picture).
    mask
        bool on that grid: where the scored region reaches the threshold; None without a threshold.
    """

    grid_map: NDArray[np.float32]
    image_scores: NDArray[np.float32]
    mask: NDArray[np.bool_] | None = None

    @property
    def scan_score(self) -> float:
        """The highest slice score."""
        return scan_score(self.image_scores)


def scan_score(slice_scores: NDArray[np.float32]) -> float:
    """A scan is as anomalous as its most anomalous slice."""
    return float(slice_scores.max())


class Predictor:
    """A detector and its scoring on a device.

    Parameters
    ----------
    batch_size
        Slices at a time; results do not depend on it (BatchNorm is in eval mode).
    """

    def __init__(
        self, detector: Detector, scoring: Scoring, execution: Execution, *, batch_size: int = 16
    ) -> None:
        self.execution = execution
        self.detector = execution.place(detector).eval()
        self.scoring = scoring.to(execution.device)
        self.batch_size = batch_size

    def maps(
        self,
        images: NDArray[np.floating],
        region: NDArray[np.bool_],
        positions_mm: NDArray[np.float64] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Slices (S, C, H, W) and region (S, H, W) -> smoothed maps (S, H, W), scores (S,).

        ``positions_mm`` (S,) are the slices' positions in one scan, for smoothing across slices;
        without them, slices are independent. Maps are not masked yet; see
        :class:`medrd.models.scoring.Scoring`.
        """
        maps = np.empty(region.shape, np.float32)
        scores = np.empty(len(region), np.float32)
        with torch.inference_mode():
            for here in self._parts(len(region)):
                batch = self.execution.images(np.asarray(images[here], np.float32))
                mask = self._mask(region[here])
                with self.execution.autocast():
                    raw, own = self.detector.map_and_score(batch, mask)
                smoothed, score = self.scoring(raw.float(), mask, own)
                maps[here] = smoothed.cpu().numpy()
                scores[here] = score.cpu().numpy()
            if positions_mm is not None and self.scoring.sigma_across_mm > 0:
                self._smooth_across(maps, scores, region, positions_mm)
        return maps, scores

    def _smooth_across(
        self,
        maps: NDArray[np.float32],
        scores: NDArray[np.float32],
        region: NDArray[np.bool_],
        positions_mm: NDArray[np.float64],
    ) -> None:
        """Change maps in place, and the scores derived from them."""
        places = torch.from_numpy(np.asarray(positions_mm, np.float64))
        smoothed = smooth_across(torch.from_numpy(maps), places, self.scoring.sigma_across_mm)
        maps[:] = smoothed.numpy()
        if self.scoring.image_score == "model":
            return  # the method's own score was not taken from the map
        for here in self._parts(len(region)):
            there = torch.from_numpy(maps[here]).to(self.execution.device)
            scores[here] = self.scoring.score(there, self._mask(region[here])).cpu().numpy()

    def _parts(self, count: int) -> list[slice]:
        return [slice(i, i + self.batch_size) for i in range(0, count, self.batch_size)]

    def _mask(self, region: NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(np.array(region)).to(self.execution.device)

    def on_grid(self, prepared: Prepared, threshold: float | None = None) -> Prediction:
        """Predict a whole scan or picture, with a mask if there is a threshold."""
        maps, scores = self.maps(prepared.images, prepared.region, prepared.positions_mm)
        grid_map = prepared.to_grid(maps)
        mask = None if threshold is None else (grid_map >= threshold) & prepared.scored()
        return Prediction(grid_map, scores, mask)
