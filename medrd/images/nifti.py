"""Volumes from NIfTI files and anomaly maps back into them."""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from medrd.errors import NonFiniteError, OutputError, TooLargeError
from medrd.files import atomic_path
from medrd.images.formats import inspect_scan
from medrd.images.grid import header_of_grid
from medrd.images.header import DEFAULT_MAX_VOXELS, NiftiHeader, inspect_nifti
from medrd.images.labels import whole_labels
from medrd.images.stream import open_forward
from medrd.images.volume import Volume, check_same_grid

__all__ = [
    "DEFAULT_MAX_VOXELS",
    "inspect_nifti",
    "read_label",
    "read_mask",
    "read_nifti",
    "write_nifti",
]

# A scanner or a resampler may leave a few dead voxels; more than this is a broken scan.
MAX_NONFINITE_SHARE = 0.01

# Some writers pad the file to a block. More than this is not padding.
_MAX_TRAILING_BYTES = 1 << 20

_CHUNK_VOXELS = 1 << 19  # at most 8 MiB at a time (16-byte floats)

# Level 6 makes a smooth float map 3 % smaller than level 1 and takes 30 % longer (measured).
_GZIP_LEVEL = 1


def read_nifti(
    path: str | Path, *, frame: int | None = None, max_voxels: int = DEFAULT_MAX_VOXELS
) -> Volume:
    """Read one three-dimensional image.

    The header is checked first by :func:`inspect_scan`, which also describes ``path``. Then the
    file is read to its very end, so that truncation or damage is always found. Memory stays at
    5 bytes per voxel of the one frame and a few MiB.

    Parameters
    ----------
    path
        NIfTI-1 or NIfTI-2 file, plain or gzip, single or pair; MGH, MetaImage or NRRD.
    frame
        Which three-dimensional image of a 4D file, from 0.
    max_voxels
        Budget for all frames together.

    Returns
    -------
    Volume
        The image, with slope and intercept applied. A few voxels that are NaN or infinite are set
        to 0, with a warning.

    Raises
    ------
    MissingInputError, FileFormatError, ShapeError, TooLargeError, AffineError
        As :func:`inspect_scan`.
    TruncatedFileError
        If the file ends before the voxels do, or is damaged.
    NonFiniteError
        If over 1 % of the brain's voxels are NaN or infinite.
    """
    volume = _read_as_stored(path, frame=frame, max_voxels=max_voxels)
    zeroed = _zero_nonfinite(Path(path), volume.array)
    if not zeroed:
        return volume
    text = f"{zeroed:,} voxels were NaN or infinite and were set to 0."
    return replace(volume, warnings=(*volume.warnings, text))


def read_label(
    path: str | Path,
    like: Volume,
    *,
    frame: int | None = None,
    max_voxels: int = DEFAULT_MAX_VOXELS,
) -> NDArray[np.int32]:
    """Read a label as (X, Y, Z) whole numbers.

    Raises
    ------
    GridMismatchError
        If the label does not lie voxel on voxel with ``like``.
    LabelError
        If it holds values that are not whole numbers from 0 up.
    InputError
        As :func:`read_nifti`.
    """
    label = _read_as_stored(path, frame=frame, max_voxels=max_voxels)
    check_same_grid({"scan": like, "label": label})
    return whole_labels(path, label.array)


def read_mask(path: str | Path, like: Volume) -> NDArray[np.bool_]:
    """Read a label as (X, Y, Z) bool; any value but 0 is lesion. Raises as :func:`read_label`."""
    lesion: NDArray[np.bool_] = read_label(path, like) != 0
    return lesion


def write_nifti(
    path: str | Path,
    array: NDArray[Any],
    like: Volume,
    *,
    dtype: Literal["float32", "uint8"],
    description: str = "",
    intent_name: str = "",
    cal_max: float | None = None,
) -> None:
    """Write a map or mask on a volume's grid, atomically.

    Shape, affine, both transforms and their codes come back bit-equal to those of the file
    that ``like`` was read from; the same content gives the same bytes.

    Parameters
    ----------
    path
        ``.nii`` or ``.nii.gz``.
    array
        (X, Y, Z) in ``like``'s orientation; finite, and for ``uint8`` whole numbers from 0
        to 255.
    like
        Gives the grid.
    dtype
        Type on disk. ``float32`` maps have NIfTI's intent "estimate".
    description, intent_name
        Cut to the 79 and 15 ASCII characters that NIfTI has room for.
    cal_max
        Upper end of the display window, whose lower end is then 0.

    Raises
    ------
    OutputError
        If ``path`` is the file that ``like`` was read from, has another suffix, or cannot
        be written.
    ValueError
        If the array does not fit the grid or the type, which is a bug in the caller.
    """
    path = Path(path)
    _check_target(path, like)
    voxels = _as_dtype(array, like, dtype)
    header = header_of_grid(like.grid, dtype)
    header["descrip"] = _ascii(description, 79)
    header["intent_name"] = _ascii(intent_name, 15)
    if dtype == "float32":
        header["intent_code"] = 1001  # NIFTI_INTENT_ESTIMATE
    if cal_max is not None:
        header["cal_min"], header["cal_max"] = 0, cal_max
    with atomic_path(path) as temporary, _open_to_write(temporary) as file:
        file.write(header.binaryblock)
        file.write(b"\0\0\0\0")  # no header extensions
        for start in range(0, voxels.size, _CHUNK_VOXELS):
            file.write(voxels[start : start + _CHUNK_VOXELS].tobytes())


def _read_as_stored(path: str | Path, *, frame: int | None, max_voxels: int) -> Volume:
    """One frame, with NaN and infinite voxels as they are."""
    header = inspect_scan(path, frame=frame, max_voxels=max_voxels)
    values, trailing_bytes = _read_frame(header)
    warnings = list(header.warnings)
    if trailing_bytes and not header.has_footer:
        warnings.append(f"{trailing_bytes:,} bytes after the last voxel were ignored.")
    return Volume(
        array=values.reshape(header.shape, order="F"),
        affine=header.affine,
        grid=header.grid,
        path=header.path,
        warnings=tuple(warnings),
    )


def _read_frame(header: NiftiHeader) -> tuple[NDArray[np.float32], int]:
    """Voxels of the chosen frame, flat in the file's (Fortran) order, and bytes left over."""
    voxels = math.prod(header.shape)
    frame_bytes = voxels * header.dtype.itemsize
    try:
        values = np.empty(voxels, dtype=np.float32)
    except MemoryError as error:
        raise TooLargeError(
            header.path,
            expected="an image that fits this machine's memory",
            found=f"{voxels:,} voxels",
            remedy="Use a machine with more memory, or resample the scan first.",
        ) from error
    packed_at = header.voxel_offset if header.packed else None
    skipped = 0 if header.packed else header.voxel_offset
    with open_forward(header.voxel_path, packed_at=packed_at) as stream:
        stream.skip(skipped + header.frame * frame_bytes)
        for start in range(0, voxels, _CHUNK_VOXELS):
            part = values[start : start + _CHUNK_VOXELS]
            raw = np.frombuffer(
                stream.read_exactly(part.size * header.dtype.itemsize), dtype=header.dtype
            )
            # Values beyond float32 become infinite here and are counted as such below.
            with np.errstate(over="ignore", invalid="ignore"):
                part[:] = _scaled(raw, header.scaling)
        stream.skip((header.frames - header.frame - 1) * frame_bytes)
        trailing_bytes = stream.drain(_MAX_TRAILING_BYTES)
    return values, trailing_bytes


def _scaled(raw: NDArray[Any], scaling: tuple[float, float] | None) -> NDArray[Any]:
    if scaling is None:
        return raw
    slope, inter = scaling
    scaled: NDArray[np.float64] = raw.astype(np.float64) * slope + inter
    return scaled


def _zero_nonfinite(path: Path, values: NDArray[np.float32]) -> int:
    """Set NaN and infinite voxels to 0 in place and return their number.

    Their share is taken of the brain, not of the whole field, because four fifths of a
    skull-stripped scan are background, which would hide them.
    """
    nonfinite = np.isfinite(values)
    np.logical_not(nonfinite, out=nonfinite)  # in place, because this takes a byte per voxel
    count = int(np.count_nonzero(nonfinite))
    if not count:
        return 0
    brain = int(np.count_nonzero(values))  # NaN counts as non-zero
    share = count / brain
    if share > MAX_NONFINITE_SHARE:
        raise NonFiniteError(
            path,
            expected=f"at most {MAX_NONFINITE_SHARE:.0%} NaN or infinite voxels in the brain",
            found=f"{count:,} of {brain:,} non-zero voxels ({share:.1%})",
            remedy="If they are the background, set them to 0 (fslmaths IN -nan OUT); "
            "otherwise repeat the step that made this file.",
        )
    values[nonfinite] = 0
    return count


def _check_target(path: Path, like: Volume) -> None:
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise OutputError(
            path,
            expected="a name that ends in .nii or .nii.gz",
            found=repr(path.name),
            remedy="Name the output so.",
        )
    if like.path is not None and _same_file(path, like.path):
        raise OutputError(
            path,
            expected="a name of its own for the result",
            found="the input scan of that name",
            remedy="Choose another output folder; medrd never overwrites a scan.",
        )


def _same_file(first: Path, second: Path) -> bool:
    # Compare real paths, because "missing/../scan.nii" becomes the scan once its folder is made,
    # and inodes, because some file systems ignore case.
    if os.path.realpath(first) == os.path.realpath(second):
        return True
    try:
        return first.samefile(second)
    except OSError:  # one does not exist, or cannot be looked at
        return False


def _as_dtype(array: NDArray[Any], like: Volume, dtype: str) -> NDArray[Any]:
    """Flat little-endian copy in Fortran order, checked to hold the same values."""
    if array.shape != like.shape:
        msg = f"expected an array of {like.shape}, got {array.shape}"
        raise ValueError(msg)
    target = np.dtype(dtype).newbyteorder("<")
    with np.errstate(over="ignore", invalid="ignore"):
        voxels = np.ravel(array, order="F").astype(target)
    if dtype == "uint8" and not np.array_equal(voxels, np.ravel(array, order="F")):
        msg = "expected whole numbers from 0 to 255 for uint8"
        raise ValueError(msg)
    if not np.isfinite(voxels).all():
        msg = "expected finite values in float32's range"
        raise ValueError(msg)
    return voxels


def _ascii(text: str, length: int) -> bytes:
    return text.encode("ascii", errors="replace")[:length]


class _Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


@contextmanager
def _open_to_write(path: Path) -> Iterator[_Sink]:
    with path.open("wb") as file:
        if path.suffix.lower() != ".gz":
            yield file
            return
        # No name and no time in the gzip header, so that equal content gives equal bytes.
        with gzip.GzipFile(
            filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=file, mtime=0
        ) as zipped:
            yield zipped
