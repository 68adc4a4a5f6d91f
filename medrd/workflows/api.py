"""The verbs on volumes in memory: ``medrd.load(path).predict(volume)``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medrd.data.prepare import prepare
from medrd.errors import ModelError
from medrd.volumes import DEFAULT_MAX_VOXELS, Volume, check_same_grid, read_nifti
from medrd.workflows.device import choose_execution
from medrd.workflows.infer import Predictor
from medrd.workflows.model_folder import Model, load_model
from medrd.workflows.predict import anomaly_mask


@dataclass(frozen=True, eq=False)
class AnomalyMap:
    """What a model says of a volume.

    Attributes
    ----------
    scores
        (X, Y, Z) float32 on the volume's grid, 0 outside the brain.
    mask
        (X, Y, Z) bool at the calibrated threshold; None for a model without one.
    scan_score
        The highest score of a slice.
    slice_scores
        (S,) float32, of the slices that hold enough brain.
    """

    scores: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    scan_score: float
    slice_scores: NDArray[np.float32]


class LoadedModel:
    """A trained model, ready to predict.

    Parameters
    ----------
    model
        From :func:`medrd.workflows.model_folder.load_model`.
    device
        ``auto``, ``cpu``, ``cuda`` …
    """

    def __init__(self, model: Model, *, device: str = "auto") -> None:
        self.model = model
        execution = choose_execution(device, model.config.train.precision)
        self._predictor = Predictor(model.detector, model.scoring(), execution)

    def predict(self, volume: Volume | Mapping[str, Volume]) -> AnomalyMap:
        """Score a volume, or volumes by modality where the model takes three.

        Raises
        ------
        ModelError
            Modalities that the model was not trained on.
        InputError
            Volumes on different grids, or without a brain.
        """
        recipe = self.model.volume_recipe()
        channels = recipe.channels
        volumes = {channels[0]: volume} if isinstance(volume, Volume) else dict(volume)
        if any(channel not in volumes for channel in channels):
            raise ModelError(
                "volume",
                expected=f"the modalities {', '.join(channels)}",
                found=", ".join(volumes),
                remedy="Give a mapping from modality to Volume.",
            )
        volumes = {channel: volumes[channel] for channel in channels}
        check_same_grid(volumes)
        prepared = prepare(volumes, recipe)
        prediction = self._predictor.on_grid(prepared)
        calibration, mask = self.model.calibration, None
        if calibration:
            mask = anomaly_mask(prediction, prepared.scored(), calibration.threshold)
        return AnomalyMap(
            scores=prediction.grid_map,
            mask=mask,
            scan_score=prediction.scan_score,
            slice_scores=prediction.image_scores,
        )


def load(path: str | Path, *, device: str = "auto") -> LoadedModel:
    """Open a run folder or its ``model/`` for prediction. Raises ModelError."""
    return LoadedModel(load_model(path), device=device)


def read(
    path: str | Path, *, frame: int | None = None, max_voxels: int = DEFAULT_MAX_VOXELS
) -> Volume:
    """Read a NIfTI file; see :func:`medrd.volumes.read_nifti`. Raises InputError."""
    return read_nifti(path, frame=frame, max_voxels=max_voxels)
