"""Where results go: the names of an input's files, and what they must never replace."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrd.data.layouts import folders_below
from medrd.errors import InputError, MedrdError, OutputError
from medrd.files import file_hash, write_json
from medrd.run.cases import ERRORS_NAME, Case

MAKER = "medrd"
"""The description in every map begins with this word."""


@dataclass(frozen=True)
class OutputFiles:
    """What the outputs of a scan or of a picture are called, after the stem.

    Attributes
    ----------
    noun, pieces
        What an input, and what a network is shown of it, are called in messages.
    map, mask, overlay, record
        Endings. The map is written first and the record (JSON) last.
    """

    noun: str
    pieces: str
    map: str
    mask: str
    overlay: str = ".png"
    record: str = ".json"

    @property
    def endings(self) -> tuple[str, str, str, str]:
        """All of them."""
        return (self.map, self.mask, self.record, self.overlay)


SCAN_FILES = OutputFiles("scan", "slices", map="_anomaly.nii.gz", mask="_mask.nii.gz")
BIDS_FILES = OutputFiles(
    "scan",
    "slices",
    map="_desc-medrd_anomalymap.nii.gz",
    mask="_label-L_desc-medrd_mask.nii.gz",
    overlay="_desc-medrd_anomalymap.png",
    record="_desc-medrd_anomalymap.json",
)
"""``anomalymap`` is no suffix of BIDS yet; ``.bidsignore`` says so to its validator."""
BIDS_MASK_SIDECAR = "_label-L_desc-medrd_mask.json"
REPORT_NAME = "report.html"
PAGES_NAME = "report"
"""Folder of the pages of more scans than one."""
REPORT_STEP = "report"
"""In ``errors.json``: what could not be shown, though it was predicted."""
PREPARED_ENDING, UNPREPARED_ENDING = "_prepare.json", "_failed.json"
"""Of the record beside scans that ``medrd prepare`` wrote, and of why it wrote none."""
PICTURE_FILES = OutputFiles("picture", "picture", map="_anomaly.tiff", mask="_mask.png")


def files_of(case: Case, usual: OutputFiles) -> OutputFiles:
    """What the outputs of this very case are called."""
    return BIDS_FILES if case.origin else usual


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
    write_entries(out, [error.to_dict() for error in errors])


def write_entries(out: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """``errors.json`` with entries that are more than the errors; see :func:`write_errors`."""
    path = out / ERRORS_NAME
    if entries:
        write_json(path, entries)
    else:
        remove(path)


def ending_in(out: Path, ending: str) -> list[Path]:
    """Files of that ending in a folder and below, but for hidden ones."""
    return [path for folder in folders_below(out) for path in sorted(folder.glob(f"*{ending}"))]


def is_done(
    path: Path,
    hashes: Mapping[str, str],
    identity: Mapping[str, Any],
    *,
    strict: bool = False,
    native: bool = False,
) -> bool:
    """Whether the JSON on record is of these inputs and this identity, and its files are whole.

    Where what is unlike the training scans is to fail (``strict``), a result of such a scan does
    not count; nor does one without a map on the raw grid where that is wanted (``native``).
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if strict and record["unlike_training"]:
            return False
        if native and "native_map" not in record["outputs"]:
            return False
        return record["identity"] == {**identity, "inputs": hashes} and all(
            file_hash(path.parent / entry["file"]) == entry["sha256"]
            for entry in record["outputs"].values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError):
        return False


def check_targets(
    case: Case,
    out: Path,
    inputs: Collection[Path],
    files: OutputFiles,
    *,
    is_own_map: Callable[[Path], bool],
) -> None:
    """Refuse to replace what medrd did not write: an input, its label, its JSON sidecar.

    Parameters
    ----------
    inputs
        Real paths of all inputs that were given, not of this case alone.
    is_own_map
        Whether a file is a map that medrd wrote; false for one that is not there.

    Raises
    ------
    OutputError
        An output's name is that of an input, or of a file that is not an earlier result.
    """
    paths = (case.output(out, ending) for ending in files.endings)
    there = [path for path in paths if path.exists()]
    for path in there:
        if path.resolve() in inputs:
            raise OutputError(
                path,
                expected="an output that is not an input",
                found=f"an input {files.noun} of that name",
                remedy="Give another --out.",
            )
    # By its record, or by its map where a killed run wrote no record.
    earlier = _is_record(case.output(out, files.record)) or is_own_map(case.output(out, files.map))
    if there and not earlier:
        raise OutputError(
            there[0],
            expected="a free name, or an earlier result of medrd",
            found="a file that medrd did not write",
            remedy="Give another --out, or move the file away.",
        )


def _is_record(path: Path) -> bool:
    try:
        return "identity" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _no_place(path: Path, error: OSError) -> OutputError:
    return OutputError(
        path,
        expected="a place to write results",
        found=error.strerror or str(error),
        remedy="Give another --out, or get write permission for this one.",
    )
