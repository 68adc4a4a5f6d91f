"""Read files with clear errors, hash them, and write them so that they are either complete or
absent.

A run that dies in the middle of a write must not leave something that looks like a result
and that a later run skips as done. Everything is therefore written to a hidden name in the
target's own folder and renamed, which POSIX makes atomic within one file system.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from medrd.errors import MissingInputError, OutputError

logger = logging.getLogger("medrd.files")

_ELSEWHERE = "Choose another output folder, or get write permission for this one."
_NOT_A_FOLDER = ("a file where a folder should be", "Choose another output folder.")
_IS_A_FOLDER = ("a folder of that name", "Remove it or choose another output folder.")
_FULL = "Free some space and run again; what is already written stays valid."

NIFTI_SIZES = {size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big")}
_NO_TEXT = re.compile("[\ud800-\udfff]")
_HIDDEN = ".medrd-"
_ABANDONED_S = 3600.0

# Error number of the operating system -> (what was found, what to do).
_CAUSES: dict[int, tuple[str, str]] = {
    errno.EACCES: ("no permission to write there", _ELSEWHERE),
    errno.EPERM: ("no permission to write there", _ELSEWHERE),
    errno.EROFS: ("a read-only file system", "Choose another output folder."),
    errno.ENOSPC: ("no space left on the device", _FULL),
    errno.EDQUOT: ("no space left in your disk quota", _FULL),
    errno.EFBIG: ("a file size limit", "Raise the limit (ulimit -f) or write elsewhere."),
    errno.ENOTDIR: _NOT_A_FOLDER,
    errno.EEXIST: _NOT_A_FOLDER,
    errno.EISDIR: _IS_A_FOLDER,
    errno.ENAMETOOLONG: ("a name too long for the file system", "Use shorter names."),
    errno.ELOOP: ("links that form a loop", "Correct the links."),
    errno.EMFILE: ("too many open files", "Raise the limit (ulimit -n)."),
}


@contextmanager
def open_regular(path: Path, *, kind: str) -> Iterator[BufferedReader]:
    """Open a file to read its bytes; ``kind`` says in words what it should be.

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
    except ValueError:  # a header may name any file
        raise MissingInputError(
            path,
            expected="a readable file",
            found="a name with a null character",
            remedy="Correct the name.",
        ) from None
    with file:
        yield file


def unreadable(path: Path, error: OSError) -> MissingInputError:
    """The error for a file that the system could not open or read."""
    if isinstance(error, FileNotFoundError) and leads_nowhere(path):
        return _dangling(path)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        found, remedy = "no such file", "Check the path."
    elif isinstance(error, PermissionError):
        found, remedy = "no permission to read it", "Give yourself read permission (chmod)."
    else:
        found, remedy = error.strerror or str(error), "Check the path and the disk."
    return MissingInputError(path, expected="a readable file", found=found, remedy=remedy)


def leads_nowhere(path: Path) -> bool:
    """True if a path is a link whose target does not exist."""
    return path.is_symlink() and not path.exists()


def _dangling(path: Path) -> MissingInputError:
    """The error for a link without target, for example to a file that git-annex has not fetched."""
    target = os.readlink(path)
    annexed = ".git/annex/objects" in target.replace(os.sep, "/")
    return MissingInputError(
        path,
        expected="a readable file",
        found="a link to a file that git-annex has not fetched"
        if annexed
        else f"a link to {target}, which does not exist",
        remedy=f"Fetch it: datalad get {path.name}, or git annex get {path.name}."
        if annexed
        else "Correct the link, or put the file there.",
    )


def describe_start(start: bytes) -> str:
    """Describe a file of an unexpected type by its first bytes (64 are enough)."""
    if not start:
        return "nothing"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "a web page"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (git lfs pull fetches the file)"
    if text.startswith((b"/annex/objects/", b"../.git/annex")):
        return "a git-annex pointer (git annex get fetches the file)"
    if text.startswith(b"%pdf"):
        return "a PDF document"
    if text.startswith(b"pk\x03\x04"):
        return "a zip archive"
    if start[:4] in NIFTI_SIZES:
        return "an uncompressed NIfTI header"
    return f"a file that begins with {start[:8]!r}"


def as_paths(given: str | Path | Iterable[str | Path]) -> list[Path]:
    """The paths of one or several files; a string is one path, not a list of letters."""
    return [Path(p) for p in ([given] if isinstance(given, str | Path) else given)]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises
    ------
    MissingInputError
        The file does not exist, is not a regular file, or cannot be read.
    """
    with open_regular(path, kind="file") as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(path, error) from None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it becomes ``path`` in one step.

    The folder is made if it is missing. The temporary lies in the same folder, is hidden,
    ends in the same full suffix (writers choose gzip by ``.nii.gz``) and is unique to the
    process. If the block raises, it is removed and ``path`` is left as it was; after a
    ``kill -9`` it stays behind, under its hidden name.

    The block should only write: any operating system error in it counts as a failure to write
    ``path``.

    Raises
    ------
    OutputError
        If the folder or file cannot be written: no permission, no space, a folder with the file's
        name, or a file in the folder's place.
    """
    path = Path(path)
    temporary = path.parent / _temporary_name(path)
    try:
        with _output_errors(path):
            _prepare(path)
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
            _flush_folder(path.parent)
        logger.debug("wrote %s", path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a folder to fill; on success it replaces ``path``.

    It works like :func:`atomic_path`. :func:`refuse_foreign` protects other programs' files.

    Raises
    ------
    OutputError
        If the folder or a file in it cannot be written.
    """
    path = Path(path)
    temporary = path.parent / _temporary_name(path)
    try:
        with _output_errors(path):
            temporary.mkdir(parents=True)
            yield temporary
            _put(temporary, path)
            _flush_folder(path.parent)
        logger.debug("wrote %s", path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(folder: Path, path: Path) -> None:
    """Rename a folder. What was there is moved away first and removed last: whenever the process
    dies, one of the two is complete."""
    if not path.exists():
        os.replace(folder, path)
        return
    replaced = path.parent / f".{path.name}-replaced-{secrets.token_hex(4)}"
    os.replace(path, replaced)
    try:
        os.replace(folder, path)
    except OSError:
        os.replace(replaced, path)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def remove_abandoned(root: Path) -> None:
    """Remove unfinished files of killed processes in a folder and below.

    They have hidden names and were not written to for an hour. The process number in the name does
    not help, as the process may run on another machine.
    """
    latest = time.time() - _ABANDONED_S
    for folder, below, files in os.walk(root):
        for name in (*below, *files):
            path = Path(folder, name)
            with suppress(OSError):
                if not name.startswith(_HIDDEN) or path.stat().st_mtime > latest:
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        below[:] = [name for name in below if not name.startswith(".")]


def refuse_foreign(folder: Path, ours: Collection[str]) -> None:
    """Make sure that replacing a folder would remove only earlier results.

    Parameters
    ----------
    ours
        Files that may be in it, relative to it.

    Raises
    ------
    OutputError
        It contains other files, or is a file.
    """
    if folder.is_dir():
        there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    else:
        there = {folder.name} if folder.exists() else set()
    others = sorted(there - set(ours))
    if others:
        raise OutputError(
            folder,
            expected="a free name, or an earlier result of medrd",
            found=f"files that it did not write ({', '.join(others[:3])})",
            remedy="Give another --out, or move them away.",
        )


def refuse_no_place(folder: Path) -> None:
    """Make sure, as far as possible, that a folder can be made or written to.

    Raises
    ------
    OutputError
        A file is in its place or above it, or there is no permission.
    """
    with _output_errors(folder, expected="a folder for results"):
        whole = folder.absolute()
        there = next(each for each in (whole, *whole.parents) if each.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(there))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "no permission", str(there))


def output_error(path: Path, error: OSError, *, expected: str = "a place to write") -> OutputError:
    """The error for a file or folder that the system could not write."""
    unknown = (error.strerror or str(error), "Check the disk and the folder, then run again.")
    found, remedy = _CAUSES.get(error.errno or 0, unknown)
    return OutputError(path, expected=expected, found=found, remedy=remedy)


def system_error(error: OSError) -> OutputError | None:
    """The error for an unexpected failure of the operating system; None if a user cannot fix the
    cause."""
    if error.errno not in (*_CAUSES, errno.EIO, errno.ESTALE) or error.errno == errno.EEXIST:
        return None
    where = Path(os.fsdecode(error.filename or "medrd"))
    return output_error(where, error, expected="files that can be read and written")


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically. Raises OutputError as :func:`atomic_path` does.

    Bytes of file names that are not text become U+FFFD.
    """
    text = _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)
    with atomic_path(path) as temporary:
        # Always "\n", so that the same text is the same bytes on every system.
        temporary.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if it is missing, unreadable or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # Windows puts a mark before it
    except (OSError, ValueError):
        return None


def write_json(path: str | Path, obj: object) -> None:
    """Write an object as indented JSON, keys in their given order, atomically.

    Bytes of file names that are not text (lone surrogates, PEP 383) are written as escapes, which
    come back as they were.

    Raises
    ------
    ValueError
        If a number is NaN or infinite, which JSON does not have.
    OutputError
        As :func:`atomic_path`.
    """
    text = json.dumps(obj, indent=2, allow_nan=False, ensure_ascii=False)
    write_text(path, _NO_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def _temporary_name(path: Path) -> str:
    suffix = "".join(path.suffixes[-2:])
    return f"{_HIDDEN}{os.getpid()}-{secrets.token_hex(4)}{suffix}"


def _prepare(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        # os.replace would notice too, but only after everything has been written.
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def _flush(path: Path) -> None:
    # Before the rename: otherwise a power cut can leave the new name on an empty file.
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    # This makes the rename itself durable. Windows and some network file systems cannot do it; the
    # file is in place anyway.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _output_errors(path: Path, *, expected: str = "a place to write a file") -> Iterator[None]:
    """Turn errors of the operating system into an OutputError about ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the operating system
            raise
        raise output_error(path, error, expected=expected) from error
