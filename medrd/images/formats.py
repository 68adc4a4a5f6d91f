"""The file formats of scans: their names, and the functions that read their headers."""

from __future__ import annotations

import re
from pathlib import Path

from medrd.images import metaimage, mgh, nrrd
from medrd.images.header import (
    DEFAULT_MAX_VOXELS,
    NiftiHeader,
    header_and_voxel_files,
    inspect_nifti,
)

# An .img is read through its .hdr, and the file of voxels of an .mhd or .nhdr through that.
_ENDING = re.compile(r"(\.(nii|hdr|mgh)(\.gz)?|\.mgz|\.mh[ad]|\.nrrd|\.nhdr)$", re.IGNORECASE)
_IMG = re.compile(r"\.img(\.gz)?$", re.IGNORECASE)
_UNREAD = re.compile(
    r"\.(mnc|(mif|brik|gipl)(\.gz)?|par|vtk|nii\.(bz2|xz|zst|zip|gz\.gz))$", re.IGNORECASE
)
SCAN_ENDINGS = ".nii, .nii.gz, .hdr with .img, .mgh, .mgz, .mha, .mhd, .nrrd, .nhdr"
"""The endings of scans, for messages."""


def scan_stem(path: Path) -> str:
    """``a/b_flair.nii.gz`` -> ``b_flair``."""
    return _ENDING.sub("", _IMG.sub("", path.name))


def scan_ending(path: Path) -> str:
    """``.nii.gz`` of ``a.nii.gz``; "" for a name of another kind."""
    found = _ENDING.search(path.name)
    return found.group() if found else ""


def is_scan_name(path: Path) -> bool:
    """True if the name is that of a scan; not if hidden (macOS resource forks ``._x.nii.gz``)."""
    return bool(_ENDING.search(path.name)) and not path.name.startswith(".")


def unread_ending(path: Path) -> str:
    """``.mnc`` of ``a.mnc``: the ending of a scan in a format that is not read; "" of others."""
    found = _UNREAD.search(path.name)
    return found.group() if found and not path.name.startswith(".") else ""


def scan_file(path: Path) -> Path | None:
    """The file of the scan with this name; None if the name is not a scan's, or there is no such
    file.

    Unpackers and some copies of BraTS put a scan into a folder of its name
    (``a_flair.nii/scan.nii``): then it is the only scan in that folder.
    """
    if not is_scan_name(path):
        return None
    if not path.is_dir():
        return path
    inside = [each for each in sorted(path.iterdir()) if is_scan_name(each) and each.is_file()]
    return inside[0] if len(inside) == 1 else None


def header_file(path: Path) -> Path:
    """The file to read for this one: for an ``.img``, the ``.hdr`` beside it."""
    return header_and_voxel_files(path)[0] if _IMG.search(path.name) else path


def parts_of(path: Path) -> list[Path]:
    """All files that a scan consists of: one, or a header and its voxels.

    Raises
    ------
    InputError
        The header of an .mhd or .nhdr cannot be read.
    """
    path = header_file(path)
    ending = scan_ending(path).lower()
    if ending in (".hdr", ".hdr.gz"):
        return list(header_and_voxel_files(path))
    if ending in (".mhd", ".nhdr"):
        of = metaimage.voxel_file if ending == ".mhd" else nrrd.voxel_file
        return list(dict.fromkeys([path, of(path)]))
    return [path]


def inspect_scan(
    path: str | Path, *, frame: int | None = None, max_voxels: int = DEFAULT_MAX_VOXELS
) -> NiftiHeader:
    """Read and check the header alone, whatever the format; see :func:`inspect_nifti`."""
    path = Path(path)
    ending = scan_ending(path).lower()
    for module, inspect in (
        (mgh, mgh.inspect_mgh),
        (metaimage, metaimage.inspect_metaimage),
        (nrrd, nrrd.inspect_nrrd),
    ):
        if ending in module.ENDINGS:
            return inspect(path, frame=frame, max_voxels=max_voxels)
    return inspect_nifti(path, frame=frame, max_voxels=max_voxels)
