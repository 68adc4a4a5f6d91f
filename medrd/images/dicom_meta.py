"""Facts from a DICOM file's first bytes, whether or not the rest can be decoded.

The preamble and the meta group (group 0002) are in one encoding in every file: explicit
little-endian. Source: DICOM PS3.10, 7.1.
"""

from __future__ import annotations

import struct
from pathlib import Path

_PREAMBLE_BYTES, _MAGIC = 128, b"DICM"
_META_BYTES = 4096
_CLASS, _SYNTAX = 0x0002, 0x0010  # elements of group 0002: Media Storage SOP Class, and syntax
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_NO_IMAGES = tuple(
    _STORAGE + kind
    for kind in ("4.2", "9.", "11.", "66", "67", "88.", "104.", "481.3", "481.5", "481.8")
)
"""Spectra, waveforms, presentation states, raw data and registrations, real-world values,
reports, documents, and structures and plans of radiotherapy (DICOM PS3.4, B.5)."""


def is_dicom(path: Path) -> bool:
    """Recognise a DICOM file by its magic, since many have no ending; hidden files do not count."""
    if path.name.startswith(".") or path.name == "DICOMDIR" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE_BYTES + len(_MAGIC))[_PREAMBLE_BYTES:] == _MAGIC
    except OSError:
        return False


def transfer_syntax(path: Path) -> str:
    """The UID of the data set's encoding; "" if the file does not name it."""
    return _meta(path, _SYNTAX)


def says_no_image(path: Path) -> bool:
    """True if the file is of a class without pixels, such as a report or a vendor's private class.

    Segmentations (66.4) and surfaces also count as such, because they are not scans.
    """
    kind = _meta(path, _CLASS)
    return kind.startswith(_NO_IMAGES) or bool(kind and not kind.startswith(_STORAGE))


def may_be_of(path: Path, series: str) -> bool:
    """True if a file that cannot be decoded may belong to a series, because it names no other."""
    content = path.read_bytes()
    return series.encode() in content or b"\x20\x00\x0e\x00" not in content


def _meta(path: Path, element: int) -> str:
    """The text of an element of group 0002 that is a UID."""
    with path.open("rb") as file:
        meta = file.read(_META_BYTES)
    at = meta.find(struct.pack("<HH2s", 0x0002, element, b"UI"), _PREAMBLE_BYTES)
    if at < 0:
        return ""
    start = at + 8
    length = int.from_bytes(meta[start - 2 : start], "little")
    return meta[start : start + length].decode("ascii", "replace").strip(" \0")
