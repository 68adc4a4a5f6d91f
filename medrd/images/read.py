"""Read a volume from a file (NIfTI, MGH, MetaImage, NRRD) or a DICOM series."""

from __future__ import annotations

from pathlib import Path

from medrd.images.dicom import read_dicom
from medrd.images.dicom_series import is_dicom
from medrd.images.formats import scan_file
from medrd.images.header import DEFAULT_MAX_VOXELS
from medrd.images.nifti import read_nifti
from medrd.images.volume import Volume


def read_volume(
    path: str | Path,
    *,
    frame: int | None = None,
    series: str | None = None,
    max_voxels: int = DEFAULT_MAX_VOXELS,
) -> Volume:
    """Read DICOM files, recognised by their content, as a series, and any other file by its ending.

    A folder that has a scan's name and holds one scan is that scan.

    ``series`` is a Series Instance UID, for a folder with several series. Raises InputError; see
    :func:`read_dicom` and :func:`read_nifti`.
    """
    path = Path(path)
    path = scan_file(path) or path
    if path.is_dir() or is_dicom(path):
        return read_dicom(path, series=series, frame=frame, max_voxels=max_voxels)
    return read_nifti(path, frame=frame, max_voxels=max_voxels)
