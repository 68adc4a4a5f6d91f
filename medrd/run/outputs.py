"""Make folders and remove files, with errors that name the place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medrd.files import output_error


def make_folder(path: Path) -> None:
    """Make the folder and its parents if they do not exist. Raises OutputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error, expected="a place to write results") from None


@contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside the results, removed at the end; it needs no space elsewhere."""
    make_folder(out)
    folder = Path(tempfile.mkdtemp(prefix=".runs.", dir=out))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a file if it exists. Raises OutputError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error, expected="a place to write results") from None
