"""Opening a file of the user's, with what may be wrong with it said in the house's errors."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from medrd.errors import MissingInputError


@contextmanager
def open_regular(path: Path, *, kind: str) -> Iterator[BinaryIO]:
    """Open a file to read its bytes; ``kind`` is what it should be, in words.

    Raises
    ------
    MissingInputError
        No such file, a folder or a device, or no permission.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise MissingInputError(
                path,
                expected="a file",
                found="a folder" if stat.S_ISDIR(mode) else "a device or a pipe",
                remedy=f"Give the path of the {kind} itself.",
            )
        file = path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error
    with file:
        yield file


def unreadable(path: Path, error: OSError) -> MissingInputError:
    """The error for a file that the system would not open or read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        found, remedy = "no such file", "Check the path."
    elif isinstance(error, PermissionError):
        found, remedy = "no permission to read it", "Give yourself read permission (chmod)."
    else:
        found, remedy = error.strerror or str(error), "Check the path and the disk."
    return MissingInputError(path, expected="a readable file", found=found, remedy=remedy)
