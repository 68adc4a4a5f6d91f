"""The arrangement of a DICOM series' slices in space: pure functions on their headers.

Slices are ordered by their positions, never by their names or numbers, because instance numbers
may count by time, by slice or backwards.

Source: DICOM PS3.3, C.7.6.2 (Image Plane Module).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medrd.errors import SeriesError, ShapeError
from medrd.images.geometry import Affine, is_sheared

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_UNEVEN_SHARE = 0.02
"""Tolerated share of the distance between slices; rounding to a few decimals is far below it."""
_SAME_PLACE_MM = 1e-3
_STRAY_SHARE = 0.1
"""Share of a voxel's shortest edge by which a slice may deviate from the affine."""
_CONVERT = "Convert the series with dcm2niix, look at what it makes of it, and give that."


@dataclass(frozen=True)
class SliceHeader:
    """One file's position in space.

    Attributes
    ----------
    instance
        SOP Instance UID.
    number
        Instance number, used only to order slices at the same position; 0 if missing.
    shape
        (rows, columns).
    spacing_mm
        Distance between rows, and between columns.
    row, column
        Unit vectors in LPS, along which columns and rows are counted.
    position_mm
        Centre of the first pixel, LPS.
    thickness_mm
        Used as the distance if there is only one slice; 0 if missing.
    distance_mm
        Distance between the centres of neighbouring slices, as stated in the file; 0 if missing.
    kind
        Image type and echo time, which must be the same in one volume.
    """

    path: Path
    instance: str
    number: int
    shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    row: tuple[float, float, float]
    column: tuple[float, float, float]
    position_mm: tuple[float, float, float]
    thickness_mm: float
    distance_mm: float
    kind: tuple[str, ...]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector in LPS along which the slices are ordered."""
        return np.cross(self.row, self.column)

    @property
    def depth_mm(self) -> float:
        """Position along the normal."""
        return float(np.dot(self.position_mm, self.normal))


def order_slices(
    where: Path, slices: Sequence[SliceHeader], *, frame: int | None = None
) -> list[SliceHeader]:
    """The slices of one volume, in the order of their positions along the normal.

    Parameters
    ----------
    where
        Folder, for messages.
    slices
        The slices of one series, in any order.
    frame
        Which volume if a series has several at the same positions (time, echoes), from 0 in the
        order of instance numbers.

    Raises
    ------
    SeriesError
        If slices have different planes or sizes, are duplicated, missing or out of line, or if
        volumes at the same positions cannot be told apart by instance number.
    ShapeError
        If there are several volumes and no frame is chosen, or there is no such frame.
    """
    _check_alike(where, slices)
    places: list[list[SliceHeader]] = []
    for one in sorted(slices, key=lambda s: (s.depth_mm, s.number)):
        if places and one.depth_mm - places[-1][0].depth_mm < _SAME_PLACE_MM:
            places[-1].append(one)
        else:
            places.append([one])
    frames = _frames(where, places, frame)
    chosen = [sorted(place, key=lambda s: s.number)[frames] for place in places]
    if len({one.kind for one in chosen}) > 1:
        raise SeriesError(
            where,
            expected="slices of one kind: the same image type and echo time",
            found="; ".join(sorted(" ".join(kind) for kind in {one.kind for one in chosen})),
            remedy=_CONVERT,
        )
    _check_even(where, chosen)
    _check_straight(where, chosen)
    return chosen


def stack_warnings(slices: Sequence[SliceHeader]) -> list[str]:
    """Warnings about the ordered slices of a volume that do not prevent its use."""
    first = slices[0]
    if len(slices) == 1:
        return [] if first.thickness_mm else ["one slice without a thickness: taken as 1 mm thick."]
    distance_mm = (slices[-1].depth_mm - first.depth_mm) / (len(slices) - 1)
    said_mm = first.distance_mm
    if not said_mm or abs(distance_mm - said_mm) <= _UNEVEN_SHARE * said_mm:
        return []
    return [
        f"slices lie {distance_mm:.2f} mm apart, their headers say {said_mm:.2f} mm (Spacing "
        "Between Slices): are some missing?"
    ]


def stack_affine(slices: Sequence[SliceHeader]) -> Affine:
    """Affine of the ordered slices as an array (columns, rows upwards, slices), to RAS+ mm.

    Rows are counted from the last, as in dcm2niix, so that medrd's maps lie voxel on voxel with
    its NIfTI file of the series.

    Raises
    ------
    SeriesError
        If the gantry was tilted, so that slices are shifted against each other.
    """
    first, last = slices[0], slices[-1]
    between_rows, between_columns = first.spacing_mm
    lps = np.eye(4)
    lps[:3, 0] = np.asarray(first.row) * between_columns
    lps[:3, 1] = -np.asarray(first.column) * between_rows
    if len(slices) > 1:
        lps[:3, 2] = np.subtract(last.position_mm, first.position_mm) / (len(slices) - 1)
    else:
        lps[:3, 2] = first.normal * (first.thickness_mm or 1.0)
    lps[:3, 3] = first.position_mm - (first.shape[0] - 1) * lps[:3, 1]
    affine: Affine = _LPS_TO_RAS @ lps
    if is_sheared(affine):
        step = lps[:3, 2] / np.linalg.norm(lps[:3, 2])
        degrees = math.degrees(math.acos(min(1.0, float(step @ first.normal))))
        raise SeriesError(
            first.path.parent,
            expected="slices straight above each other",
            found=f"slices that shift by {degrees:.1f} degrees (a tilted gantry)",
            remedy="Convert the series with dcm2niix, which straightens it, and give the "
            "file whose name ends in _Tilt.",
        )
    return affine


def _check_alike(where: Path, slices: Sequence[SliceHeader]) -> None:
    """Check for one plane and one size: a series of scouts in three planes is not a volume."""
    first = slices[0]
    for one in slices:
        if one.shape != first.shape:
            found = f"{_pixels(first)} and {_pixels(one)} pixels"
        elif not np.allclose(one.spacing_mm, first.spacing_mm, rtol=1e-4):
            found = f"pixels of {first.spacing_mm} and of {one.spacing_mm} mm"
        elif not np.allclose((one.row, one.column), (first.row, first.column), atol=1e-3):
            found = "slices in different planes"
        else:
            continue
        raise SeriesError(
            where,
            expected="slices of one size in one plane",
            found=f"{found} ({first.path.name}, {one.path.name})",
            remedy="Give the files of one volume; scouts are none.",
        )


def _pixels(one: SliceHeader) -> str:
    return f"{one.shape[1]} x {one.shape[0]}"


def _frames(where: Path, places: Sequence[Sequence[SliceHeader]], frame: int | None) -> int:
    """The index of the slice to take at each position."""
    by_count = defaultdict(list)
    for place in places:
        by_count[len(place)].append(place)
    if len(by_count) > 1:
        most = max(by_count, key=lambda count: len(by_count[count]))
        odd = next(place for count, group in by_count.items() if count != most for place in group)
        more = len(odd) > most
        raise SeriesError(
            where,
            expected=f"{most} slice{'s' if most > 1 else ''} at every place",
            found=f"{len(odd)} at {odd[0].depth_mm:.2f} mm "
            f"({', '.join(one.path.name for one in odd[:3])})",
            remedy="Remove the doubled slices." if more else "Fetch the series again.",
        )
    (count,) = by_count
    if frame is None and count == 1:
        return 0
    if frame is None or not frame < count:
        raise ShapeError(
            where,
            expected="one three-dimensional image" if frame is None else f"frame {frame}",
            found=f"{count} volume{'s' if count > 1 else ''} of {len(places)} slices",
            remedy=f"Choose one, K from 0 to {count - 1}: medrd predict --frame K, frame=K in "
            "Python."
            if count > 1
            else "Leave --frame out.",
        )
    for place in places:
        if len({one.number for one in place}) < count:
            raise SeriesError(
                where,
                expected=f"{count} volumes that their instance numbers tell apart",
                found=f"slices at one place ({', '.join(one.path.name for one in place[:3])}) "
                "with the same or none",
                remedy=_CONVERT,
            )
    return frame


def _check_even(where: Path, slices: Sequence[SliceHeader]) -> None:
    gaps_mm = np.diff([one.depth_mm for one in slices])
    if not gaps_mm.size:
        return
    usual_mm = float(np.median(gaps_mm))
    if np.all(np.abs(gaps_mm - usual_mm) <= _UNEVEN_SHARE * usual_mm):
        return
    steps = gaps_mm / usual_mm
    whole = np.round(steps)
    if np.all(np.abs(steps - whole) <= _UNEVEN_SHARE * whole):
        after = slices[int(np.argmax(whole))]
        found = (
            f"{int(whole.sum()) - len(gaps_mm)} missing among slices {usual_mm:.2f} mm apart, "
            f"the first after {after.path.name}"
        )
        remedy = "Fetch the series again."
    else:
        found = f"distances from {gaps_mm.min():.2f} to {gaps_mm.max():.2f} mm"
        remedy = _CONVERT
    raise SeriesError(where, expected="slices at even distances", found=found, remedy=remedy)


def _check_straight(where: Path, slices: Sequence[SliceHeader]) -> None:
    """Check that one affine fits all slices; even distances along the normal are not enough."""
    places = np.array([one.position_mm for one in slices])
    if len(places) < 3:
        return
    steps = np.arange(len(places))
    slope, start = np.polyfit(steps, places, 1)
    stray_mm = np.linalg.norm(places - (start + np.outer(steps, slope)), axis=1)
    edges_mm = (*slices[0].spacing_mm, float(np.linalg.norm(slope)))
    worst = int(stray_mm.argmax())
    if stray_mm[worst] <= _STRAY_SHARE * min(edges_mm):
        return
    raise SeriesError(
        where,
        expected="slices in one straight row",
        found=f"{slices[worst].path.name} {stray_mm[worst]:.2f} mm beside the row of the others",
        remedy="Fetch the series again; " + _CONVERT[0].lower() + _CONVERT[1:],
    )
