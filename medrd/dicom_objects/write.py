"""Write a NIfTI map and mask as DICOM objects of the series to which they belong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrd.dicom_objects.parametric_map import make_parametric_map
from medrd.dicom_objects.report import make_report
from medrd.dicom_objects.scene import Maker, open_scene
from medrd.dicom_objects.segmentation import make_segmentation
from medrd.dicom_objects.sources import quiet_pydicom
from medrd.errors import FileFormatError
from medrd.files import atomic_path
from medrd.images.dicom_series import is_dicom, read_header
from medrd.images.nifti import read_mask, read_nifti
from medrd.metrics import lesion_table

if TYPE_CHECKING:
    from pydicom import Dataset

OBJECT_ENDINGS = {
    "segmentation": "_findings.dcm",
    "parametric_map": "_scores.dcm",
    "dicom_report": "_report.dcm",
}
"""Endings of the files, by their keys in a record."""


def write_objects(
    map_path: Path,
    mask_path: Path | None,
    folder: Path,
    series: str | None,
    targets: Mapping[str, Path],
    *,
    maker: Maker,
    scan_score: float | None = None,
    findings: Sequence[Mapping[str, Any]] | None = None,
    keep_names: bool = False,
) -> dict[str, Path]:
    """Write a Parametric Map; and with a mask a report and, if there are findings, a Segmentation.

    Parameters
    ----------
    folder, series
        Where the series lies, and its UID if the folder holds several.
    targets
        Paths by the keys of :data:`OBJECT_ENDINGS`.
    findings
        Rows of the lesion table; by default those of the mask.
    keep_names
        Keep the patient's name, number, birth date and similar values in the objects.

    Returns
    -------
    dict
        The targets that were written.

    Raises
    ------
    InputError
        Map, mask or series cannot be read, the map is not on the grid of the series, or highdicom
        cannot refer to the series.
    OutputError
        A file cannot be written.
    """
    volume = read_nifti(map_path)
    mask = None if mask_path is None else read_mask(mask_path, like=volume)
    if mask is not None and findings is None:
        findings = lesion_table(volume.array, mask, volume.affine)
    scene = open_scene(
        folder,
        series,
        scores=volume.array,
        mask=mask,
        affine=volume.affine,
        findings=findings or (),
        maker=maker,
        keep_names=keep_names,
    )
    try:
        made: dict[str, Dataset] = {"parametric_map": make_parametric_map(scene)}
        if mask is not None:
            segmentation = make_segmentation(scene) if scene.findings else None
            if segmentation is not None:
                made["segmentation"] = segmentation
            made["dicom_report"] = make_report(scene, segmentation, scan_score)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # highdicom's own
        raise FileFormatError(
            folder,
            expected="a series whose headers highdicom can refer to",
            found=f"one that it cannot ({str(error) or type(error).__name__})",
            remedy="Fetch the series again, or leave DICOM output out.",
        ) from None
    for name, data in made.items():
        with atomic_path(targets[name]) as temporary, quiet_pydicom():
            data.save_as(temporary)
    return {name: targets[name] for name in made}


def is_own_object(path: Path) -> bool:
    """Whether medrd made a DICOM file."""
    try:
        return is_dicom(path) and read_header(path).get("Manufacturer") == "medrd"
    except FileFormatError:
        return False
