"""Shared parts of MetaImage and NRRD headers: text before binary voxels, in LPS+ mm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nibabel.affines import from_matvec
from numpy.typing import NDArray

from medrd.errors import FileFormatError
from medrd.files import describe_start, open_regular, unreadable
from medrd.images.geometry import RAS_TO_LPS, Affine

NO_PLACE = "The header does not say where the scan lies: left and right are a guess."
_MOST_BYTES = 1 << 20  # of text; real headers have a few hundred


def read_head(path: Path) -> bytes:
    """The first bytes of a file, enough for any header.

    Raises
    ------
    MissingInputError, FileFormatError
        The file is not there, not readable, or empty.
    """
    with open_regular(path, kind="scan") as file:
        try:
            block = file.read(_MOST_BYTES)
        except OSError as error:
            raise unreadable(path, error) from error
    if not block or block.lstrip()[:1] == b"<":
        raise FileFormatError(
            path,
            expected="a text header",
            found=describe_start(block[:64]) if block else "an empty file",
            remedy="Download or copy the file again.",
        )
    return block


def numbers(path: Path, text: str, *, separator: str | None = None) -> list[float]:
    """The numbers of a field. Raises FileFormatError."""
    try:
        return [float(each) for each in text.split(separator)]
    except ValueError:
        raise _no_numbers(path, text) from None


def sizes(path: Path, text: str) -> tuple[int, ...]:
    """The whole numbers of a field. Raises FileFormatError."""
    try:
        return tuple(int(each) for each in text.split())
    except ValueError:
        raise _no_numbers(path, text) from None


def affine_from_lps(axes_mm: NDArray[np.float64], origin_mm: NDArray[np.float64]) -> Affine:
    """The steps of the axes, a row each (3, 3), and the first voxel, in LPS+ -> affine in RAS+."""
    return np.asarray(RAS_TO_LPS @ from_matvec(axes_mm.T, origin_mm), np.float64)


def unlike(path: Path, expected: str, found: str) -> FileFormatError:
    """The error for a header that asks for what medrd does not read."""
    remedy = "Save it as NIfTI, or with all voxels in one binary file."
    return FileFormatError(path, expected=expected, found=found, remedy=remedy)


def _no_numbers(path: Path, text: str) -> FileFormatError:
    return FileFormatError(
        path,
        expected="numbers in the header",
        found=repr(text[:40]),
        remedy="The header is damaged or of another format: save the scan again.",
    )
