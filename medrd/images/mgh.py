"""FreeSurfer's MGH and MGZ files: the header, checked before a single voxel is read.

nibabel parses the fields. Source: https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader

from medrd.errors import FileFormatError
from medrd.images.header import NiftiHeader, describe_scan
from medrd.images.stream import open_forward

ENDINGS: Final = (".mgh", ".mgh.gz", ".mgz")
_HEADER_BYTES, _VOXEL_OFFSET = 90, 284
# What FreeSurfer assumes where the header does not give the geometry: coronal slices of 1 mm.
# In nibabel's own default, the second and third axis point the other way.
_DEFAULT: Final = {"Mdc": [[-1, 0, 0], [0, 0, -1], [0, 1, 0]], "delta": 1, "Pxyz_c": 0}


def inspect_mgh(path: Path, *, frame: int | None, max_voxels: int) -> NiftiHeader:
    """Read and check the header; see :func:`medrd.images.header.inspect_nifti`."""
    with open_forward(path) as stream:
        block = stream.read_exactly(_HEADER_BYTES)
    if int.from_bytes(block[:4]) != 1:
        raise FileFormatError(
            path,
            expected="an MGH header, which begins with the number 1",
            found=f"a file that begins with {block[:4]!r}",
            remedy="This is not a FreeSurfer volume, despite its name. Copy it again.",
        )
    header = MGHHeader(block, check=False)
    try:
        dtype = header.get_data_dtype()
    except KeyError:
        raise FileFormatError(
            path,
            expected="voxels that are integer or real numbers",
            found=f"the MGH type {int(header['type'])}",
            remedy="Convert it with mri_convert to NIfTI.",
        ) from None
    warnings: tuple[str, ...] = ()
    if int.from_bytes(block[28:30], signed=True) <= 0:  # nibabel overwrites goodRASFlag
        for name, value in _DEFAULT.items():
            header[name] = value
        warnings = (
            "The header does not give the geometry: left and right are FreeSurfer's guess.",
        )
    with np.errstate(over="ignore", invalid="ignore"):  # of damaged fields, refused below
        affine = np.asarray(header.get_affine(), np.float64)
    return describe_scan(
        path,
        dims=tuple(int(size) for size in header.get_data_shape()),
        dtype=dtype,
        affine=affine,
        voxel_offset=_VOXEL_OFFSET,
        warnings=warnings,
        has_footer=True,
        frame=frame,
        max_voxels=max_voxels,
    )
