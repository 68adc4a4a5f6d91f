"""Maps of prepared scans, back on the grid of the scanner."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medrd.data.brains.opened import write_score_map
from medrd.data.cases import Case
from medrd.data.output_names import MAKER, PREPARED_ENDING
from medrd.errors import MissingInputError
from medrd.files import file_hash
from medrd.images.header import inspect_nifti
from medrd.images.nifti import write_nifti
from medrd.images.volume import Volume
from medrd.metrics import LEAST_VOXELS, lesion_table
from medrd.preparation.linear import inverse
from medrd.preparation.record import Origin, PreparedRecord
from medrd.run.predictor import Prediction

logger = logging.getLogger("medrd.predict")

_Value = TypeVar("_Value", bound=np.generic)

NATIVE_ENDINGS = ("_native_anomaly.nii.gz", "_native_mask.nii.gz")


@dataclass(frozen=True, eq=False)
class WayBack:
    """From a prepared scan's grid to its raw scan's."""

    origin: Origin
    blank: Volume

    def scores(
        self, array: NDArray[np.float32], affine: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """A map (X, Y, Z) on the raw grid, linearly interpolated, 0 outside the prepared one."""
        return self._sampled(array, affine, order=1)

    def labels(self, array: NDArray[np.int32], affine: NDArray[np.float64]) -> NDArray[np.int32]:
        """Labels (X, Y, Z) on the raw grid, by nearest neighbours."""
        return self._sampled(array, affine, order=0)

    def _sampled(
        self, array: NDArray[_Value], affine: NDArray[np.float64], *, order: int
    ) -> NDArray[_Value]:
        onto = inverse(affine) @ inverse(self.origin.to_raw) @ self.origin.affine
        result: NDArray[_Value] = ndimage.affine_transform(
            array, onto[:3, :3], onto[:3, 3], output_shape=self.blank.shape, order=order
        )
        return result


def way_back(prepared: Path) -> WayBack:
    """Where a scan that ``medrd prepare`` wrote came from.

    Raises
    ------
    MissingInputError
        No record beside it that knows this file, with the voxels that it has.
    FileFormatError
        A record that is damaged.
    """
    for path in sorted(prepared.parent.glob(f"*{PREPARED_ENDING}")):
        record = PreparedRecord.load(
            path, remedy="Prepare the raw scan again, or leave --native out."
        )
        for name, origin in record.origins.items():
            output = record.outputs.get(name)
            if output is None or output.file != prepared.name:
                continue
            if output.sha256 != file_hash(prepared):
                raise MissingInputError(
                    prepared,
                    expected="the scan as medrd prepare wrote it, to find the way back",
                    found="other content than its record says",
                    remedy="Prepare the raw scan again, or leave --native out.",
                )
            return WayBack(origin, origin.blank())
    raise MissingInputError(
        prepared,
        expected="a scan that medrd prepare wrote, with its record beside it",
        found=f"no *{PREPARED_ENDING} that names it",
        remedy="Give the folder that medrd prepare wrote, or leave --native out: the map is then "
        "on this scan's own grid already.",
    )


def native_mask(
    back: WayBack, mask: NDArray[np.bool_], affine: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], int]:
    """A mask (X, Y, Z) on the raw grid, and how many of its findings have no voxel there.

    Thick slices pass small ones by: a voxel shows what lies at its centre.
    """
    regions, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(regions.ravel())
    there = back.labels(regions, affine)
    gone = np.setdiff1d(np.flatnonzero(sizes >= LEAST_VOXELS), there)
    return there > 0, int(np.count_nonzero(gone))


def write_native(
    back: WayBack,
    case: Case,
    out: Path,
    prediction: Prediction,
    paths: dict[str, Path],
    *,
    description: str,
    threshold: float | None,
) -> dict[str, Any]:
    """Write map and mask on the raw grid, enter them into ``paths``, and say what they hold.

    Parameters
    ----------
    prediction
        On the prepared grid.
    description, threshold
        Those of the map on the prepared grid.
    """
    affine = inspect_nifti(case.first_file).affine
    raw_scores = back.scores(prediction.grid_map, affine)
    paths["native_map"], mask_path = (case.output(out, ending) for ending in NATIVE_ENDINGS)
    write_score_map(
        paths["native_map"], raw_scores, back.blank, description=description, threshold=threshold
    )
    found: dict[str, Any] = {"source": back.origin.path}
    if prediction.mask is not None:
        raw_mask, lost = native_mask(back, prediction.mask, affine)
        if lost:
            logger.warning(
                "%s: %d of its findings lie between the raw scan's slices: no voxel of the native "
                "mask shows them, the prepared one does",
                case.subject.id,
                lost,
            )
        paths["native_mask"] = mask_path
        write_nifti(
            mask_path, raw_mask, back.blank, dtype="uint8", description=f"{MAKER} calibrated mask"
        )
        found["findings_volume_mm3"] = float(raw_mask.sum() * back.blank.voxel_volume_mm3)
        # The same least volume as on the prepared grid, whose voxels are smaller.
        share = abs(float(np.linalg.det(affine[:3, :3]))) / back.blank.voxel_volume_mm3
        least = max(1, round(LEAST_VOXELS * share))
        found["findings"] = lesion_table(raw_scores, raw_mask, back.blank.affine, min_voxels=least)
        found["findings_without_voxel"] = lost
    return {"native": found}
