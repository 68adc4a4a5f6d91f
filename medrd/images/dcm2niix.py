"""Find and run dcm2niix, the field's converter from DICOM to NIfTI, and keep its messages.

Source: X. Li et al., "The first step for neuroimaging data analysis: DICOM to NIfTI conversion",
Journal of Neuroscience Methods 264 (2016).
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from medrd.errors import FileFormatError, MissingExtraError, SeriesError
from medrd.images.dicom_series import has_no_preamble

logger = logging.getLogger("medrd.images")

# The options are the usual ones, so that maps match users' own conversions voxel by voxel, but
# without compression, sidecar and the user's defaults. Values are signed 16-bit if they fit, since
# only in those dcm2niix straightens a tilted gantry.
_OPTIONS = ("-g", "i", "-b", "n", "-z", "n", "-l", "n", "-f", "image")
_DEFLATED = "1.2.840.10008.1.2.1.99"
_TALK = ("Chris Rorden", "Defaults ", "Found ", "Convert ", "Conversion ", "UINT16->INT16", "::")
_MOST_WORDS = 4
_LONGEST_S = 1800
"""A series takes seconds; only a damaged one that confuses dcm2niix takes longer than this."""


class Converted(NamedTuple):
    """dcm2niix's result for a series.

    Attributes
    ----------
    image
        The NIfTI file.
    words
        dcm2niix's messages; "" if there are none.
    whole
        Whether it ended without an error.
    straightened
        Whether it has resampled slices of a tilted gantry onto a straight grid.
    """

    image: Path
    words: str
    whole: bool
    straightened: bool


def find_dcm2niix() -> str:
    """Path of the program: from its Python package, else from PATH. Raises MissingExtraError."""
    if find_spec("dcm2niix") is not None:
        from dcm2niix import bin as program

        return str(program)
    on_path = shutil.which("dcm2niix")
    if on_path is None:
        raise MissingExtraError(
            "reading DICOM",
            expected="dcm2niix, which comes with medrd[dicom]",
            found="no package and no program of that name",
            remedy="Install it: pip install 'medrd[dicom]'.",
        )
    return on_path


def convert(files: Sequence[Path], where: Path, workspace: Path) -> Converted:
    """Convert the files of one volume.

    Parameters
    ----------
    files
        Files of one series; only these are used.
    where
        The series' folder, for messages.
    workspace
        An empty folder for intermediate files.

    Raises
    ------
    FileFormatError
        dcm2niix cannot convert the format; the error quotes its message.
    SeriesError
        It made several images of the series.
    """
    program = find_dcm2niix()
    inputs, outputs = workspace / "in", workspace / "out"
    inputs.mkdir()
    outputs.mkdir()
    for number, path in enumerate(files):
        _stage(path, inputs / f"{number:06d}.dcm")
    command = [program, *_OPTIONS, "-o", str(outputs), str(inputs)]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_LONGEST_S)
    except subprocess.TimeoutExpired:
        raise inconvertible(where, f"no result after {_LONGEST_S} s") from None
    words = _words(done.stdout + b"\n" + done.stderr, inputs, files)
    logger.debug("%s: dcm2niix: %s", where, words or "no remarks")
    images = sorted(outputs.glob("*.nii"))
    straightened = [path for path in images if "_Tilt" in path.name]
    if straightened:
        return Converted(straightened[0], words, done.returncode == 0, straightened=True)
    # For unevenly spaced slices it also writes a file with even spacing, made by interpolation.
    images = [path for path in images if "_Eq" not in path.name]
    if not images:
        raise inconvertible(where, words or f"none; it ended with code {done.returncode}")
    if len(images) > 1:
        parts = ", ".join(path.stem.removeprefix("image").strip("_") or "image" for path in images)
        raise SeriesError(
            where,
            expected="the slices of one volume",
            found=f"several images ({parts}): {words}" if words else f"several images ({parts})",
            remedy="Convert the series with dcm2niix, and give the right one of its images.",
        )
    return Converted(images[0], words, done.returncode == 0, straightened=False)


def inconvertible(where: Path, words: str) -> FileFormatError:
    """The error for a series that dcm2niix cannot convert; it quotes its message."""
    return FileFormatError(
        where,
        expected="a series that dcm2niix can convert",
        found=words,
        remedy="Fetch the series again, or decompress it first (gdcmconv --raw).",
    )


def _stage(path: Path, target: Path) -> None:
    """Link a file; rewrite one that dcm2niix does not read."""
    import pydicom

    with path.open("rb") as file:
        start = file.read(4096)
    if not has_no_preamble(start) and _DEFLATED.encode() not in start:
        target.symlink_to(path.absolute())
        return
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path, force=True)
        data.ensure_file_meta()
        syntax = data.file_meta.get("TransferSyntaxUID")
        if syntax is None:
            implicit = data.original_encoding[0]
            syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == _DEFLATED else syntax
        data.save_as(target, enforce_file_format=True)


def _words(output: bytes, inputs: Path, files: Sequence[Path]) -> str:
    """dcm2niix's messages, with the names of the user's files instead of its own."""
    spoken = output.decode("utf-8", "replace")
    for number, path in enumerate(files):
        spoken = spoken.replace(str(inputs / f"{number:06d}.dcm"), path.name)
    lines = [
        line.strip().removeprefix("Warning: ").removeprefix("Error: ")
        for line in spoken.splitlines()
        if line.strip() and not line.strip().startswith(_TALK)
    ]
    told = [line for line in dict.fromkeys(lines) if "(0018,5100)" not in line]
    return "; ".join(line.rstrip(".") for line in told[:_MOST_WORDS])
