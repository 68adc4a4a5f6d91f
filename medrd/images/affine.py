"""The affine of a NIfTI header that is in force, with warnings about oddities.

As in nibabel, this is the sform if it is coded, else the qform, else a guess from the voxel
sizes. ITK prefers the qform, so there is a warning if the two transforms differ.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from medrd.errors import AffineError
from medrd.images import geometry
from medrd.images.geometry import Affine, Shape3

_KNOWN_CODES = range(6)
_SAME_SIZE = 0.05
"""Relative difference up to which voxel sizes are equal: some are rounded, or sheared a little."""
_UNITS_MM = {1: ("metres", 1e3), 3: ("microns", 1e-3)}
"""Units by the lowest three bits of xyzt_units; 2 is mm, and 0 (unknown) counts as mm."""

# nibabel logs what it repairs in a header; medrd reports it in Volume.warnings.
_SILENT = logging.getLogger(f"{__name__}.silent")
_SILENT.disabled = True
_NEVER_RAISE = 1000


# Broken fields may overflow before they are recognised as broken.
@np.errstate(over="ignore", invalid="ignore")
def affine_in_force(
    path: str | Path, header: nib.Nifti1Header, shape: Shape3
) -> tuple[Affine, tuple[str, ...]]:
    """The affine of a header with raw fields, and warnings about it.

    Returns
    -------
    tuple
        (4, 4) float64, voxel index to RAS+ mm, and a sentence for each oddity.

    Raises
    ------
    AffineError
        If it is not finite or not invertible, or the qform in force is not a rotation.
    """
    header = _in_mm(header)
    # nibabel's repairs, on a copy: unknown codes count as 0, a qfac that is neither 1 nor -1 as 1,
    # negative voxel sizes as positive. They cause warnings; a voxel size of 0, which becomes 1 mm,
    # is refused if it matters.
    repaired = header.copy()
    repaired.check_fix(logger=_SILENT, error_level=_NEVER_RAISE)
    qform = _qform(repaired)
    affine: Affine | None
    if repaired["sform_code"]:
        source, affine = "sform", repaired.get_sform()
    elif repaired["qform_code"]:
        source, affine = "qform", qform
    else:
        source, affine = "voxel sizes", repaired.get_base_affine()
    edges = np.asarray(header["pixdim"][1:4], np.float64)
    if source != "sform" and not (np.isfinite(edges).all() and edges.all()):
        sizes = " x ".join(f"{edge:g}" for edge in edges)
        raise _affine_error(path, f"no sform, and voxel sizes of {sizes} mm (pixdim)")
    if affine is None:
        raise _affine_error(path, "a qform whose quaternion is not a rotation")
    check_affine(path, affine, source)

    warnings = [*_code_warnings(header, source), *_pixdim_warnings(header, source, affine)]
    if source == "sform" and qform is not None:
        warnings += _qform_warnings(affine, qform, shape)
    elif repaired["qform_code"] and qform is None:
        warnings.append(
            "The quaternion of the qform is not a rotation: the sform is used, and programs that "
            "prefer the qform may refuse the scan."
        )
    warnings += _shape_warnings(header, affine)
    return affine, tuple(warnings)


def _in_mm(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """A copy whose lengths are in mm, as in ITK and FreeSurfer; nibabel and FSL ignore the unit."""
    header = header.copy()
    _, factor = _UNITS_MM.get(int(header["xyzt_units"]) & 7, ("", 1))
    header["pixdim"][1:4] *= factor
    for name in ("srow_x", "srow_y", "srow_z"):
        header[name] *= factor
    for name in ("qoffset_x", "qoffset_y", "qoffset_z"):
        header[name] = header[name] * factor
    return header


def check_affine(where: str | Path, affine: Affine, source: str) -> None:
    """Raise AffineError, naming ``source``, unless the affine is finite and invertible."""
    if not geometry.is_invertible(affine):
        rows = [[float(f"{value:.6g}") for value in row] for row in affine[:3]]
        raise _affine_error(where, f"{source} {rows}")


def _affine_error(where: str | Path, found: str) -> AffineError:
    return AffineError(
        where,
        expected="a finite, invertible affine",
        found=found,
        remedy="Copy the geometry from a sound scan on the same grid (fslcpgeom), or export "
        "the scan again.",
    )


def _qform(repaired: nib.Nifti1Header) -> Affine | None:
    """The qform, if it is coded and its quaternion is valid."""
    try:
        qform: Affine | None = repaired.get_qform(coded=True)[0]
    except ValueError:  # b² + c² + d² > 1
        return None
    return qform


def _code_warnings(header: nib.Nifti1Header, source: str) -> Iterator[str]:
    for name in ("sform_code", "qform_code"):
        if header[name] not in _KNOWN_CODES:
            yield f"{name} {int(header[name])} is unknown and counts as 0."
    if source == "voxel sizes":
        yield (
            "Neither sform nor qform is coded: left and right are a guess, and other "
            "programs may guess differently."
        )


def _pixdim_warnings(header: nib.Nifti1Header, source: str, affine: Affine) -> Iterator[str]:
    qfac, edges = float(header["pixdim"][0]), np.asarray(header["pixdim"][1:4], np.float64)
    sizes = " x ".join(f"{edge:g}" for edge in edges)
    if header["qform_code"] and qfac not in (-1, 1):
        yield (
            f"pixdim[0], which tells whether the qform mirrors the scan, is {qfac:g} instead of 1 "
            "or -1 and counts as 1."
        )
    if source != "sform":
        if (edges < 0).any():
            yield f"The voxel sizes {sizes} mm (pixdim) are negative and count as positive."
        return
    own = geometry.spacing_mm(affine)
    if not np.allclose(edges, own, rtol=_SAME_SIZE):
        yield (
            f"The voxel sizes {sizes} mm (pixdim) are not those of the sform, "
            f"{' x '.join(f'{edge:g}' for edge in own)} mm, which is used: other programs may "
            "measure otherwise."
        )


def _qform_warnings(affine: Affine, qform: Affine, shape: Shape3) -> Iterator[str]:
    # Half a voxel, below which a viewer that prefers the qform shows no other voxel. Not
    # less: float32 quaternions near a half turn (LPS is one) put the corners of a 240 mm
    # field up to 0.34 mm off by themselves (measured on 3,000 random rotations).
    apart_mm = geometry.max_displacement_mm(affine, qform, shape)
    if not apart_mm <= 0.5 * min(geometry.spacing_mm(affine)):
        yield (
            f"sform and qform lie up to {apart_mm:.3g} mm apart: the sform is used, and "
            "viewers that prefer the qform (ITK-SNAP, 3D Slicer) show the scan elsewhere."
        )


def _shape_warnings(header: nib.Nifti1Header, affine: Affine) -> Iterator[str]:
    if geometry.is_sheared(affine):
        yield "The affine is sheared: programs built on ITK may refuse it or drop the shear."
    units = int(header["xyzt_units"]) & 7
    if units in _UNITS_MM:
        yield (
            f"Lengths are in {_UNITS_MM[units][0]} (xyzt_units) and were converted to mm; programs "
            "that ignore the unit misread the size."
        )
    elif units not in (0, 2):
        yield f"Lengths are in unknown unit {units}; taken as mm."
