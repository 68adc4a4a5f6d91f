"""Check a NIfTI header before a single voxel is read.

nibabel parses the fields. Sizes and magic are checked here, because a hostile or broken header
must give a typed error before any memory is allocated.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from medrd.errors import FileFormatError, ShapeError, TooLargeError
from medrd.files import describe_start, open_regular
from medrd.images.affine import affine_in_force, check_affine
from medrd.images.geometry import Affine, Shape3, format_shape
from medrd.images.grid import Grid, grid_from_affine, grid_of_header
from medrd.images.stream import open_forward

# 134 million voxels: fifteen times a 1 mm head, more than a 0.5 mm one, and 0.5 GiB as
# float32, so that prediction with its handful of copies fits a 8 GiB laptop.
DEFAULT_MAX_VOXELS = 512**3

# Header extensions precede the voxels. Real ones (DICOM fields, XML) have kilobytes; without a
# limit, a header could make the reader skip terabytes of gzip.
_MAX_VOXEL_OFFSET = 64 << 20

_START_BYTES = 64
_MAGICS = {b"n+1", b"ni1", b"n+2", b"ni2"}
_LINE_ENDS = ([13, 10, 26, 10], [0, 0, 0, 0])  # some programs write zeros
_LABEL_INTENT = 1002
_EXPORT_AGAIN = "Export the scan again, for instance with dcm2niix."


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """The contents of a header that has passed all checks.

    Attributes
    ----------
    path, voxel_path
        The file as named by the caller, and the file with the voxels; they differ only for an
        ``.hdr`` and ``.img`` pair.
    shape
        (X, Y, Z).
    frames, frame
        The number of three-dimensional images in the file, and the one that was chosen.
    affine
        (4, 4), the affine in force, voxel index to RAS+ mm.
    grid
        The raw geometry of one frame.
    dtype
        Type on disk, with byte order.
    scaling
        (slope, intercept), or None if the voxels are used as stored.
    voxel_offset
        Bytes before the first voxel.
    warnings
        Oddities of the geometry, one sentence each.
    packed
        Whether a compressed stream begins at ``voxel_offset``. None: the file's name tells, and
        the offset counts bytes of the uncompressed file.
    has_footer
        Whether bytes after the last voxel are usual.
    """

    path: Path
    voxel_path: Path
    shape: Shape3
    frames: int
    frame: int
    affine: Affine
    grid: Grid
    dtype: np.dtype[Any]
    scaling: tuple[float, float] | None
    voxel_offset: int
    warnings: tuple[str, ...]
    packed: bool | None = None
    has_footer: bool = False


def inspect_nifti(
    path: str | Path, *, frame: int | None = None, max_voxels: int = DEFAULT_MAX_VOXELS
) -> NiftiHeader:
    """Read and check the header alone.

    Parameters
    ----------
    path
        ``.nii``, ``.nii.gz``, or either file of an ``.hdr`` and ``.img`` pair (``.gz`` too).
        NIfTI-1 or NIfTI-2, either byte order.
    frame
        Which three-dimensional image of a 4D file, from 0.
    max_voxels
        Budget for all frames together, because all of them are read to the end.

    Raises
    ------
    MissingInputError, FileFormatError, TruncatedFileError
        If there is no readable NIfTI header.
    ShapeError
        If it is not one three-dimensional image, or there is no such frame.
    TooLargeError
        If it promises more than ``max_voxels``.
    AffineError
        If the affine in force is not finite or not invertible.
    """
    path = Path(path)
    header_path, voxel_path = header_and_voxel_files(path)
    version, header = _read_header(header_path)
    dtype = _dtype(path, header)
    dims = _dims(path, header)
    shape, frames = (dims[0], dims[1], dims[2]), math.prod(dims[3:])
    chosen = _chosen_frame(path, dims, frames, frame)
    _check_budget(path, dims, max_voxels)
    affine, warnings = affine_in_force(path, header, shape)
    pair = header_path != voxel_path
    _check_magic_is_of(path, header, version, pair=pair)
    return NiftiHeader(
        path=path,
        voxel_path=voxel_path,
        shape=shape,
        frames=frames,
        frame=chosen,
        affine=affine,
        grid=grid_of_header(header, dims if frames == 1 else shape, version),
        dtype=dtype,
        scaling=_scaling(path, header),
        voxel_offset=_voxel_offset(path, header, pair=pair),
        warnings=(*warnings, *_value_warnings(header, dtype, pair=pair)),
    )


def describe_scan(
    path: Path,
    *,
    dims: tuple[int, ...],
    dtype: np.dtype[Any],
    affine: Affine,
    voxel_offset: int | None,
    frame: int | None,
    max_voxels: int,
    voxel_path: Path | None = None,
    packed: bool | None = None,
    warnings: tuple[str, ...] = (),
    has_footer: bool = False,
) -> NiftiHeader:
    """The description of a scan in another format than NIfTI, checked in the same way.

    Parameters
    ----------
    dims
        All dimensions of the file, those of space first.
    affine
        (4, 4), voxel index to RAS+ mm.
    voxel_offset
        Bytes before the voxels; None if the voxels are at the end of ``voxel_path``.

    Raises
    ------
    ShapeError, TooLargeError, AffineError, MissingInputError
        As :func:`inspect_nifti`.
    """
    voxel_path = voxel_path or path
    if len(dims) < 3 or min(dims) < 1:
        raise _shape_error(path, f"dimensions {format_shape(dims)}")
    _check_budget(path, dims, max_voxels)
    shape, frames = (dims[0], dims[1], dims[2]), math.prod(dims[3:])
    chosen = _chosen_frame(path, dims, frames, frame)
    check_affine(path, affine, "header's geometry")
    with np.errstate(over="ignore", invalid="ignore"):
        grid = grid_from_affine(shape, affine)
    held = np.vstack([grid.sform.astype(np.float64), [0.0, 0.0, 0.0, 1.0]])
    check_affine(path, held, "header's geometry")  # in float32
    if voxel_offset is None:
        with open_regular(voxel_path, kind="file of voxels") as file:
            size = file.seek(0, os.SEEK_END)
        voxel_offset = max(0, size - math.prod(dims) * dtype.itemsize)
    return NiftiHeader(
        path=path,
        voxel_path=voxel_path,
        shape=shape,
        frames=frames,
        frame=chosen,
        affine=held,
        grid=grid,
        dtype=dtype,
        scaling=None,
        voxel_offset=voxel_offset,
        warnings=warnings,
        packed=packed,
        has_footer=has_footer,
    )


def header_and_voxel_files(path: Path) -> tuple[Path, Path]:
    """The two files of an ``.hdr`` and ``.img`` pair; the same file twice for a single file."""
    gz = path.suffix if path.suffix.lower() == ".gz" else ""
    bare = path.with_suffix("") if gz else path
    kind = bare.suffix
    if kind.lower() == ".nii":
        return path, path
    if kind.lower() in {".hdr", ".img"}:
        hdr, img = (".HDR", ".IMG") if kind.isupper() else (".hdr", ".img")
        return bare.with_suffix(hdr + gz), bare.with_suffix(img + gz)
    raise FileFormatError(
        path,
        expected="a NIfTI file: .nii, .nii.gz or an .hdr and .img pair",
        found="a folder" if path.is_dir() else f"the suffix {path.suffix!r}",
        remedy="Convert the image to NIfTI (mri_convert, 3D Slicer), or name the right file.",
    )


def _read_header(path: Path) -> tuple[int, nib.Nifti1Header]:
    """The NIfTI version, and the header with its fields as stored."""
    with open_forward(path) as stream:
        start = stream.read(_START_BYTES)
        number = start[:4]
        sizes = {"<": int.from_bytes(number, "little"), ">": int.from_bytes(number, "big")}
        for byte_order, size in sizes.items():
            if size == nib.Nifti1Header.sizeof_hdr:
                block = start + stream.read_exactly(size - len(start))
                return 1, _with_magic(path, nib.Nifti1Header(block, byte_order, check=False))
            if size == nib.Nifti2Header.sizeof_hdr:
                block = start + stream.read_exactly(size - len(start))
                return 2, _with_magic(path, nib.Nifti2Header(block, byte_order, check=False))
    raise FileFormatError(
        path,
        expected="a NIfTI header, which begins with the number 348 or 540",
        found=describe_start(start),
        remedy="This is not a NIfTI file, despite its name. Download or export it again.",
    )


def _with_magic(path: Path, header: nib.Nifti1Header) -> nib.Nifti1Header:
    magic = header["magic"].item()
    if magic not in _MAGICS:
        raise FileFormatError(
            path,
            expected="the magic of NIfTI, n+1, ni1, n+2 or ni2",
            found=f"{magic!r}",
            remedy="Analyze 7.5 files have none and do not say which side is left: convert "
            "the file to NIfTI with a tool that knows where it came from.",
        )
    if "eol_check" in header and header["eol_check"].tolist() not in _LINE_ENDS:
        raise FileFormatError(
            path,
            expected="NIfTI-2's line end bytes 13 10 26 10",
            found=f"{header['eol_check'].tolist()}",
            remedy="A program has copied the file as text. Copy it again, as binary.",
        )
    return header


def _check_magic_is_of(path: Path, header: nib.Nifti1Header, version: int, *, pair: bool) -> None:
    """Refuse a magic of the other version, or of the other kind of file, which would move the
    voxels."""
    magic, expected = header["magic"].item(), f"n{'i' if pair else '+'}{version}".encode()
    if magic != expected:
        kind = "an .hdr and .img pair" if pair else "a single file"
        raise FileFormatError(
            path,
            expected=f"the magic of {kind} of NIfTI-{version}, {expected!r}",
            found=f"{magic!r}",
            remedy="The file was renamed or damaged: export it again, or restore its ending.",
        )


def _value_warnings(header: nib.Nifti1Header, dtype: np.dtype[Any], *, pair: bool) -> Iterator[str]:
    """One sentence for each voxel field that readers correct silently, and for an intent that no
    scan has."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if math.isnan(slope) and not math.isnan(inter):  # nibabel sets both for "no scaling"
        yield f"scl_slope is NaN, so that neither it nor scl_inter, {inter:g}, is applied."
    elif slope == 0 and inter != 0:
        yield f"scl_slope is 0, so that scl_inter, {inter:g}, is not added."
    if float(header["vox_offset"]) == 0 and not pair:
        yield f"vox_offset is 0: voxels are read from byte {header.single_vox_offset}."
    intent = int(header["intent_code"])
    if 2 <= intent <= 24 or intent == _LABEL_INTENT:
        what = "a label" if intent == _LABEL_INTENT else "a statistic"
        yield f"intent_code is {intent}: the header says that this is {what}, not a scan."
    bits = 8 * dtype.itemsize
    if int(header["bitpix"]) != bits:
        yield f"bitpix is {int(header['bitpix'])}, but a voxel of {dtype.name} has {bits} bits."


def _dtype(path: Path, header: nib.Nifti1Header) -> np.dtype[Any]:
    found = f"the data type code {int(header['datatype'])}"
    with suppress(KeyError):  # a code outside nibabel's table
        dtype: np.dtype[Any] = header.get_data_dtype()
        if dtype.kind in "iuf":
            return dtype
        if dtype.kind == "c":
            found = "complex voxels"
        elif dtype.names is not None:
            found = "colour voxels"
    raise FileFormatError(
        path,
        expected="voxels that are integer or real numbers",
        found=found,
        remedy="Save one channel, or the magnitude, as integers or floats.",
    )


def _dims(path: Path, header: nib.Nifti1Header) -> tuple[int, ...]:
    """All dimensions of the file: at least three, each at least 1."""
    # get_data_shape() would rewrite some shapes for FreeSurfer's surfaces.
    ndim, *sizes = (int(size) for size in header["dim"])
    dims = tuple(sizes[: max(ndim, 0)])
    if not 3 <= ndim <= len(sizes):
        found = f"{ndim} dimensions"
    elif min(dims) < 1:
        found = f"dimensions {format_shape(dims)}"
    else:
        return dims
    raise _shape_error(path, found)


def _shape_error(path: Path, found: str) -> ShapeError:
    return ShapeError(
        path,
        expected="three dimensions of at least one voxel each",
        found=found,
        remedy=_EXPORT_AGAIN,
    )


def _chosen_frame(path: Path, dims: tuple[int, ...], frames: int, frame: int | None) -> int:
    choice = (
        f"Choose one, K from 0 to {frames - 1}: medrd predict --frame K, frame=K in Python; "
        "for training save it as a file of its own."
    )
    if frame is None:
        if frames == 1:
            return 0
        raise ShapeError(
            path,
            expected="one three-dimensional image",
            found=f"{frames} frames ({format_shape(dims)})",
            remedy=choice,
        )
    if 0 <= frame < frames:
        return frame
    raise ShapeError(
        path,
        expected=f"frame {frame}",
        found=f"{frames} frame{'s' if frames > 1 else ''} ({format_shape(dims)})",
        remedy=choice if frames > 1 else "Leave --frame out.",
    )


def _check_budget(path: Path, dims: tuple[int, ...], max_voxels: int) -> None:
    voxels = math.prod(dims)
    if voxels > max_voxels:
        raise TooLargeError(
            path,
            expected=f"at most {max_voxels:,} voxels",
            found=f"{voxels:,} voxels ({format_shape(dims)})",
            remedy="If the header is right, raise the budget with --max-voxels "
            "(data.max_voxels in a config, max_voxels= in Python).",
        )


def _scaling(path: Path, header: nib.Nifti1Header) -> tuple[float, float] | None:
    try:
        if math.isinf(float(header["scl_slope"])):
            raise HeaderDataError("scl_slope inf")
        slope, inter = header.get_slope_inter()
    except HeaderDataError as error:
        raise FileFormatError(
            path,
            expected="a finite slope and intercept",
            found=str(error),
            remedy="Set scl_slope to 1 and scl_inter to 0, or export the scan again.",
        ) from error
    if slope is None or (slope, inter) == (1.0, 0.0):
        return None
    return slope, inter


def _voxel_offset(path: Path, header: nib.Nifti1Header, *, pair: bool) -> int:
    offset = float(header["vox_offset"])
    lowest = 0 if pair else header.single_vox_offset
    if offset == 0:
        return int(lowest)
    if lowest <= offset <= _MAX_VOXEL_OFFSET and offset.is_integer():
        return int(offset)
    raise FileFormatError(
        path,
        expected=f"voxels that begin at a byte from {lowest} to {_MAX_VOXEL_OFFSET:,}",
        found=f"vox_offset {offset:g}",
        remedy=_EXPORT_AGAIN,
    )
