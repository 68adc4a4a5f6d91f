"""Files <-> :class:`Volume`: NIfTI and DICOM in, NIfTI out; a bridge to SimpleITK."""

from medrd.volumes.atomic import (
    atomic_folder,
    atomic_path,
    refuse_foreign,
    write_json,
    write_text,
)
from medrd.volumes.box import bounding_box
from medrd.volumes.dicom import (
    choose_series,
    find_series,
    holds_dicom,
    read_dicom,
    series_of,
)
from medrd.volumes.dicom_meta import is_dicom
from medrd.volumes.header import DEFAULT_MAX_VOXELS, NiftiHeader, inspect_nifti
from medrd.volumes.nifti import read_mask, read_nifti, write_nifti
from medrd.volumes.read import read_volume
from medrd.volumes.sitk import sitk_array, to_sitk
from medrd.volumes.volume import Grid, Volume, check_same_grid, volume_from_array

__all__ = [
    "DEFAULT_MAX_VOXELS",
    "Grid",
    "NiftiHeader",
    "Volume",
    "atomic_folder",
    "atomic_path",
    "bounding_box",
    "check_same_grid",
    "choose_series",
    "find_series",
    "holds_dicom",
    "inspect_nifti",
    "is_dicom",
    "read_dicom",
    "read_mask",
    "read_nifti",
    "read_volume",
    "refuse_foreign",
    "series_of",
    "sitk_array",
    "to_sitk",
    "volume_from_array",
    "write_json",
    "write_nifti",
    "write_text",
]
