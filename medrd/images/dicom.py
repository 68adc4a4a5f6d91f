"""Read a DICOM series as one :class:`Volume`.

dcm2niix (:mod:`medrd.images.dcm2niix`) converts the series, and its output is read like any NIfTI
file. Its grid is then compared with the headers (:mod:`medrd.images.dicom_place`).
"""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from medrd.errors import FileFormatError, SeriesError, ShapeError, TooLargeError
from medrd.images.dcm2niix import convert, inconvertible
from medrd.images.dicom_place import Plane, by_place, check_parallel, place_grid, planes_of
from medrd.images.dicom_series import (
    Series,
    choose_with_warnings,
    frames,
    series_of,
    text,
    whole,
)
from medrd.images.header import DEFAULT_MAX_VOXELS
from medrd.images.nifti import read_nifti
from medrd.images.volume import Volume, volume_from_array

if TYPE_CHECKING:
    from pydicom import Dataset

_UNEVEN_SHARE = 0.02
"""Relative deviation of the stated distance of slices that causes no warning."""


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
        The folder of its files, or one of them.
    series
        Series Instance UID; required if the folder holds several.
    frame
        Index of the volume, from 0, if the series has several at the same positions, in the order
        of instance numbers.
    max_voxels
        Budget for all files together.

    Returns
    -------
    Volume
        Rescale slope and intercept applied (for Philips, the scale of its precise values). The
        path is the folder.

    Raises
    ------
    MissingInputError, FileFormatError
        There is no such series, a file is not a grey image with a position, or dcm2niix cannot
        convert the format.
    SeriesError
        There are several series, or the slices do not form one volume.
    ShapeError
        There are several volumes and no frame is chosen.
    TooLargeError
        More than ``max_voxels``.
    MissingExtraError
        ``medrd[dicom]`` is not installed.
    """
    path = Path(path)
    if path.is_file():
        series, path = series or series_of(path), path.parent
    chosen, remarks = choose_with_warnings(path, series)
    _check_budget(path, chosen, max_voxels)
    for file, header in chosen.headers.items():
        _check_grey(file, header)
    distinct = _distinct(chosen)
    remarks += _uid_warnings(chosen, distinct)
    files, places, inner = _one_volume(path, distinct, frame)
    with TemporaryDirectory(prefix="medrd-dicom-") as workspace:
        done = convert(files, path, Path(workspace))
        volume = read_nifti(done.image, frame=inner, max_voxels=max_voxels)
    affine = volume.affine
    if places:
        affine = place_grid(
            path,
            volume.affine,
            volume.shape,
            places,
            straightened=done.straightened,
            words=done.words,
        )
        remarks += _distance_warnings(distinct, places)
    elif volume.shape[2] == 1:
        raise inconvertible(path, f"a mosaic that it takes for one slice ({done.words})")
    if not done.whole:
        raise inconvertible(path, done.words or "an error without a message")
    if done.straightened:
        remarks.append(
            "the gantry was tilted: dcm2niix has resampled the slices onto a straight grid."
        )
    if affine is not volume.affine:
        remarks.append("slices were placed by their headers, because dcm2niix's grid differs.")
        volume = replace(volume_from_array(volume.array, affine), warnings=volume.warnings)
    return replace(
        volume, path=path, warnings=(*volume.warnings, *remarks), description=chosen.description
    )


def _check_budget(where: Path, series: Series, max_voxels: int) -> None:
    count = sum(
        whole(header, "Rows") * whole(header, "Columns") * frames(header)
        for header in series.headers.values()
    )
    if count > max_voxels:
        raise TooLargeError(
            where,
            expected=f"at most {max_voxels:,} voxels",
            found=f"{count:,} voxels in {len(series.files)} files",
            remedy="Raise the budget with --max-voxels (max_voxels= in Python).",
        )


def _check_grey(path: Path, header: Dataset) -> None:
    """Refuse MONOCHROME1, whose higher values are darker: dcm2niix would take it for the
    opposite."""
    photometric = text(header, "PhotometricInterpretation", "MONOCHROME2")
    if photometric != "MONOCHROME2":
        raise FileFormatError(
            path,
            expected="a grey image whose higher values are brighter (MONOCHROME2)",
            found=photometric,
            remedy="Give the scanner's own series, not screenshots or colour maps.",
        )


def _distinct(series: Series) -> dict[Path, Dataset]:
    """The files without copies, which UIDs alone do not reveal, as some tools repeat them."""
    alike: dict[Hashable, list[Path]] = defaultdict(list)
    for path, header in series.headers.items():
        alike[
            text(header, "SOPInstanceUID", path.name), text(header, "ImagePositionPatient")
        ].append(path)
    kept: set[Path] = set()
    for paths in alike.values():
        by_pixels = {_pixel_hash(path) if len(paths) > 1 else "": path for path in reversed(paths)}
        kept.update(by_pixels.values())
    return {path: header for path, header in series.headers.items() if path in kept}


def _uid_warnings(series: Series, distinct: dict[Path, Dataset]) -> list[str]:
    """Warn about copies of slices, and about slices that share a UID."""
    remarks = []
    if copies := len(series.files) - len(distinct):
        remarks.append(
            f"{copies} copies of slices (same SOP Instance UID, position and pixels) were ignored."
        )
    if len({text(header, "SOPInstanceUID") for header in distinct.values()}) < len(distinct):
        remarks.append(
            "different slices have one SOP Instance UID, which must be unique: they were told "
            "apart by their positions."
        )
    return remarks


def _pixel_hash(path: Path) -> str:
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path, specific_tags=["PixelData"], force=True)
    return hashlib.sha256(data.get("PixelData") or b"").hexdigest()


def _one_volume(
    where: Path, headers: dict[Path, Dataset], frame: int | None
) -> tuple[list[Path], list[Plane], int | None]:
    """The files of one volume, the positions of its slices, and its frame in the image.

    A mosaic has no positions here, because its header describes the tiles in the vendor's format.
    """
    first = next(iter(headers.values()))
    if "MOSAIC" in text(first, "ImageType").upper():
        if len(headers) == 1:
            return list(headers), [], frame
        return [_in_time(headers)[_checked(where, frame, len(headers), 1)]], [], None
    planes = [plane for path, header in headers.items() for plane in planes_of(path, header)]
    check_parallel(where, planes)
    if len(headers) == 1 and len(planes) > 1:  # enhanced: dcm2niix tells its volumes apart
        return list(headers), [place[0] for place in by_place(planes)], frame
    order = {path: at for at, path in enumerate(_in_time(headers))}
    places = [sorted(place, key=lambda one: order[one.path]) for place in by_place(planes)]
    at = _checked(where, frame, _volumes(where, places), len(places))
    chosen = [place[at] for place in places]
    if len(places[0]) > 1:
        _check_numbered(where, places, headers)
    return [plane.path for plane in chosen], chosen, None


def _in_time(headers: dict[Path, Dataset]) -> list[Path]:
    """Files in the order of their instance numbers, then of their names."""
    return sorted(headers, key=lambda path: (whole(headers[path], "InstanceNumber"), path.name))


def _volumes(where: Path, places: Sequence[Sequence[Plane]]) -> int:
    """Number of volumes: of slices at each place."""
    counts = [len(place) for place in places]
    most = max(set(counts), key=counts.count)
    for place in places:
        if len(place) != most:
            names = ", ".join(plane.path.name for plane in place[:3])
            raise SeriesError(
                where,
                expected=f"{most} slice{'s' if most > 1 else ''} at every position",
                found=f"{len(place)} at {place[0].depth_mm:.2f} mm ({names})",
                remedy="Remove the duplicate slices."
                if len(place) > most
                else "Fetch the series again.",
            )
    return most


def _checked(where: Path, frame: int | None, count: int, slices: int) -> int:
    """The chosen frame. Raises ShapeError if it does not exist, or one must be chosen."""
    if frame is None and count == 1:
        return 0
    if frame is None or not frame < count:
        raise ShapeError(
            where,
            expected="one three-dimensional image" if frame is None else f"frame {frame}",
            found=f"{count} volume{'s' if count > 1 else ''} of {slices} slices",
            remedy=f"Choose one, K from 0 to {count - 1}: medrd predict --frame K, frame=K in "
            "Python."
            if count > 1
            else "Leave --frame out.",
        )
    return frame


def _check_numbered(
    where: Path, places: Sequence[Sequence[Plane]], headers: dict[Path, Dataset]
) -> None:
    for place in places:
        if len({whole(headers[plane.path], "InstanceNumber") for plane in place}) < len(place):
            names = ", ".join(plane.path.name for plane in place[:3])
            raise SeriesError(
                where,
                expected=f"{len(place)} volumes that their instance numbers tell apart",
                found=f"slices at one position ({names}) with the same or none",
                remedy="Convert the series with dcm2niix, check the result, and give that.",
            )


def _distance_warnings(headers: dict[Path, Dataset], places: Sequence[Plane]) -> list[str]:
    """Warn if the distance of slices is not the one in their headers: some may be missing."""
    if len(places) < 2:
        return []
    distance_mm = (places[-1].depth_mm - places[0].depth_mm) / (len(places) - 1)
    stated = text(headers[places[0].path], "SpacingBetweenSlices", "0")
    try:
        stated_mm = abs(float(stated))
    except ValueError:
        return []
    if not stated_mm or not abs(distance_mm - stated_mm) > _UNEVEN_SHARE * stated_mm:
        return []
    return [
        f"slices lie {distance_mm:.2f} mm apart, their headers say {stated_mm:.2f} mm (Spacing "
        "Between Slices): are some missing?"
    ]
