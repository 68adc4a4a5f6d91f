"""Make standard output and standard error accept any text, whatever their encoding."""

from __future__ import annotations

import codecs
import io
import sys

_PLAIN = {"—": "-", "–": "-", "…": "...", "×": "x", "≥": ">=", "≤": "<=", "±": "+-", "²": "2"}
_PLAIN |= {"³": "3", "→": "->", "·": ".", "“": '"', "”": '"', "’": "'", "µ": "u", "σ": "sigma"}
_LOWEST, _HIGHEST = 0xDC80, 0xDCFF
"""Surrogates, by which Python represents bytes in file names that are not text (PEP 383)."""


def take_every_text() -> None:
    """Make sure that no output of this process raises a UnicodeEncodeError.

    Bytes of file names that are not text are written as they are, so that a shell's pipe still
    names the file. Characters that the encoding lacks become similar ones, or ``?``.
    """
    codecs.register_error("medrd", _similar)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="medrd")


def _similar(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    written = b"".join(
        bytes([ord(each) - _LOWEST + 0x80])
        if _LOWEST <= ord(each) <= _HIGHEST
        else _PLAIN.get(each, "?").encode("ascii")
        for each in error.object[error.start : error.end]
    )
    return written, error.end
