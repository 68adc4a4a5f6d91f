"""Compare dcm2niix's grid with the positions of slices in the headers of a DICOM series.

dcm2niix takes the distance of slices from the first two, and ignores, without an error, that slices
of an MR series are shifted against each other. A map must be where the scanner's headers say.

Source: DICOM PS3.3, C.7.6.2 (Image Plane Module) and C.7.6.16.2 (functional groups).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from medrd.errors import FileFormatError, SeriesError
from medrd.images.dicom_series import frames, text, value_of
from medrd.images.geometry import (
    RAS_TO_LPS,
    Affine,
    Shape3,
    is_sheared,
    max_displacement_mm,
    spacing_mm,
)

if TYPE_CHECKING:
    from pydicom import Dataset

_UNEVEN_SHARE = 0.02
"""Tolerated share of the distance between slices; rounding to a few decimals is far below it."""
_STRAY_SHARE = 0.1
"""Largest offset of a slice from the line of the others, as a share of a voxel's shortest edge."""
_SAME_PLACE_MM = 1e-3
_EXACT_MM = 0.01
"""Deviation of dcm2niix's grid from the headers above which it is corrected."""
_CONVERT = "Convert the series with dcm2niix, check the result, and give that."


@dataclass(frozen=True)
class Plane:
    """An image's position in space.

    Attributes
    ----------
    row, column
        Unit vectors in LPS: the direction in which the columns are counted, and the rows.
    position_mm
        Centre of the first pixel, LPS.
    spacing_mm
        Distance between rows, and between columns.
    """

    path: Path
    row: tuple[float, ...]
    column: tuple[float, ...]
    position_mm: tuple[float, ...]
    spacing_mm: tuple[float, ...]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector in LPS at right angles to the image."""
        return np.cross(self.row, self.column)

    @property
    def depth_mm(self) -> float:
        """Position along the normal."""
        return float(np.dot(self.position_mm, self.normal))


def planes_of(path: Path, header: Dataset) -> tuple[Plane, ...]:
    """The planes of a file's frames: one plane, or one for each frame of an enhanced image.

    Raises FileFormatError if the file does not tell.
    """
    if frames(header) == 1 and "PerFrameFunctionalGroupsSequence" not in header:
        return (_plane(path, header, header, header),)
    groups = value_of(header, "PerFrameFunctionalGroupsSequence") or []
    if len(groups) != frames(header):
        raise _no_place(path, f"a position for each of its {frames(header)} frames", "")
    shared = (value_of(header, "SharedFunctionalGroupsSequence") or [header])[0]
    return tuple(
        _plane(
            path,
            _group("PlanePositionSequence", frame, shared, header),
            _group("PlaneOrientationSequence", frame, shared, header),
            _group("PixelMeasuresSequence", frame, shared, header),
        )
        for frame in groups
    )


def _group(name: str, *holders: Dataset) -> Dataset:
    """The functional group of a frame: its own, or that of all frames."""
    found = (value_of(holder, name)[0] for holder in holders if value_of(holder, name))
    return next(found, holders[-1])


def _plane(path: Path, positioned: Dataset, oriented: Dataset, measured: Dataset) -> Plane:
    orientation = _numbers(path, oriented, "ImageOrientationPatient", 6)
    row, column = _unit(path, orientation[:3]), _unit(path, orientation[3:])
    if abs(np.dot(row, column)) > 1e-3:
        raise _no_place(path, "rows and columns at right angles", "others")
    position_mm = _numbers(path, positioned, "ImagePositionPatient", 3)
    return Plane(path, row, column, position_mm, _numbers(path, measured, "PixelSpacing", 2))


def _numbers(path: Path, header: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    stated = text(header, keyword)
    try:
        values = tuple(float(part) for part in stated.split("\\"))
    except ValueError:
        values = ()
    if len(values) != count or not np.isfinite(values).all():
        raise _no_place(path, f"{count} numbers in {keyword}", stated)
    return values


def _unit(path: Path, vector: Sequence[float]) -> tuple[float, ...]:
    length = float(np.linalg.norm(vector))
    if not abs(length - 1) < 0.01:
        raise _no_place(path, "directions of length 1", f"one of length {length:.3g}")
    return tuple(float(value) / length for value in vector)


def _no_place(path: Path, expected: str, found: str) -> FileFormatError:
    return FileFormatError(
        path,
        expected=f"a slice with a position in space: {expected}",
        found=found or "none",
        remedy="Give the scanner's own series; screenshots and scans of film have no position.",
    )


def by_place(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Planes grouped by depth, in ascending order; those at the same depth keep their order."""
    places: list[list[Plane]] = []
    for plane in sorted(planes, key=lambda one: one.depth_mm):
        if places and plane.depth_mm - places[-1][0].depth_mm < _SAME_PLACE_MM:
            places[-1].append(plane)
        else:
            places.append([plane])
    return places


def check_parallel(where: Path, planes: Sequence[Plane]) -> None:
    """Raise SeriesError for slices in different planes, as in scouts, or with different pixels."""
    first = planes[0]
    for one in planes:
        if not np.allclose((one.row, one.column), (first.row, first.column), atol=1e-3):
            found = "slices in different planes"
        elif not np.allclose(one.spacing_mm, first.spacing_mm, rtol=1e-4):
            found = f"pixels of {first.spacing_mm} and of {one.spacing_mm} mm"
        else:
            continue
        raise SeriesError(
            where,
            expected="slices of one size in one plane",
            found=f"{found} ({first.path.name}, {one.path.name})",
            remedy="Give the files of one volume, without scouts.",
        )


def place_grid(
    where: Path,
    affine: Affine,
    shape: Shape3,
    planes: Sequence[Plane],
    *,
    straightened: bool = False,
    words: str = "",
) -> Affine:
    """The affine of dcm2niix's image, corrected if the headers place the slices elsewhere.

    Parameters
    ----------
    affine, shape
        The image's affine, to RAS+ mm, and shape.
    planes
        One for each slice, ordered by depth.
    straightened
        Whether dcm2niix has resampled slices of a tilted gantry; they are then not checked for
        shifts against each other.
    words
        What dcm2niix remarked, for the messages.

    Raises
    ------
    SeriesError
        The slices are unevenly spaced, shifted, or not where the image has them.
    """
    said = f" (dcm2niix: {words})" if words else ""
    _check_even(where, planes, said)
    _check_straight(where, planes, min(spacing_mm(affine)), said)
    onto = np.linalg.inv(affine)
    places = np.array([plane.position_mm for plane in planes]) @ RAS_TO_LPS[:3, :3]
    across = int(np.argmax(np.abs(onto[:3, :3] @ RAS_TO_LPS[:3, :3] @ planes[0].normal)))
    if shape[across] != len(planes):
        raise _elsewhere(where, f"{len(planes)} slices", f"{shape[across]}{said}")
    if straightened:
        return affine
    ends = apply_affine(onto, places[[0, -1]])  # as voxel indices
    backwards = bool(ends[0, across] > ends[1, across])
    corner = np.round(ends[0])
    corner[across] = shape[across] - 1 if backwards else 0
    beside = np.delete(np.abs(ends[0] - np.where(corner > 0, np.array(shape) - 1, 0)), across)
    if beside.max() > _STRAY_SHARE:
        raise _elsewhere(
            where,
            "a slice's corner at a corner of the image",
            f"it at voxel {ends[0].round(1)}{said}",
        )
    placed = affine.copy()
    if len(planes) > 1:
        step = (places[-1] - places[0]) / (len(planes) - 1)
        placed[:3, across] = -step if backwards else step
        _check_upright(where, placed, planes[0], said)
    placed[:3, 3] += places[0] - (placed[:3, :3] @ corner + placed[:3, 3])
    return placed if max_displacement_mm(affine, placed, shape) > _EXACT_MM else affine


def _elsewhere(where: Path, expected: str, found: str) -> SeriesError:
    return SeriesError(
        where, expected=f"an image of {expected} from dcm2niix", found=found, remedy=_CONVERT
    )


def _check_upright(where: Path, affine: Affine, plane: Plane, said: str) -> None:
    if not is_sheared(affine):
        return
    steps = affine[:3, :3] / np.asarray(spacing_mm(affine))
    upright = float(np.abs(steps.T @ RAS_TO_LPS[:3, :3] @ plane.normal).max())
    raise SeriesError(
        where,
        expected="slices exactly above each other",
        found=f"slices that shift by {math.degrees(math.acos(min(1.0, upright))):.1f} degrees "
        "(a tilted gantry), which dcm2niix does not straighten in this "
        f"series{said}",
        remedy="Resample the series onto a straight grid first.",
    )


def _check_even(where: Path, planes: Sequence[Plane], said: str) -> None:
    gaps_mm = np.diff([plane.depth_mm for plane in planes])
    if not gaps_mm.size:
        return
    usual_mm = float(np.median(gaps_mm))
    if np.all(np.abs(gaps_mm - usual_mm) <= _UNEVEN_SHARE * usual_mm):
        return
    steps = np.round(gaps_mm / usual_mm)
    if np.all(np.abs(gaps_mm / usual_mm - steps) <= _UNEVEN_SHARE * steps):
        found = (
            f"{int(steps.sum()) - len(steps)} missing among slices {usual_mm:.2f} mm apart, "
            f"the first after {planes[int(np.argmax(steps))].path.name}"
        )
        remedy = "Fetch the series again."
    else:
        found = f"distances from {gaps_mm.min():.2f} to {gaps_mm.max():.2f} mm"
        remedy = _CONVERT
    raise SeriesError(where, expected="evenly spaced slices", found=found + said, remedy=remedy)


def _check_straight(where: Path, planes: Sequence[Plane], edge_mm: float, said: str) -> None:
    """Check that all slices are on one line; equal distances along the normal are not enough."""
    places = np.array([plane.position_mm for plane in planes])
    if len(places) < 3:
        return
    steps = np.arange(len(places))
    slope, start = np.polyfit(steps, places, 1)
    stray_mm = np.linalg.norm(places - (start + np.outer(steps, slope)), axis=1)
    worst = int(stray_mm.argmax())
    if stray_mm[worst] > _STRAY_SHARE * edge_mm:
        raise SeriesError(
            where,
            expected="slices on one straight line",
            found=f"{planes[worst].path.name} {stray_mm[worst]:.2f} mm off the line of the "
            f"others{said}",
            remedy="Fetch the series again.",
        )
