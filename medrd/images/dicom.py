"""Volumes from DICOM series: a folder of slices in, one :class:`Volume` out.

SimpleITK decodes the files. The positions of slices are checked here
(:mod:`medrd.images.dicom_stack`), because ITK's own series reader looks only at the first and the
last slice.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medrd.errors import FileFormatError, MissingInputError, SeriesError, TooLargeError
from medrd.extras import require_extra
from medrd.images.dicom_meta import is_dicom, may_be_of, says_no_image, transfer_syntax
from medrd.images.dicom_stack import SliceHeader, order_slices, stack_affine, stack_warnings
from medrd.images.header import DEFAULT_MAX_VOXELS
from medrd.images.sitk import quiet_sitk
from medrd.images.volume import Volume, volume_from_array

if TYPE_CHECKING:
    import SimpleITK

_ROWS, _COLUMNS, _FRAMES = "0028|0010", "0028|0011", "0028|0008"
_SPACING, _POSITION, _ORIENTATION = "0028|0030", "0020|0032", "0020|0037"
_PHOTOMETRIC, _THICKNESS, _DISTANCE = "0028|0004", "0018|0050", "0018|0088"
_SERIES, _INSTANCE, _NUMBER = "0020|000e", "0008|0018", "0020|0013"
_DESCRIPTION, _KIND = "0008|103e", ("0008|0008", "0018|0081")


@dataclass(frozen=True)
class Series:
    """The files of one Series Instance UID in one folder."""

    uid: str
    description: str
    files: tuple[Path, ...]


def holds_dicom(folder: Path) -> bool:
    """True if there is a DICOM file directly in the folder."""
    return any(is_dicom(path) for path in sorted(folder.iterdir()))


def series_of(path: Path) -> str:
    """Series Instance UID of a DICOM file. Raises FileFormatError if it is none."""
    return _text(_header(path), _SERIES)


def find_series(folder: Path) -> list[Series]:
    """The series whose images lie directly in the folder; reports and the like are ignored.

    Raises
    ------
    MissingInputError
        The folder cannot be read.
    FileFormatError
        A DICOM image that is damaged.
    """
    held = _look_into(folder)
    for error in held.unread.values():
        raise error
    return held.series


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
    files: dict[str, list[Path]] = defaultdict(list)
    names: dict[str, str] = {}
    no_images, unread = [], {}
    for path in paths:
        try:
            header = _header(path)
        except FileFormatError as error:
            if says_no_image(path):
                no_images.append(path)
            else:
                unread[path] = error
            continue
        uid = _text(header, _SERIES)
        files[uid].append(path)
        names.setdefault(uid, _text(header, _DESCRIPTION))
    return _Held([Series(uid, names[uid], tuple(files[uid])) for uid in files], no_images, unread)


def choose_series(folder: Path, uid: str | None = None) -> Series:
    """The series with that UID directly in the folder, or the only series.

    Raises
    ------
    MissingInputError
        No DICOM file, or none of that series.
    SeriesError
        Several series and none chosen.
    FileFormatError
        A damaged image, unless it is of a series that was not chosen.
    """
    return _choose(folder, uid)[0]


def _choose(folder: Path, uid: str | None) -> tuple[Series, list[str]]:
    """See :func:`choose_series`; also returns warnings about ignored files."""
    held = _look_into(folder)
    for path, error in held.unread.items():
        if uid is None or may_be_of(path, uid):
            raise error
    found = held.series
    chosen = found if uid is None else [series for series in found if series.uid == uid]
    if len(chosen) == 1:
        return chosen[0], _passed_over(held)
    listed = "; ".join(
        f"{series.uid} ({series.description or 'no description'}, {len(series.files)} files)"
        for series in found
    )
    if chosen:
        raise SeriesError(
            folder,
            expected="one DICOM series",
            found=f"{len(chosen)}: {listed}",
            remedy="Choose one with --series UID (series= in Python), or give one of its files.",
        )
    raise MissingInputError(
        folder,
        expected=f"files of series {uid}" if uid else "DICOM files",
        found="; ".join([listed, *_passed_over(held)]).strip("; ") or "none",
        remedy="Check the path and the UID.",
    )


def _passed_over(held: _Held) -> list[str]:
    return [
        f"{len(paths)} DICOM files {said} were passed over: {paths[0].name}"
        f"{', …' if len(paths) > 1 else '.'}"
        for paths, said in (
            (held.no_images, "without an image (reports and the like)"),
            (list(held.unread), "of other series that cannot be read"),
        )
        if paths
    ]


def read_dicom(
    path: str | Path,
    *,
    series: str | None = None,
    frame: int | None = None,
    max_voxels: int = DEFAULT_MAX_VOXELS,
) -> Volume:
    """Read one series as one volume, on the grid that dcm2niix gives it.

    Parameters
    ----------
    path
        The folder that its files lie in, or one of them.
    series
        Series Instance UID; needed where the folder holds several.
    frame
        Which volume of a series that has several at the same places, from 0.
    max_voxels
        Budget for all files together.

    Returns
    -------
    Rescale slope and intercept applied. The path is the folder.

    Raises
    ------
    MissingInputError, FileFormatError
        No such series, or a file that is no plain grey image with a place.
    SeriesError
        Several series, or slices that do not make one volume.
    ShapeError
        Several volumes and no frame chosen.
    TooLargeError
        More than ``max_voxels``.
    """
    path = Path(path)
    if path.is_file():
        series, path = series or series_of(path), path.parent
    chosen, warnings = _choose(path, series)
    headers = [_slice(file) for file in chosen.files]
    same = _alike(headers)
    count = sum(one[0].shape[0] * one[0].shape[1] for one in same)
    if count > max_voxels:
        raise TooLargeError(
            path,
            expected=f"at most {max_voxels:,} voxels",
            found=f"{count:,} voxels in {len(same)} files",
            remedy="Raise the budget with --max-voxels (max_voxels= in Python).",
        )
    distinct = [one for group in same for one in _unique(group)]
    slices = order_slices(path, distinct, frame=frame)
    affine = stack_affine(slices)
    # (slices, rows, columns) to (columns, rows from the last, slices), as the affine has it.
    array = np.stack([_pixels(one) for one in slices]).transpose(2, 1, 0)[:, ::-1]
    if len(distinct) < len(headers):
        copies = len(headers) - len(distinct)
        warnings.append(
            f"{copies} copies of slices (the same SOP Instance UID, place and pixels) were ignored."
        )
    if len({one.instance for one in distinct}) < len(distinct):
        warnings.append(
            "different slices have one SOP Instance UID, which must be unique: they were told "
            "apart by their places."
        )
    warnings += stack_warnings(slices)
    volume = volume_from_array(np.ascontiguousarray(array), affine)
    return Volume(volume.array, volume.affine, volume.grid, path, tuple(warnings))


def _alike(headers: Iterable[SliceHeader]) -> list[list[SliceHeader]]:
    """Group headers with the same UID and place, which may be copies of each other."""
    groups: dict[Hashable, list[SliceHeader]] = defaultdict(list)
    for one in headers:
        groups[one.instance, one.shape, one.row, one.column, one.position_mm].append(one)
    return list(groups.values())


def _unique(alike: Sequence[SliceHeader]) -> Sequence[SliceHeader]:
    """Keep one of the headers with equal pixels; UIDs prove nothing, as some tools repeat them."""
    if len(alike) == 1:
        return alike
    by_pixels: dict[str, SliceHeader] = {}
    for one in alike:
        by_pixels.setdefault(hashlib.sha256(_pixels(one).tobytes()).hexdigest(), one)
    return list(by_pixels.values())


def _header(path: Path) -> SimpleITK.ImageFileReader:
    """A reader whose tags have been read."""
    require_extra("prepare", "reading DICOM")
    import SimpleITK  # heavy, and needed by few

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(os.fspath(path))
    # Slices differ in slope and intercept, so that an integer type could cut values.
    reader.SetOutputPixelType(SimpleITK.sitkFloat32)
    try:
        with quiet_sitk():
            reader.ReadImageInformation()
    except RuntimeError:
        raise _undecodable(path) from None
    return reader


def _slice(path: Path) -> SliceHeader:
    """Read where a slice lies; raises FileFormatError if the file does not tell."""
    header = _header(path)
    if _text(header, _FRAMES, "1") != "1":
        raise FileFormatError(
            path,
            expected="one slice per file",
            found=f"an enhanced multi-frame image of {_text(header, _FRAMES)} frames",
            remedy="Convert the series with dcm2niix and give its NIfTI file.",
        )
    photometric = _text(header, _PHOTOMETRIC, "MONOCHROME2")
    if photometric != "MONOCHROME2":
        raise FileFormatError(
            path,
            expected="a grey image whose higher values are brighter (MONOCHROME2)",
            found=photometric,
            remedy="Give the scanner's own series, not screenshots or colour maps.",
        )
    rows, columns = _numbers(path, header, _SPACING, 2)
    orientation = _numbers(path, header, _ORIENTATION, 6)
    x, y, z = _numbers(path, header, _POSITION, 3)
    row, column = _unit(path, orientation[:3]), _unit(path, orientation[3:])
    if abs(np.dot(row, column)) > 1e-3 or min(rows, columns) <= 0:
        raise _no_place(path, "rows and columns at right angles, of a size above 0")
    shape = (int(_numbers(path, header, _ROWS, 1)[0]), int(_numbers(path, header, _COLUMNS, 1)[0]))
    return SliceHeader(
        path=path,
        instance=_text(header, _INSTANCE, path.name),
        number=int(_number(header, _NUMBER)),
        shape=shape,
        spacing_mm=(rows, columns),
        row=row,
        column=column,
        position_mm=(x, y, z),
        thickness_mm=abs(_number(header, _THICKNESS)),
        distance_mm=abs(_number(header, _DISTANCE)),
        kind=tuple(_text(header, tag) for tag in _KIND),
    )


def _pixels(one: SliceHeader) -> NDArray[np.float32]:
    """The slice's values, (rows, columns) float32, rescaled."""
    import SimpleITK

    reader = _header(one.path)
    try:
        with quiet_sitk():
            image = reader.Execute()
    except RuntimeError:
        raise _undecodable(one.path) from None
    pixels: NDArray[np.float32] = SimpleITK.GetArrayFromImage(image)
    return pixels.reshape(one.shape)


def _text(header: SimpleITK.ImageFileReader, tag: str, default: str = "") -> str:
    if not header.HasMetaDataKey(tag):
        return default
    # ITK passes bytes that are not UTF-8 through as lone surrogates.
    text: str = header.GetMetaData(tag).encode("utf-8", "replace").decode()
    return text.strip(" \0") or default


def _number(header: SimpleITK.ImageFileReader, tag: str) -> float:
    """The number in an optional tag; 0 if it is missing or not finite."""
    try:
        value = float(_text(header, tag))
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def _numbers(
    path: Path, header: SimpleITK.ImageFileReader, tag: str, count: int
) -> tuple[float, ...]:
    text = _text(header, tag)
    try:
        values = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        values = ()
    if len(values) != count or not np.isfinite(values).all():
        raise _no_place(path, f"{count} numbers in tag ({tag.replace('|', ',')})", text)
    return values


def _unit(path: Path, vector: Sequence[float]) -> tuple[float, float, float]:
    length = float(np.linalg.norm(vector))
    if not abs(length - 1) < 0.01:
        raise _no_place(path, "directions of length 1", f"one of length {length:.3g}")
    x, y, z = (float(value) / length for value in vector)
    return x, y, z


def _no_place(path: Path, expected: str, found: str = "") -> FileFormatError:
    return FileFormatError(
        path,
        expected=f"a slice with a place in space: {expected}",
        found=found or "none",
        remedy="Give the scanner's own series; screenshots and scans of film have no place.",
    )


def _undecodable(path: Path) -> FileFormatError:
    return FileFormatError(
        path,
        expected="a whole DICOM image that GDCM can decode",
        found=f"one that it cannot, of transfer syntax {transfer_syntax(path) or 'not said'}",
        remedy="Fetch it again; decompress what is in a rare codec (gdcmconv --raw). Reports "
        "and structures are no images.",
    )
