"""Maps of prepared scans, resampled to the raw scan's grid."""

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
class NativeSpace:
    """The raw grid of a prepared scan, and the transform to it."""

    origin: Origin
    blank: Volume
    series: str | None = None
    """Series Instance UID, if one of several in a folder was chosen."""

    def scores(
        self, array: NDArray[np.float32], affine: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Resample a map (X, Y, Z) linearly to the raw grid, with 0 outside the prepared one."""
        return self._sampled(array, affine, order=1)

    def labels(self, array: NDArray[np.int32], affine: NDArray[np.float64]) -> NDArray[np.int32]:
        """Resample labels (X, Y, Z) to the raw grid by nearest neighbour."""
        return self._sampled(array, affine, order=0)

    def _sampled(
        self, array: NDArray[_Value], affine: NDArray[np.float64], *, order: int
    ) -> NDArray[_Value]:
        onto = inverse(affine) @ inverse(self.origin.to_raw) @ self.origin.affine
        result: NDArray[_Value] = ndimage.affine_transform(
            array, onto[:3, :3], onto[:3, 3], output_shape=self.blank.shape, order=order
        )
        return result


def find_native_space(prepared: Path) -> NativeSpace:
    """Find the raw grid of a scan that ``medrd prepare`` wrote.

    Raises
    ------
    MissingInputError
        No record in the scan's folder lists this file with its content.
    FileFormatError
        A record is damaged.
    """
    for path in sorted(prepared.parent.glob(f"*{PREPARED_ENDING}")):
        record = PreparedRecord.load(path, remedy="Prepare the raw scan again, or remove --native.")
        for name, origin in record.origins.items():
            output = record.outputs.get(name)
            if output is None or output.file != prepared.name:
                continue
            if output.sha256 != file_hash(prepared):
                raise MissingInputError(
                    prepared,
                    expected="the unchanged scan that medrd prepare wrote",
                    found="content that differs from its record",
                    remedy="Prepare the raw scan again, or remove --native.",
                )
            return NativeSpace(origin, origin.blank(), record.series.get(name))
    raise MissingInputError(
        prepared,
        expected="a scan that medrd prepare wrote, with its record in the same folder",
        found=f"no *{PREPARED_ENDING} that lists it",
        remedy="Give the folder that medrd prepare wrote, or remove --native: the map is on this "
        "scan's own grid anyway.",
    )


def native_mask(
    native: NativeSpace, mask: NDArray[np.bool_], affine: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], int]:
    """Resample a mask (X, Y, Z) to the raw grid, and count findings that get no voxel there.

    Small findings may lie between the centres of thick slices.
    """
    regions, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(regions.ravel())
    resampled = native.labels(regions, affine)
    lost = np.setdiff1d(np.flatnonzero(sizes >= LEAST_VOXELS), resampled)
    return resampled > 0, int(np.count_nonzero(lost))


def write_native(
    native: NativeSpace,
    case: Case,
    out: Path,
    prediction: Prediction,
    paths: dict[str, Path],
    *,
    description: str,
    threshold: float | None,
) -> dict[str, Any]:
    """Write map and mask on the raw grid, add them to ``paths``, and return their record.

    Parameters
    ----------
    prediction
        The result on the prepared grid.
    description, threshold
        The same as for the map on the prepared grid.
    """
    affine = inspect_nifti(case.first_file).affine
    raw_scores = native.scores(prediction.grid_map, affine)
    paths["native_map"], mask_path = (case.output(out, ending) for ending in NATIVE_ENDINGS)
    write_score_map(
        paths["native_map"], raw_scores, native.blank, description=description, threshold=threshold
    )
    record: dict[str, Any] = {"source": native.origin.path}
    if prediction.mask is not None:
        raw_mask, lost = native_mask(native, prediction.mask, affine)
        if lost:
            logger.warning(
                "%s: %d findings are between the raw scan's slices, so the native mask does not "
                "show them; the prepared mask does",
                case.subject.id,
                lost,
            )
        paths["native_mask"] = mask_path
        write_nifti(
            mask_path, raw_mask, native.blank, dtype="uint8", description=f"{MAKER} calibrated mask"
        )
        record["findings_volume_mm3"] = float(raw_mask.sum() * native.blank.voxel_volume_mm3)
        # The same minimum volume as on the prepared grid, whose voxels are smaller.
        share = abs(float(np.linalg.det(affine[:3, :3]))) / native.blank.voxel_volume_mm3
        least = max(1, round(LEAST_VOXELS * share))
        record["findings"] = lesion_table(
            raw_scores, raw_mask, native.blank.affine, min_voxels=least
        )
        record["findings_without_voxel"] = lost
    return {"native": record}
