"""A scan that has been read, and its results: NIfTI on the scan's own grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.data.brains.prepare import PreparedVolume
from medrd.images.nifti import write_nifti
from medrd.images.volume import Volume
from medrd.metrics import lesion_table


@dataclass(frozen=True, eq=False)
class OpenedScan:
    """A subject's volumes by channel; see :class:`medrd.data.kind.Opened`."""

    volumes: Mapping[str, Volume]
    prepared: PreparedVolume

    @property
    def _first(self) -> Volume:
        return next(iter(self.volumes.values()))

    def write_map(
        self, path: Path, scores: NDArray[np.float32], *, description: str, threshold: float | None
    ) -> None:
        """Write (X, Y, Z) as NIfTI, with the input's geometry bit for bit."""
        write_score_map(path, scores, self._first, description=description, threshold=threshold)

    def write_mask(self, path: Path, mask: NDArray[np.bool_]) -> None:
        """Write (X, Y, Z) as NIfTI with values 0 and 1."""
        write_nifti(path, mask, self._first, dtype="uint8", description="medrd calibrated mask")

    def write_overlay(
        self, path: Path, scores: NDArray[np.float32], *, threshold: float | None, title: str
    ) -> None:
        """Draw three planes of the first channel."""
        from medrd.draw.heat import save_figure
        from medrd.draw.overlay import draw_overlay

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
        scores: NDArray[np.float32],
        mask: NDArray[np.bool_] | None,
        image_scores: NDArray[np.float32],
    ) -> dict[str, Any]:
        """Findings in mm³ and in mm of the affine's world."""
        first = self._first
        volume_mm3, findings = None, []
        if mask is not None:
            volume_mm3 = float(mask.sum() * first.voxel_volume_mm3)
            findings = lesion_table(scores, mask, first.affine)
        return {
            "scan_score": float(image_scores.max()),
            "findings_volume_mm3": volume_mm3,
            "findings": findings,
            "slices_scored": len(image_scores),
            "slices_with_brain": self.prepared.with_brain,
            "min_brain_mm2": self.prepared.least_brain_mm2,
            "slices": self.prepared.depth,
        }


def write_score_map(
    path: Path,
    scores: NDArray[np.float32],
    like: Volume,
    *,
    description: str,
    threshold: float | None,
) -> None:
    """Write (X, Y, Z) with the geometry of ``like`` bit for bit; see docs/formats.md.

    Viewers take ``cal_max``, twice the threshold, for the range of colours.
    """
    write_nifti(
        path,
        scores,
        like,
        dtype="float32",
        description=description,
        intent_name="anomaly score",
        cal_max=2 * threshold if threshold is not None else None,
    )
