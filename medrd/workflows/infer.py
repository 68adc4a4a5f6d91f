"""A detector at work on prepared slices: the one way from images to maps and scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medrd.data.domain import Prepared
from medrd.models import Detector, Scoring
from medrd.workflows.device import Execution


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a detector says of one scan or picture.

    Attributes
    ----------
    grid_map
        float32 on the input's own grid, (X, Y, Z) or (H, W); 0 where there is no score.
    image_scores
        (S,) float32, of the scored slices in their order (of a picture one).
    """

    grid_map: NDArray[np.float32]
    image_scores: NDArray[np.float32]

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
        self, images: NDArray[np.floating], region: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Slices (S, C, H, W) and region (S, H, W) -> smoothed maps (S, H, W), scores (S,).

        Maps are not masked yet; see :class:`medrd.models.Scoring`.
        """
        maps = np.empty(region.shape, np.float32)
        scores = np.empty(len(region), np.float32)
        with torch.inference_mode():
            for start in range(0, len(region), self.batch_size):
                here = slice(start, start + self.batch_size)
                batch = self.execution.images(np.asarray(images[here], np.float32))
                mask = torch.from_numpy(np.array(region[here])).to(self.execution.device)
                with self.execution.autocast():
                    raw, own = self.detector.map_and_score(batch, mask)
                smoothed, score = self.scoring(raw.float(), mask, own)
                maps[here] = smoothed.cpu().numpy()
                scores[here] = score.cpu().numpy()
        return maps, scores

    def on_grid(self, prepared: Prepared) -> Prediction:
        """A whole scan or picture."""
        maps, scores = self.maps(prepared.images, prepared.region)
        return Prediction(prepared.to_grid(maps), scores)
