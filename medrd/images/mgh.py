"""FreeSurfer's MGH and MGZ files: the header, checked before a single voxel is read.

Source: https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from medrd.errors import FileFormatError
from medrd.images.geometry import Affine
from medrd.images.header import NiftiHeader, describe_scan
from medrd.images.stream import open_forward

ENDINGS: Final = (".mgh", ".mgh.gz", ".mgz")
_VOXEL_OFFSET = 284
_HEADER = np.dtype(
    [
        ("version", ">i4"),
        ("dims", ">i4", (4,)),
        ("type", ">i4"),
        ("dof", ">i4"),
        ("good_ras", ">i2"),
        ("spacing_mm", ">f4", (3,)),
        ("axes", ">f4", (3, 3)),
        ("centre_mm", ">f4", (3,)),
    ]
)
_TYPES: Final = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
# What FreeSurfer assumes where the header does not give the geometry: coronal slices of 1 mm.
_DEFAULT_AXES = np.array([[-1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float64)


def inspect_mgh(path: Path, *, frame: int | None, max_voxels: int) -> NiftiHeader:
    """Read and check the header; see :func:`medrd.images.header.inspect_nifti`."""
    with open_forward(path) as stream:
        block = stream.read_exactly(_HEADER.itemsize)
    header = np.frombuffer(block, _HEADER)[0]
    if header["version"] != 1:
        raise FileFormatError(
            path,
            expected="an MGH header, which begins with the number 1",
            found=f"a file that begins with {block[:4]!r}",
            remedy="This is not a FreeSurfer volume, despite its name. Copy it again.",
        )
    code = int(header["type"])
    if code not in _TYPES:
        raise FileFormatError(
            path,
            expected="voxels that are integer or real numbers",
            found=f"the MGH type {code}",
            remedy="Convert it with mri_convert to NIfTI.",
        )
    dims = [int(size) for size in header["dims"]]
    affine, warnings = _affine(header, dims[:3])
    return describe_scan(
        path,
        dims=tuple(dims if dims[3] != 1 else dims[:3]),
        dtype=np.dtype(_TYPES[code]),
        affine=affine,
        voxel_offset=_VOXEL_OFFSET,
        warnings=warnings,
        has_footer=True,
        frame=frame,
        max_voxels=max_voxels,
    )


def _affine(header: NDArray[Any], dims: list[int]) -> tuple[Affine, tuple[str, ...]]:
    """Voxel index to RAS+ mm: the header gives the axes and the centre of the field."""
    axes, spacing_mm, centre_mm = _DEFAULT_AXES, np.ones(3), np.zeros(3)
    warnings: tuple[str, ...] = (
        "The header does not give the geometry: left and right are FreeSurfer's guess.",
    )
    if header["good_ras"] > 0:
        axes, spacing_mm = header["axes"].astype(np.float64), header["spacing_mm"]
        centre_mm, warnings = header["centre_mm"].astype(np.float64), ()
    affine = np.eye(4)
    affine[:3, :3] = axes.T * spacing_mm
    affine[:3, 3] = centre_mm - affine[:3, :3] @ (np.asarray(dims) / 2)
    return affine, warnings
