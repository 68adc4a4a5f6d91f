"""Data shared by the DICOM objects of a scan: source images, geometry, findings, maker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medrd.dicom_objects.sources import read_sources
from medrd.errors import GridMismatchError, SeriesError
from medrd.extras import require_extra
from medrd.images.dicom_place import Plane, by_place, place_grid, planes_of
from medrd.images.dicom_series import choose_series, text
from medrd.images.geometry import RAS_TO_LPS, Affine, Shape3, format_shape

if TYPE_CHECKING:
    import highdicom
    from pydicom import Dataset

NOTICE = "Research use only; not for diagnosis."
MAKERS_CODES = "99MEDRD"
"""The scheme of medrd's own codes, used where no standard code exists."""
SCORE = ("SCORE", MAKERS_CODES, "Anomaly score")


@dataclass(frozen=True)
class Finding:
    """A connected part of the mask.

    Attributes
    ----------
    number
        From 1, largest first: its segment in the Segmentation.
    diameter_mm
        The longest distance between two points on its surface.
    tracking_uid
        The same in the Segmentation and in the report.
    """

    number: int
    volume_mm3: float
    peak_score: float
    diameter_mm: float
    tracking_uid: str

    @property
    def label(self) -> str:
        """``Finding 1``."""
        return f"Finding {self.number}"


@dataclass(frozen=True)
class Maker:
    """The model that made the map.

    Attributes
    ----------
    name, hash
        The model's name and hash.
    threshold
        The lowest score of a voxel in the mask; None if unknown.
    """

    name: str
    hash: str
    threshold: float | None = None

    @property
    def version(self) -> str:
        """The version of medrd."""
        return version("medrd")


@dataclass(frozen=True, eq=False)
class Scene:
    """A map and its findings in the frame of reference of their DICOM series.

    Attributes
    ----------
    sources
        The series' images without their pixels.
    scores
        (X, Y, Z) float32.
    labels
        (X, Y, Z) int: numbers of the findings, 0 elsewhere.
    affine
        The affine of both, to RAS+ mm.
    """

    sources: Sequence[Dataset]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    affine: Affine
    findings: Sequence[Finding]
    maker: Maker

    def as_volume(self, array: NDArray[Any]) -> highdicom.Volume:
        """An array (X, Y, Z) with its axes as (slices, rows, columns) of the source images."""
        import highdicom

        order, backwards = self._axes
        turned = array.transpose(order)
        affine = RAS_TO_LPS @ self.affine @ np.eye(4)[:, [*order, 3]]
        for axis in np.flatnonzero(backwards):
            affine[:3, 3] += affine[:3, axis] * (turned.shape[axis] - 1)
            affine[:3, axis] *= -1
            turned = np.flip(turned, int(axis))
        return highdicom.Volume(
            np.ascontiguousarray(turned),
            _rigid(affine),
            coordinate_system="PATIENT",
            frame_of_reference_uid=self.sources[0].FrameOfReferenceUID,
        )

    @cached_property
    def _axes(self) -> tuple[list[int], NDArray[np.bool_]]:
        """Which axis of the map runs along slices, rows and columns, and whether against them."""
        plane = planes_of(Path("source"), self.sources[0])[0]
        wanted = np.array([plane.normal, plane.column, plane.row])
        columns = (RAS_TO_LPS @ self.affine)[:3, :3]
        cosines = wanted @ (columns / np.linalg.norm(columns, axis=0))
        order = [int(axis) for axis in np.abs(cosines).argmax(axis=1)]
        if len(set(order)) < 3:  # a map that has been turned by about 45 degrees
            order = [2, 1, 0]
        return order, cosines[range(3), order] < 0

    @property
    def equipment(self) -> dict[str, Any]:
        """The maker of the object, as keywords for highdicom's constructors."""
        return {
            "manufacturer": "medrd",
            "manufacturer_model_name": self.maker.name,
            "software_versions": self.maker.version,
            "device_serial_number": self.maker.hash[:16] or "unknown",
        }


def _rigid(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine with axes at exactly right angles, which rounding to float32 has disturbed."""
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    u, _, v = np.linalg.svd(affine[:3, :3] / edges)
    result = affine.copy()
    result[:3, :3] = (u @ v) * edges
    return result


def open_scene(
    folder: Path,
    series: str | None,
    *,
    scores: NDArray[np.float32],
    mask: NDArray[np.bool_] | None,
    affine: Affine,
    findings: Sequence[Mapping[str, Any]],
    maker: Maker,
    keep_names: bool = False,
) -> Scene:
    """Put a map and the rows of its lesion table into the frame of a DICOM series.

    Parameters
    ----------
    folder, series
        Where the series lies, and its UID if the folder holds several.
    scores, mask
        (X, Y, Z); no mask for a model without a threshold.
    findings
        Rows of :func:`medrd.metrics.lesion_table`.
    keep_names
        Keep the patient's name, number, birth date and similar values in the objects.

    Raises
    ------
    GridMismatchError
        The slices of the map are not where the images of the series are.
    InputError
        See :func:`medrd.images.dicom_series.choose_series`.
    """
    require_extra("dicom", "writing DICOM")
    from pydicom.uid import generate_uid

    chosen = choose_series(folder, series)
    sources = read_sources(chosen, keep_names=keep_names)
    x, y, z = scores.shape
    _check_same_grid(folder, sources, (x, y, z), affine)
    labels = np.zeros(scores.shape, np.int32)
    numbered = []
    if mask is not None and findings:
        parts, _ = ndimage.label(mask, np.ones((3, 3, 3)))
        onto = np.linalg.inv(affine)
        for number, row in enumerate(findings, 1):
            peak = onto[:3, :3] @ np.asarray(row["peak_mm"]) + onto[:3, 3]
            own = parts == parts[tuple(np.round(peak).astype(int))]
            labels[own] = number
            diameter = longest_diameter_mm(own, affine)
            uid = generate_uid(entropy_srcs=[chosen.uid, maker.hash, str(row)])
            numbered.append(Finding(number, row["volume_mm3"], row["peak_score"], diameter, uid))
    return Scene(sources, scores, labels, affine, numbered, maker)


def longest_diameter_mm(mask: NDArray[np.bool_], affine: Affine) -> float:
    """The longest distance between two points on a mask's surface, measured as in pyradiomics.

    The surface runs through the midpoints between voxels inside and outside, as the mesh of
    marching cubes does (IBSI's "maximum 3D diameter", L0JK).
    """
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist

    surface = mask & ~ndimage.binary_erosion(mask)
    voxels = np.argwhere(surface).astype(np.float64)
    halves = np.concatenate([np.eye(3), -np.eye(3)]) / 2
    points = (voxels[:, None] + halves).reshape(-1, 3) @ affine[:3, :3].T
    corners = points[ConvexHull(points).vertices]
    return float(pdist(corners).max())


def _check_same_grid(
    folder: Path, sources: Sequence[Dataset], shape: Shape3, affine: Affine
) -> None:
    """Raise GridMismatchError if the slices of a map are not where the images are.

    The positions of a mosaic's tiles are not checked.
    """
    if any("MOSAIC" in text(image, "ImageType").upper() for image in sources):
        return
    places = by_place([plane for image in sources for plane in planes_of(folder, image)])
    planes = [place[0] for place in places]
    step = np.subtract(planes[-1].position_mm, planes[0].position_mm)
    tilted = len(planes) > 1 and abs(step @ planes[0].normal) < 0.999 * np.linalg.norm(step)
    try:
        placed = place_grid(folder, affine, shape, planes, straightened=tilted)
        same = placed is affine and (tilted or _has_pixels_of(planes[0], affine, shape))
        found = "" if same else "one on another grid"
    except SeriesError as error:
        found = f"one of {format_shape(shape)} voxels on another grid ({error.found})"
    if found:
        raise GridMismatchError(
            folder,
            expected="a map on the grid of this series",
            found=found,
            remedy="Give the series that the map was made from; for a scan from medrd prepare, the "
            "map on the raw scan's grid (medrd predict --native).",
        )


def _has_pixels_of(plane: Plane, affine: Affine, shape: Shape3) -> bool:
    """Whether a grid has an image's rows and columns, to half a pixel at the far end."""
    steps_mm = np.multiply((plane.row, plane.column), np.reshape(plane.spacing_mm[::-1], (2, 1)))
    voxels = np.abs(np.linalg.solve(affine[:3, :3], RAS_TO_LPS[:3, :3] @ steps_mm.T))
    off = np.abs(voxels - np.round(voxels)) * max(shape)
    return bool((off < 0.5).all() and (np.round(voxels).sum(axis=0) == 1).all())
