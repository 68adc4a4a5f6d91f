"""Where results go: the names of an input's files, and what they must never replace."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from medrd.data.layouts import folders_below
from medrd.errors import OutputError
from medrd.run.cases import Case
from medrd.run.record import Record

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


def ending_in(out: Path, ending: str) -> list[Path]:
    """Files of that ending in a folder and below, but for hidden ones."""
    return [path for folder in folders_below(out) for path in sorted(folder.glob(f"*{ending}"))]


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
    earlier = Record.read(case.output(out, files.record)) or is_own_map(case.output(out, files.map))
    if there and not earlier:
        raise OutputError(
            there[0],
            expected="a free name, or an earlier result of medrd",
            found="a file that medrd did not write",
            remedy="Give another --out, or move the file away.",
        )


def _no_place(path: Path, error: OSError) -> OutputError:
    return OutputError(
        path,
        expected="a place to write results",
        found=error.strerror or str(error),
        remedy="Give another --out, or get write permission for this one.",
    )
