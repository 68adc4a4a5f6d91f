"""Where results go: the names of a scan's files, and what they must never replace."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

from medrd.errors import MedrdError, OutputError
from medrd.volumes import write_json
from medrd.workflows.inputs import Case

MAP_ENDING = "_anomaly.nii.gz"
MASK_ENDING = "_mask.nii.gz"
JSON_ENDING = ".json"
PICTURE_ENDING = ".png"

MAKER = "medrd"
"""Every map's NIfTI description begins with this word."""
_NIFTI2_HEADER_BYTES = 540


def make_folder(path: Path) -> None:
    """The folder and its parents, if they are not there. Raises OutputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_place(path, error) from None


def remove(path: Path) -> None:
    """Remove a file if it is there. Raises OutputError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _no_place(path, error) from None


def write_errors(out: Path, errors: Sequence[MedrdError]) -> None:
    """``errors.json``: a list of what failed; removed when nothing did."""
    path = out / "errors.json"
    if errors:
        write_json(path, [error.to_dict() for error in errors])
    else:
        remove(path)


def check_targets(case: Case, out: Path, inputs: Collection[Path]) -> None:
    """Refuse to replace what medrd did not write: an input, its label, its JSON sidecar.

    Parameters
    ----------
    inputs
        Real paths of all scans that were given, not of this case alone.

    Raises
    ------
    OutputError
        An output's name is that of an input, or of a file that is not an earlier result.
    """
    endings = (MAP_ENDING, MASK_ENDING, JSON_ENDING, PICTURE_ENDING)
    there = [path for path in (case.output(out, ending) for ending in endings) if path.exists()]
    for path in there:
        if path.resolve() in inputs:
            raise OutputError(
                path,
                expected="an output that is not an input",
                found="an input scan of that name",
                remedy="Give another --out.",
            )
    if there and not _is_earlier_result(case, out):
        raise OutputError(
            there[0],
            expected="a free name, or an earlier result of medrd",
            found="a file that medrd did not write",
            remedy="Give another --out, or move the file away.",
        )


def _is_earlier_result(case: Case, out: Path) -> bool:
    """By its record, or by its map where a killed run wrote no record."""
    try:
        record = json.loads(case.output(out, JSON_ENDING).read_text(encoding="utf-8"))
        if "identity" in record:
            return True
    except (OSError, ValueError, TypeError):
        pass
    try:
        with gzip.open(case.output(out, MAP_ENDING)) as file:
            return MAKER.encode() in file.read(_NIFTI2_HEADER_BYTES)
    except (OSError, EOFError, zlib.error):
        return False


def _no_place(path: Path, error: OSError) -> OutputError:
    return OutputError(
        path,
        expected="a place to write results",
        found=error.strerror or str(error),
        remedy="Give another --out, or get write permission for this one.",
    )
