"""Files <-> :class:`Volume`: NIfTI in and out, atomic writes, a bridge to SimpleITK."""

from medrd.volumes.atomic import atomic_path, write_json, write_text
from medrd.volumes.header import DEFAULT_MAX_VOXELS, NiftiHeader, inspect_nifti
from medrd.volumes.nifti import read_mask, read_nifti, write_nifti
from medrd.volumes.sitk import to_sitk
from medrd.volumes.volume import Grid, Volume, check_same_grid, volume_from_array

__all__ = [
    "DEFAULT_MAX_VOXELS",
    "Grid",
    "NiftiHeader",
    "Volume",
    "atomic_path",
    "check_same_grid",
    "inspect_nifti",
    "read_mask",
    "read_nifti",
    "to_sitk",
    "volume_from_array",
    "write_json",
    "write_nifti",
    "write_text",
]
