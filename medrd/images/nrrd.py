"""NRRD files (.nrrd; .nhdr with a file of voxels): the header, checked before any voxel.

Source: https://teem.sourceforge.net/nrrd/format.html; where the space is unknown, ITK's reading
(LPS+ mm) is followed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from medrd.images.geometry import Affine
from medrd.images.header import NiftiHeader, describe_scan
from medrd.images.text_header import NO_PLACE, affine_from_lps, numbers, read_head, sizes, unlike

ENDINGS: Final = (".nrrd", ".nhdr")
_TYPES: Final = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, "
    "int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
_CODES: Final = {name: code for code, names in _TYPES.items() for name in names.split(", ")}
# The signs of x and y that make a space's coordinates LPS+.
_SPACES: Final = {
    "left-posterior-superior": (1, 1),
    "right-anterior-superior": (-1, -1),
    "left-anterior-superior": (1, -1),
}
_SHORT: Final = {"lps": "left-posterior-superior", "ras": "right-anterior-superior"}
_SHORT_LAS = {"las": "left-anterior-superior"}
_VECTOR = re.compile(r"none|\([^)]*\)")


def inspect_nrrd(path: Path, *, frame: int | None, max_voxels: int) -> NiftiHeader:
    """Read and check the header; see :func:`medrd.images.header.inspect_nifti`."""
    fields, head_bytes = _fields(path)
    dims, axes = _axes(path, fields)
    dtype = _dtype(path, fields)
    affine, warnings = _affine(path, fields, axes)
    voxel_path, offset = voxel_file(path), _skip(path, fields)
    if voxel_path == path:
        offset = head_bytes + max(0, offset)
    encoding = fields.get("encoding", "")
    if encoding not in ("raw", "gzip", "gz"):
        raise unlike(path, "the encoding raw or gzip", f"encoding: {encoding}")
    packed = encoding != "raw"
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
    name = _fields(path)[0].get("datafile")
    if name is None:
        return path
    if name.startswith("LIST") or "%" in name:
        raise unlike(path, "voxels in one file", f"data file: {name}")
    return path.parent / name


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The fields by name, without spaces, in small letters; and the bytes that they take."""
    block = read_head(path)
    if not block.startswith(b"NRRD000"):
        raise unlike(path, "an NRRD header", f"a file that begins with {block[:8]!r}")
    fields: dict[str, str] = {}
    position = block.find(b"\n") + 1 or len(block)
    while position < len(block):
        end = block.find(b"\n", position) + 1 or len(block)
        line = block[position:end].decode("latin-1").strip()
        position = end
        if not line:
            break
        name, colon, value = line.partition(":")
        if colon and not value.startswith("=") and not line.startswith("#"):
            fields[name.replace(" ", "").lower()] = value.strip()
    return fields, position


def _dtype(path: Path, fields: Mapping[str, str]) -> np.dtype[Any]:
    name = fields.get("type", "")
    if name not in _CODES:
        raise unlike(path, "voxels that are integer or real numbers", f"type: {name}")
    return np.dtype((">" if fields.get("endian") == "big" else "<") + _CODES[name])


def _axes(path: Path, fields: Mapping[str, str]) -> tuple[tuple[int, ...], list[int]]:
    """The sizes, and which three axes are those of space. Those come first: other axes of one
    value are dropped where they come before."""
    dims = sizes(path, fields.get("sizes", ""))
    vectors = _VECTOR.findall(fields.get("spacedirections", ""))
    kinds = fields.get("kinds", "").lower().split()
    if vectors and len(vectors) != len(dims):
        raise unlike(path, f"{len(dims)} space directions", f"{len(vectors)}")
    if vectors:
        space = [i for i, vector in enumerate(vectors) if vector != "none"]
    elif len(kinds) == len(dims) > 3:
        space = [i for i, kind in enumerate(kinds) if kind in ("domain", "space")]
    else:
        space = list(range(min(3, len(dims))))
    if len(space) == 3 and space == list(range(space[0], space[0] + 3)):
        if math.prod(dims[: space[0]]) == 1:
            return dims[space[0] :], space
        raise unlike(path, "one value per voxel", "vector or colour voxels")
    if len(dims) < 3:
        return dims, space
    raise unlike(path, "three adjacent spatial axes", f"axes {space} of {len(dims)}")


def _affine(
    path: Path, fields: Mapping[str, str], axes: list[int]
) -> tuple[Affine, tuple[str, ...]]:
    directions = _VECTOR.findall(fields.get("spacedirections", ""))
    if directions:
        rows = [numbers(path, directions[i].strip("()"), separator=",") for i in axes]
    else:
        given = numbers(path, fields.get("spacings", "")) or [1.0] * (max(axes, default=0) + 1)
        if len(given) <= max(axes, default=0):
            raise unlike(path, "a spacing for each axis", f"{len(given)}")
        rows = np.diag([given[i] for i in axes]).tolist()
    origin = numbers(path, fields.get("spaceorigin", "(0,0,0)").strip("()"), separator=",")
    if len(rows) != 3 or any(len(row) != 3 for row in rows) or len(origin) != 3:
        raise unlike(path, "a geometry in three dimensions", "another number of values")
    space = fields.get("space", "").lower()
    space = (_SHORT | _SHORT_LAS).get(space, space)
    warnings = []
    if not directions or space not in _SPACES:
        warnings.append(NO_PLACE)
    unit = fields.get("spaceunits", '"mm"').split('"')[1:2]
    if unit and unit[0] not in ("mm", "millimeter", "millimeters", ""):
        warnings.append(f"Lengths are in {unit[0]}; taken as mm.")
    signs = np.array([*_SPACES.get(space, (1, 1)), 1])
    return affine_from_lps(np.array(rows) * signs, np.array(origin) * signs), tuple(warnings)


def _skip(path: Path, fields: Mapping[str, str]) -> int:
    """Bytes before the voxels; below 0 if they are the end of the file."""
    try:
        lines, skipped = int(fields.get("lineskip", 0)), int(fields.get("byteskip", 0))
    except ValueError:
        lines, skipped = 1, 0
    if lines:
        raise unlike(
            path, "voxels that begin at a byte (byte skip)", "ones after lines of text (line skip)"
        )
    return skipped
