"""Read a file forward, once, in bounded memory, with a typed error for every failure.

Callers ask for exactly the bytes that the header promises. A gzip stream is read to its end,
where its checksum is: without that, a truncated ``.nii.gz`` opens, and its first slices can be
read, without any error.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from medrd.errors import FileFormatError, TruncatedFileError
from medrd.files import NIFTI_SIZES, describe_start, open_regular, unreadable

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20
_START_BYTES = 64

_FETCH_AGAIN = "Copy, download or export the file again."


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class ForwardReader:
    """Reads the uncompressed bytes of a file from front to back.

    Parameters
    ----------
    path
        The path, for error messages.
    file
        Open binary file whose ``read(n)`` returns less than ``n`` bytes only at the end.
    """

    def __init__(self, path: Path, file: _Source) -> None:
        self._path = path
        self._file = file
        self._position = 0

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; fewer only at the end of the file."""
        try:
            data = self._file.read(size)
        except EOFError as error:
            raise TruncatedFileError(
                self._path,
                expected="a whole gzip stream",
                found=f"one that ends early, after {self._position:,} bytes or little more",
                remedy=_FETCH_AGAIN,
            ) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise TruncatedFileError(
                self._path,
                expected="an intact gzip stream",
                found=f"damage after {self._position:,} bytes or little more ({error})",
                remedy=_FETCH_AGAIN,
            ) from error
        except OSError as error:
            raise unreadable(self._path, error) from error
        self._position += len(data)
        return data

    def read_exactly(self, size: int) -> bytes:
        """``size`` bytes.

        Raises
        ------
        TruncatedFileError
            If the file ends before, or is damaged.
        """
        start = self._position
        data = self.read(size)
        if len(data) < size:
            raise TruncatedFileError(
                self._path,
                expected=f"at least the {start + size:,} bytes that its header promises",
                found=f"{self._position:,} bytes",
                remedy=_FETCH_AGAIN,
            )
        return data

    def skip(self, size: int) -> None:
        """Skip ``size`` bytes. Raises the errors of :meth:`read_exactly`."""
        while size > 0:
            size -= len(self.read_exactly(min(size, _CHUNK_BYTES)))

    def drain(self, limit: int) -> int:
        """Read to the end and return the number of bytes.

        Raises
        ------
        FileFormatError
            If there are more than ``limit``, so that the header must be wrong.
        TruncatedFileError
            If the gzip stream is cut off or its checksum is wrong.
        """
        total = 0
        while data := self.read(_CHUNK_BYTES):
            total += len(data)
            if total > limit:
                raise FileFormatError(
                    self._path,
                    expected=f"the {self._position - total:,} bytes that its header promises",
                    found=f"more than {limit:,} further bytes",
                    remedy=f"The header does not describe this file. {_FETCH_AGAIN}",
                )
        return total


@contextmanager
def open_forward(path: Path, *, packed_at: int | None = None) -> Iterator[ForwardReader]:
    """Open a file to read forward, through gzip if its name ends in ``.gz`` or ``.mgz``.

    Parameters
    ----------
    packed_at
        Where a zlib or gzip stream begins in a file of any name; the reader starts there.

    Raises
    ------
    MissingInputError
        If there is no such file, it is a folder or a device, or may not be read.
    FileFormatError
        If the file is empty, or its name and its content disagree on compression.
    """
    with open_regular(path, kind="scan") as file:
        if packed_at is not None:
            file.seek(packed_at)
            yield ForwardReader(path, _Inflated(file))
            return
        compressed = path.suffix.lower() in (".gz", ".mgz")
        _check_magic(path, ForwardReader(path, file).read(_START_BYTES), compressed)
        file.seek(0)
        if not compressed:
            yield ForwardReader(path, file)
            return
        with gzip.GzipFile(fileobj=file, mode="rb") as unzipped:
            yield ForwardReader(path, unzipped)


class _Inflated:
    """A zlib or gzip stream within a file, verified by its checksum at the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either header

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; fewer only at the end. Raises EOFError, zlib.error."""
        parts = []
        while size > 0 and not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(_CHUNK_BYTES)
            if not packed:
                raise EOFError
            parts.append(self._inflate.decompress(packed, size))
            size -= len(parts[-1])
        return b"".join(parts)


def _check_magic(path: Path, start: bytes, compressed: bool) -> None:
    if not start:
        raise FileFormatError(path, expected="data", found="an empty file", remedy=_FETCH_AGAIN)
    if compressed and not start.startswith(_GZIP_MAGIC):
        raise FileFormatError(
            path,
            expected="gzip data, which begin with 1f 8b",
            found=describe_start(start),
            remedy="Take .gz off its name." if start[:4] in NIFTI_SIZES else _FETCH_AGAIN,
        )
    if not compressed and start.startswith(_GZIP_MAGIC):
        raise FileFormatError(
            path,
            expected="uncompressed data, as its name says",
            found="gzip data",
            remedy="Add .gz to its name.",
        )
