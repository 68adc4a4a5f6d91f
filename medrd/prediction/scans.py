"""Scans for ``medrd predict``: NIfTI or DICOM in, NIfTI on the same grid out."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.config import RecipeConfig
from medrd.data.brains.prepare import PreparedVolume, prepare, read_channels, refuse_label
from medrd.draw.heat import save_figure
from medrd.draw.overlay import draw_overlay
from medrd.errors import InputError, ModelError, WrongKindError
from medrd.images.nifti import write_nifti
from medrd.images.picture import Picture
from medrd.images.volume import Volume, check_same_grid
from medrd.metrics import lesion_table
from medrd.prediction.scan_inputs import find_scans
from medrd.run.calibration import Calibration, standing
from medrd.run.cases import Case
from medrd.run.outputs import MAKER, SCAN_FILES
from medrd.run.predictor import Prediction
from medrd.run.score_map import write_score_map

_NIFTI2_HEADER_BYTES = 540


@dataclass(frozen=True, eq=False)
class OpenedScan:
    """A subject's volumes by channel; see :class:`medrd.prediction.medium.Opened`."""

    volumes: Mapping[str, Volume]
    prepared: PreparedVolume

    @property
    def _first(self) -> Volume:
        return next(iter(self.volumes.values()))

    def write_map(
        self, path: Path, scores: NDArray[np.float32], *, description: str, threshold: float | None
    ) -> None:
        """(X, Y, Z) as NIfTI, with the header's geometry bit for bit."""
        write_score_map(path, scores, self._first, description=description, threshold=threshold)

    def write_mask(self, path: Path, mask: NDArray[np.bool_]) -> None:
        """(X, Y, Z) as NIfTI of 0 and 1."""
        write_nifti(path, mask, self._first, dtype="uint8", description="medrd calibrated mask")

    def write_overlay(
        self, path: Path, scores: NDArray[np.float32], *, threshold: float | None, title: str
    ) -> None:
        """Three planes of the first channel."""
        figure = draw_overlay(
            image=self._first.array,
            score_map=scores,
            affine=self._first.affine,
            threshold=threshold,
            title=title,
        )
        save_figure(figure, path)

    def describe(
        self,
        prediction: Prediction,
        calibration: Calibration | None,
    ) -> dict[str, Any]:
        """Findings in mm³ and in mm of the affine's world."""
        first, score, mask = self._first, prediction.scan_score, prediction.mask
        volume_mm3, findings = None, []
        if mask is not None:
            volume_mm3 = float(mask.sum() * first.voxel_volume_mm3)
            findings = lesion_table(prediction.grid_map, mask, first.affine)
        return {
            "scan_score": score,
            **standing(score, calibration, normal="healthy", noun="scan"),
            "findings_volume_mm3": volume_mm3,
            "findings": findings,
            "slices_scored": len(prediction.image_scores),
            "slices": self.prepared.depth,
        }


class ScanFiles:
    """See :class:`medrd.prediction.medium.Medium`."""

    files = SCAN_FILES
    notice = "Research use only; not a medical device."

    def __init__(self, recipe: RecipeConfig) -> None:
        self._recipe = recipe

    def find(
        self, inputs: Sequence[Path], *, frame: int | None, series: str | None
    ) -> tuple[list[Case], list[InputError]]:
        """NIfTI files, BraTS subject folders, DICOM series, folders of those."""
        return find_scans(inputs, self._recipe, frame=frame, series=series)

    def read(self, case: Case, *, budget: int) -> OpenedScan:
        """All channels of the recipe, on one grid. Raises WrongKindError for a label or a map."""
        for source in case.subject.images.values():
            if self.is_own_map(source.path):
                raise WrongKindError(
                    source.path,
                    expected="a scan",
                    found="a map or mask that medrd wrote",
                    remedy="Give the scan that it was made from.",
                )
        volumes = read_channels(case.subject, self._recipe, max_voxels=budget)
        for volume in volumes.values():
            refuse_label(volume)
        return OpenedScan(volumes, prepare(volumes, self._recipe))

    def prepare(self, given: Volume | Mapping[str, Volume] | Picture) -> PreparedVolume:
        """A volume, or volumes by modality where the model takes three.

        Raises
        ------
        ModelError
            A picture, or modalities that the model was not trained on.
        InputError
            Volumes on different grids, or without a brain.
        """
        channels = self._recipe.channels
        if isinstance(given, Picture):
            raise ModelError(
                given.path or "picture",
                expected="a volume: the model was trained on scans",
                found="a picture",
                remedy="Give a scan, or load a model that was trained on pictures.",
            )
        volumes = {channels[0]: given} if isinstance(given, Volume) else dict(given)
        if any(channel not in volumes for channel in channels):
            raise ModelError(
                "volume",
                expected=f"the modalities {', '.join(channels)}",
                found=", ".join(volumes),
                remedy="Give a mapping from modality to Volume.",
            )
        volumes = {channel: volumes[channel] for channel in channels}
        check_same_grid(volumes)
        return prepare(volumes, self._recipe)

    def is_own_map(self, path: Path) -> bool:
        """By the description in the NIfTI header."""
        try:
            with gzip.open(path) as file:
                return MAKER.encode() in file.read(_NIFTI2_HEADER_BYTES)
        except (OSError, EOFError, zlib.error):
            return False
