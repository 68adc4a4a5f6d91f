"""MetaImage files (.mha; .mhd with a file of voxels): the header, checked before any voxel.

Source: https://itk.org/Wiki/ITK/MetaIO/Documentation; the geometry is as ITK reads it, in LPS+ mm.
ITK itself does not read the file: it returns damaged voxels of a compressed file without an error,
and some damaged files crash it (10 of 1,516 at random, SimpleITK 2.5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from medrd.images.geometry import Affine
from medrd.images.header import NiftiHeader, describe_scan
from medrd.images.text_header import NO_PLACE, affine_from_lps, numbers, read_head, sizes, unlike

ENDINGS: Final = (".mha", ".mhd")
_TYPES: Final = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_LAST = "elementdatafile"


def inspect_metaimage(path: Path, *, frame: int | None, max_voxels: int) -> NiftiHeader:
    """Read and check the header; see :func:`medrd.images.header.inspect_nifti`."""
    fields, head_bytes = _fields(path)
    dims = sizes(path, fields.get("dimsize", ""))
    dtype = _dtype(path, fields)
    affine, warnings = _affine(path, fields)
    voxel_path, offset = voxel_file(path), _whole(fields, "headersize", 0)
    if voxel_path == path:
        offset += head_bytes
    packed = fields.get("compresseddata", "false").lower() == "true"
    return describe_scan(
        path,
        voxel_path=voxel_path,
        dims=dims,
        dtype=dtype,
        affine=affine,
        voxel_offset=None if offset < 0 and not packed else max(0, offset),
        packed=packed,
        warnings=warnings,
        frame=frame,
        max_voxels=max_voxels,
    )


def voxel_file(path: Path) -> Path:
    """The file that holds the voxels: this one or the one that it names."""
    name = _fields(path)[0][_LAST]
    if name.upper() == "LOCAL":
        return path
    if name.upper().startswith("LIST") or "%" in name:
        raise unlike(path, "voxels in one file", f"ElementDataFile = {name}")
    return path.parent / name


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The fields by name in small letters, and the bytes that they take."""
    block = read_head(path)
    fields: dict[str, str] = {}
    position = 0
    while position < len(block) and _LAST not in fields:
        end = block.find(b"\n", position) + 1 or len(block)
        name, equals, value = block[position:end].decode("latin-1").partition("=")
        if not equals and name.strip():
            break
        fields[name.strip().lower()] = value.strip()
        position = end
    if not fields.get(_LAST):
        start = block[:8]
        raise unlike(path, "a MetaImage header that ends with ElementDataFile", f"{start!r}…")
    return fields, position


def _dtype(path: Path, fields: Mapping[str, str]) -> np.dtype[Any]:
    name = fields.get("elementtype", "")
    if name not in _TYPES:
        raise unlike(path, "voxels that are integer or real numbers", f"ElementType = {name}")
    if _whole(fields, "elementnumberofchannels", 1) != 1:
        raise unlike(path, "one value per voxel", "vector or colour voxels")
    if fields.get("binarydata", "true").lower() != "true":
        raise unlike(path, "binary voxels", "voxels as text")
    flag = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "false"))
    return np.dtype((">" if flag.lower() == "true" else "<") + _TYPES[name])


def _affine(path: Path, fields: Mapping[str, str]) -> tuple[Affine, tuple[str, ...]]:
    def given(*names: str) -> list[float] | None:
        text = next((fields[name] for name in names if name in fields), None)
        return None if text is None else numbers(path, text)

    matrix = given("transformmatrix", "rotation", "orientation")
    spacing = given("elementspacing", "elementsize") or [1.0, 1.0, 1.0]
    origin = given("offset", "position", "origin") or [0.0, 0.0, 0.0]
    count = math.isqrt(len(matrix)) if matrix else 3
    axes = np.array(matrix if matrix else np.eye(3).ravel())
    if count < 3 or axes.size != count**2 or len(spacing) < 3 or len(origin) < 3:
        raise unlike(path, "a geometry in three dimensions", "fewer numbers")
    axes_mm = axes.reshape(count, count)[:3, :3] * np.array(spacing[:3])[:, None]
    return affine_from_lps(axes_mm, np.array(origin[:3])), () if matrix else (NO_PLACE,)


def _whole(fields: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(fields.get(name, default))
    except ValueError:
        return default
