"""Where results go, and what they must never replace."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from medrd.data.cases import Case
from medrd.data.output_names import OutputFiles
from medrd.errors import OutputError
from medrd.run.record import Record


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
