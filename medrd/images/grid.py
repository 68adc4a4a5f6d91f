"""The grid of a NIfTI file, kept raw so that every output has it bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import DTypeLike, NDArray

from medrd.images.geometry import Affine, is_sheared

_NIFTI1_MAX_DIM = 32767  # dim is int16 in NIfTI-1


@dataclass(frozen=True, eq=False)
class Grid:
    """The header fields that outputs repeat bit for bit: shape, both transforms and codes, units.

    Numbers are in the header's own precision (float32 in NIfTI-1, float64 in NIfTI-2) and as
    stored, including invalid ones, so that an output is placed exactly like its input.

    Attributes
    ----------
    shape
        As in the file, trailing dimensions of 1 included. For one frame of a 4D file, the
        three spatial dimensions.
    sform
        (3, 4), the rows ``srow_x``, ``srow_y``, ``srow_z``.
    quaternion, offset
        (3,) each: ``quatern_b``, ``_c``, ``_d`` and ``qoffset_x``, ``_y``, ``_z``.
    pixdim
        (8,): ``qfac``, the voxel's edges, then the steps of further dimensions.
    nifti_version
        1 or 2.

    Source: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
    """

    shape: tuple[int, ...]
    sform: NDArray[np.floating[Any]]
    sform_code: int
    quaternion: NDArray[np.floating[Any]]
    offset: NDArray[np.floating[Any]]
    pixdim: NDArray[np.floating[Any]]
    qform_code: int
    xyzt_units: int
    nifti_version: int = 1


def grid_of_header(header: nib.Nifti1Header, shape: tuple[int, ...], version: int) -> Grid:
    """The raw geometry of a header, in native byte order."""

    def raw(*names: str) -> NDArray[np.floating[Any]]:
        values = np.squeeze([header[name] for name in names])
        return values.astype(values.dtype.newbyteorder("="))

    return Grid(
        shape=shape,
        sform=raw("srow_x", "srow_y", "srow_z"),
        sform_code=int(header["sform_code"]),
        quaternion=raw("quatern_b", "quatern_c", "quatern_d"),
        offset=raw("qoffset_x", "qoffset_y", "qoffset_z"),
        pixdim=raw("pixdim"),
        qform_code=int(header["qform_code"]),
        xyzt_units=int(header["xyzt_units"]),
        nifti_version=version,
    )


def header_of_grid(grid: Grid, dtype: DTypeLike) -> nib.Nifti1Header:
    """A fresh little-endian single-file header on a grid, with slope 1 and intercept 0.

    Fields are set one by one: nibabel's own setters would normalise quaternions, replace a
    qfac of 0 and drop codes that they do not know.
    """
    header = _empty_header(grid.nifti_version)
    header.set_data_dtype(dtype)
    header["dim"] = 1
    header["dim"][: len(grid.shape) + 1] = (len(grid.shape), *grid.shape)
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["srow_x"], header["srow_y"], header["srow_z"] = grid.sform
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = grid.quaternion
    header["qoffset_x"], header["qoffset_y"], header["qoffset_z"] = grid.offset
    header["pixdim"] = grid.pixdim
    header["sform_code"], header["qform_code"] = grid.sform_code, grid.qform_code
    header["xyzt_units"] = grid.xyzt_units
    return header


def grid_from_affine(shape: tuple[int, ...], affine: Affine, *, code: int = 1) -> Grid:
    """A grid for voxels that do not come from a NIfTI file (DICOM, phantoms).

    Parameters
    ----------
    shape
        (X, Y, Z).
    affine
        (4, 4), voxel index to RAS+ mm. The sform stores it in float32, and so does the qform
        unless the affine is sheared, which a quaternion cannot represent: its code is then 0.
    code
        NIfTI code of both transforms; 1 is the scanner's own space.
    """
    version = 2 if max(shape) > _NIFTI1_MAX_DIM else 1
    header = _empty_header(version)
    header.set_data_shape(shape)
    header.set_sform(affine, code=code)
    header.set_qform(affine, code=0 if is_sheared(affine) else code)
    header.set_xyzt_units("mm")
    return grid_of_header(header, shape, version)


def _empty_header(version: int) -> nib.Nifti1Header:
    if version == 2:
        return nib.Nifti2Header(endianness="<")
    return nib.Nifti1Header(endianness="<")
