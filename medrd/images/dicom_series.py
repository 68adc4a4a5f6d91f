"""The DICOM series of a folder: their files, what they show, and the choice of one.

pydicom reads the headers; :mod:`medrd.images.dicom` turns the chosen series into a volume.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrd.errors import FileFormatError, MissingInputError, SeriesError
from medrd.extras import require_extra

if TYPE_CHECKING:
    from pydicom import Dataset

_PREAMBLE_BYTES, _MAGIC = 128, b"DICM"
_INDEX = "DICOMDIR"
_TAGS = [
    *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "SeriesDescription"),
    *("Manufacturer",),
    *("ProtocolName", "SequenceName", "ScanningSequence", "EchoTime", "InstanceNumber"),
    *("SeriesInstanceUID", "Rows", "Columns", "NumberOfFrames", "PhotometricInterpretation"),
    *("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "SpacingBetweenSlices"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_NO_SCANS = tuple(
    _STORAGE + kind
    for kind in ("4.2", "9.", "11.", "30", "66", "67", "88.", "104.", "481.3", "481.5", "481.8")
)
"""Spectra, waveforms, presentation states, parametric maps, raw data, registrations, segmentations
and surfaces, real-world values, reports, documents, and structures and plans of radiotherapy
(DICOM PS3.4, B.5)."""


@dataclass(frozen=True)
class Series:
    """The image files of one Series Instance UID in one folder, with their headers."""

    uid: str
    headers: dict[Path, Dataset]

    @property
    def files(self) -> tuple[Path, ...]:
        """Paths in the order of their names."""
        return tuple(self.headers)

    @property
    def description(self) -> str:
        """The Series Description, in whichever character set; "" if there is none."""
        return " ".join(text(next(iter(self.headers.values())), "SeriesDescription").split())

    @property
    def size(self) -> str:
        """Number of images, and rows and columns of the first."""
        first = next(iter(self.headers.values()))
        count = sum(frames(header) for header in self.headers.values())
        return f"{count} of {text(first, 'Columns')} x {text(first, 'Rows')}"

    @property
    def looks_like(self) -> str:
        """The kind according to the headers: ``flair``, ``scout`` …; "" if they do not say."""
        first = next(iter(self.headers.values()))
        if "LOCALIZER" in text(first, "ImageType").upper():
            return "scout"
        return described_kind(self.description) or ""


# The first that fits counts. For T1-weighted FLAIR and T2*-weighted scans, the other word decides.
_KINDS = {
    "scout": r"SCOUT|LOCALI[SZ]|SURVEY|AAHEAD|3.?PLANE",
    "diffusion": r"DWI|DTI|DIFF|ADC|TRACE|FA\b|EP2D",
    "perfusion": r"PERF|DSC|ASL\b|CBF|CBV|MTT|DCE",
    "susceptibility": r"SWI|T2\s*\*|T2.?STAR|T2S\b|HEMO|MIN.?IP|VENBOLD",
    "angiography": r"TOF|ANGIO|MRA\b|MIP\b|VENOGRAM",
    "t1ce": r"(?=.*(T1|MPRAGE|MPR\b|BRAVO|SPGR|VIBE|TFE))"
    r"(?=.*(\+\s*C\b|\bC\s*\+|POST|\bGD|\bGAD|\+\s*GD|CONTRAST|\bCE\b|T1C|\bKM\b|\+\s*KM))"
    r"(?!.*(PRE.?(CONTRAST|GD|GAD)|WITHOUT|NON.?CONTRAST|NATIVE))",
    "t1": r"T1|MPRAGE|BRAVO|SPGR",
    "flair": r"FLAIR|TIRM|DARK.?FL|T2.?F\b",
    "t2": r"T2",
}


def described_kind(description: str) -> str | None:
    """The kind in a Series Description: ``flair``, ``t1``, ``t1ce``, ``t2``, or another one.

    >>> described_kind("t2_tirm_tra_dark-fluid"), described_kind("Ax T1 +C"), described_kind("x")
    ('flair', 't1ce', None)
    """
    words = re.sub(r"[_\-]+", " ", description.upper())
    return next((kind for kind, words_of in _KINDS.items() if re.search(words_of, words)), None)


def is_dicom(path: Path) -> bool:
    """Recognise a DICOM file by its content, since many have no ending and some no preamble.

    Hidden files and the index of a disc (DICOMDIR) do not count.
    """
    if path.name.startswith(".") or path.name.upper() == _INDEX:
        return False
    try:
        if not path.is_file():  # which raises for a name that is too long
            return False
        with path.open("rb") as file:
            start = file.read(_PREAMBLE_BYTES + len(_MAGIC))
    except OSError:
        return False
    return start[_PREAMBLE_BYTES:] == _MAGIC or has_no_preamble(start)


def has_no_preamble(start: bytes) -> bool:
    """Whether a file's first bytes are a data set's, of group 2 or 8 in little-endian order."""
    if len(start) < 16 or start[_PREAMBLE_BYTES:] == _MAGIC:
        return False
    group, element = (int.from_bytes(start[at : at + 2], "little") for at in (0, 2))
    explicit = start[4:6] in (b"UL", b"UI", b"CS", b"OB", b"DA", b"LO", b"SH")
    implicit = int.from_bytes(start[4:8], "little") <= 64
    return (group == 2 and element <= 0x10 and explicit) or (
        group == 8 and element <= 0x20 and (explicit or implicit)
    )


def without_index(path: Path) -> Path:
    """The folder of a disc's index (DICOMDIR); any other path unchanged."""
    return path.parent if path.name.upper() == _INDEX and path.is_file() else path


def holds_dicom(folder: Path) -> bool:
    """Whether a DICOM file lies directly in the folder."""
    return any(is_dicom(path) for path in sorted(folder.iterdir()))


def series_of(path: Path) -> str:
    """Series Instance UID of a DICOM file. Raises FileFormatError if it is not one."""
    return text(read_header(path), "SeriesInstanceUID")


def series_description(folder: Path, uid: str | None) -> str:
    """Series Description of a folder's series, from its first file; "" if that cannot be read."""
    for path in sorted(folder.iterdir()):
        try:
            header = read_header(path) if is_dicom(path) else None
        except FileFormatError:
            continue
        if header and is_image(header) and uid in (None, text(header, "SeriesInstanceUID")):
            return text(header, "SeriesDescription")
    return ""


def find_series(folder: Path) -> list[Series]:
    """The series whose images lie directly in the folder; reports and the like are ignored.

    Raises
    ------
    MissingInputError
        The folder cannot be read.
    FileFormatError
        A DICOM file whose header is damaged.
    """
    held = _look_into(folder)
    for error in held.unread.values():
        raise error
    return held.series


def why_no_scan(found: Sequence[Series]) -> str | None:
    """The reason why a folder's series are not scans (reports and the like, or scouts); None if one
    is."""
    if not found:
        return "its DICOM files have no image (reports and the like)"
    if all(series.looks_like == "scout" for series in found):
        return "a scout; give the folder itself to use it anyway"
    return None


def choose_series(folder: Path, uid: str | None = None) -> Series:
    """The series with that UID directly in the folder, or the only series.

    Raises
    ------
    MissingInputError
        There is no DICOM file, or none of that series.
    SeriesError
        There are several series and none is chosen; the message lists them in a table.
    FileFormatError
        A header is damaged, unless it belongs to a series that was not chosen.
    """
    return choose_with_warnings(folder, uid)[0]


def choose_with_warnings(folder: Path, uid: str | None) -> tuple[Series, list[str]]:
    """See :func:`choose_series`; also returns warnings about ignored files."""
    held = _look_into(folder)
    for path, error in held.unread.items():
        if uid is None or _may_be_of(path, uid):
            raise error
    found = held.series
    chosen = found if uid is None else [series for series in found if series.uid == uid]
    if len(chosen) == 1:
        return chosen[0], _ignored(held)
    if chosen:
        raise SeriesError(
            folder,
            expected="one DICOM series",
            found=f"{len(chosen)}:\n{_table(chosen)}\n",
            remedy="Choose one with --series UID (series= in Python), or give one of its files.",
        )
    listed = [f"series {series.uid} ({series.description or 'no description'})" for series in found]
    raise MissingInputError(
        folder,
        expected=f"files of series {uid}" if uid else "DICOM files",
        found="; ".join([*listed, *_ignored(held)]) or "none",
        remedy="Check the path and the UID.",
    )


def value_of(header: Dataset, keyword: str) -> Any:
    """An element's value; None if it is missing or damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about values that violate the standard
            return header.get(keyword)
    except Exception:  # pydicom parses an element on first access, and may raise anything
        return None


def text(header: Dataset, keyword: str, default: str = "") -> str:
    """An element's value as text, several of them joined by backslashes."""
    value = value_of(header, keyword)
    if value is None or isinstance(value, str):
        return str(value or "").strip(" \0") or default
    if hasattr(value, "__iter__"):
        return "\\".join(str(part) for part in value) or default
    return str(value)


def whole(header: Dataset, keyword: str) -> int:
    """An element's value as a whole number; 0 if it is missing or not a number."""
    stated = text(header, keyword)
    return int(stated) if stated.lstrip("+-").isdecimal() else 0


def frames(header: Dataset) -> int:
    """Number of frames; 1 for a file that does not state it."""
    return max(1, whole(header, "NumberOfFrames"))


def is_image(header: Dataset) -> bool:
    """Whether it is a scanner's image rather than a report, a segmentation or a private object."""
    kind = text(header, "SOPClassUID")
    return "Rows" in header and kind.startswith(_STORAGE) and not kind.startswith(_NO_SCANS)


def read_header(path: Path) -> Dataset:
    """The elements of a file that medrd uses. Raises FileFormatError."""
    require_extra("dicom", "reading DICOM")
    import pydicom  # needed by few

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS, force=True)
            # Elements are parsed on first access.
            if not text(header, "SeriesInstanceUID"):
                raise ValueError("no Series Instance UID")
    except Exception as error:  # pydicom's parser may raise anything
        raise FileFormatError(
            path,
            expected="a DICOM file",
            found=f"one that pydicom cannot read ({str(error) or type(error).__name__})",
            remedy="Fetch it again.",
        ) from None
    return header


@dataclass(frozen=True)
class _Held:
    """A folder's DICOM files: images by series, files without pixels, and unreadable files."""

    series: list[Series]
    no_images: list[Path]
    unread: dict[Path, FileFormatError]


def _look_into(folder: Path) -> _Held:
    try:
        paths = [path for path in sorted(folder.iterdir()) if is_dicom(path)]
    except OSError as error:
        raise MissingInputError(
            folder,
            expected="a folder of DICOM files",
            found=error.strerror or str(error),
            remedy="Check the path.",
        ) from None
    series: dict[str, dict[Path, Dataset]] = defaultdict(dict)
    no_images, unread = [], {}
    for path in paths:
        try:
            header = read_header(path)
        except FileFormatError as error:
            unread[path] = error
            continue
        if is_image(header):
            series[text(header, "SeriesInstanceUID")][path] = header
        else:
            no_images.append(path)
    return _Held([Series(uid, headers) for uid, headers in series.items()], no_images, unread)


def _may_be_of(path: Path, series: str) -> bool:
    """Whether a file with a damaged header may belong to a series, because it names no other."""
    content = path.read_bytes()
    return series.encode() in content or b"\x20\x00\x0e\x00" not in content


def _table(found: list[Series]) -> str:
    rows = [("Series Instance UID", "description", "images", "looks like")]
    rows += [(s.uid, s.description or "–", s.size, s.looks_like or "–") for s in found]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _ignored(held: _Held) -> list[str]:
    return [
        f"{len(paths)} DICOM files {what} were ignored: {paths[0].name}"
        f"{', …' if len(paths) > 1 else '.'}"
        for paths, what in (
            (held.no_images, "without an image (reports and the like)"),
            (list(held.unread), "of other series that cannot be read"),
        )
        if paths
    ]
