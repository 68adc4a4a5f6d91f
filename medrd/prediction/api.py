"""Prediction of scans and pictures in memory: ``medrd.load(path).predict(scan)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medrd.data.pictures.files import PICTURE_ENDINGS
from medrd.data.pictures.kind import refuse_frame, refuse_series
from medrd.errors import ConfigError, GridMismatchError
from medrd.images.header import DEFAULT_MAX_VOXELS
from medrd.images.picture import DEFAULT_MAX_PIXELS, Picture, read_picture
from medrd.images.read import read_volume
from medrd.images.volume import Volume
from medrd.prediction.guard import Name, Names, compare_with_training
from medrd.prediction.options import PredictOptions
from medrd.run.device import choose_execution
from medrd.run.engine import Engine, make_predictor
from medrd.run.model_folder import Model, load_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class AnomalyMap:
    """A model's result for a volume or a picture.

    Attributes
    ----------
    scores
        float32 on the input's own grid: (X, Y, Z), 0 outside the brain; or (H, W), 0 outside
        the middle square with ``resize: crop``.
    mask
        bool on that grid, at the calibrated threshold; None for a model without one.
    scan_score
        The highest score of a slice, or the score of a picture.
    slice_scores
        (S,) float32, one for each slice with enough brain; (1,) for a picture.
    warnings
        Anything unusual about the input, and its differences from the model's training scans.
    threshold
        The calibrated threshold of the mask.
    not_judged
        Properties that could not be compared with the training scans, with reasons.
    """

    scores: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    scan_score: float
    slice_scores: NDArray[np.float32]
    warnings: tuple[str, ...] = ()
    threshold: float | None = None
    not_judged: tuple[str, ...] = ()


class LoadedModel:
    """A trained model, ready to predict.

    Parameters
    ----------
    model
        From :func:`medrd.run.model_folder.load_model`.
    device
        ``auto``, ``cpu``, ``cuda`` …
    engine
        See :data:`medrd.run.engine.Engine`.

    Raises
    ------
    ConfigError
        The device or the engine is unknown, or the device is not available.
    """

    def __init__(self, model: Model, *, device: str = "auto", engine: Engine = "auto") -> None:
        self.model = model
        options = PredictOptions(device=device, engine=engine)
        execution = choose_execution(options.device, model.config.train.precision)
        self.predictor, _ = make_predictor(model, execution, options.engine)

    def __repr__(self) -> str:
        takes = ", ".join(self.model.recipe.layout.modalities)
        return f"<{type(self).__name__}: {self.model.title}, for {takes}>"

    def predict(self, given: Volume | Mapping[str, Volume] | Picture) -> AnomalyMap:
        """Compute the anomaly map of a scan or picture.

        Parameters
        ----------
        given
            A volume, or volumes by modality if the model takes several; or a picture, read
            with the model's ``recipe.value_range`` if that is set.

        Raises
        ------
        ModelError
            The input is a picture for a model of scans, a volume for a model of pictures, or has
            modalities on which the model was not trained.
        InputError
            The volumes are on different grids, or have no brain.
        """
        several = list(given.values()) if isinstance(given, Mapping) else [given]
        for each in several:
            if not isinstance(each, Volume | Picture):
                raise TypeError(
                    f"predict takes what medrd.read(path) returns, or a mapping from modality to "
                    f"Volume, not {type(each).__name__}; medrd.predict takes paths"
                )
        prepared = self.model.kind.prepare_slices(given)
        names = _names(given, self.model.recipe.layout.modalities)
        likeness = compare_with_training(prepared, self.model, names)
        prediction = self.predictor.on_grid(prepared, self.model.threshold)
        return AnomalyMap(
            scores=prediction.grid_map,
            mask=prediction.mask,
            scan_score=prediction.scan_score,
            slice_scores=prediction.image_scores,
            warnings=(*prepared.warnings, *likeness.differences),
            threshold=self.model.threshold,
            not_judged=likeness.unchecked,
        )


def load(
    path: str | Path | None = None, *, device: str = "auto", engine: Engine = "auto"
) -> LoadedModel:
    """Open a run folder or its ``model/`` for prediction; by default the built-in model.

    Raises ModelError.
    """
    return LoadedModel(load_model(path), device=device, engine=engine)


def plot(
    given: Volume | Picture,
    result: AnomalyMap | NDArray[np.float32],
    *,
    label: NDArray[np.bool_] | None = None,
    threshold: float | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a scan or picture with its map, in the colours and units of the reports.

    Parameters
    ----------
    given
        The scan or picture.
    result
        The result of :meth:`LoadedModel.predict`, or a map on the input's grid.
    label
        bool on that grid; it is outlined.
    threshold
        For a map without a threshold: the score that is 1 in the colour bar. Without any
        threshold, the colours reach to the map's maximum, and the bar is labelled accordingly.

    Raises
    ------
    GridMismatchError
        The map or the label has another shape.
    """
    if isinstance(result, AnomalyMap):
        scores, threshold = result.scores, threshold or result.threshold
    else:
        scores = np.asarray(result, np.float32)
    shape = given.shape if isinstance(given, Volume) else given.array.shape[:2]
    for noun, array in (("map", scores), ("label", label)):
        if array is not None and array.shape != shape:
            raise GridMismatchError(
                noun,
                expected=f"the shape of the input, {shape}",
                found=str(array.shape),
                remedy="Give the map and the label on the input's own grid.",
            )
    if title is None:
        title = given.path.name if given.path else ""
    content: dict[str, Any] = {
        "image": given.array,
        "score_map": scores,
        "threshold": threshold,
        "title": title,
        "label": label,
    }
    if isinstance(given, Picture):
        from medrd.draw.picture_overlay import draw_picture_overlay

        return draw_picture_overlay(**content)
    from medrd.draw.overlay import draw_overlay

    return draw_overlay(affine=given.affine, **content)


def read(
    path: str | Path,
    *,
    frame: int | None = None,
    series: str | None = None,
    max_voxels: int | None = None,
    value_range: tuple[float, float] | None = None,
) -> Volume | Picture:
    """Read a picture (``.png``, ``.tif`` …), a DICOM series by its folder, or a NIfTI file.

    Parameters
    ----------
    frame
        Index of the frame of a 4D NIfTI file or series, from 0.
    series
        Series Instance UID, for a folder with several series.
    max_voxels
        Limit on voxels or pixels; default: 512³ and 100 million.
    value_range
        The picture's values that become 0 and 1; see :func:`medrd.images.picture.read_picture`.

    Raises
    ------
    InputError
        See :func:`medrd.images.read.read_volume` and :func:`medrd.images.picture.read_picture`.
    ConfigError
        A frame or series is given for a picture, or a value range for a scan.
    """
    if Path(path).suffix.lower() in PICTURE_ENDINGS:
        refuse_frame(path, frame)
        refuse_series(path, series)
        return read_picture(
            path, max_pixels=max_voxels or DEFAULT_MAX_PIXELS, value_range=value_range
        )
    if value_range is not None:
        raise ConfigError(
            path,
            expected="no value range, as scans are normalised over their brain",
            found=str(value_range),
            remedy="Remove value_range.",
        )
    return read_volume(
        path, frame=frame, series=series, max_voxels=max_voxels or DEFAULT_MAX_VOXELS
    )


def _names(given: Volume | Mapping[str, Volume] | Picture, modalities: Sequence[str]) -> Names:
    """The names of the volumes by modality; none for a picture, whose name says nothing."""
    if isinstance(given, Picture):
        return {}
    volumes = {modalities[0]: given} if isinstance(given, Volume) else given
    return {modality: Name.of_volume(volumes[modality], modality) for modality in modalities}
