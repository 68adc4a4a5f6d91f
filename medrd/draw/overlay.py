"""A figure of a scan with its anomaly map: three planes through the peak."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from medrd.draw.heat import HeatScale, Place, dark_axes, fit, outline, show, write_title
from medrd.draw.text import drawable
from medrd.images.box import bounding_box

PLANES = (
    # name, axis that is cut, letters at left, right, top, bottom (radiological convention)
    ("axial", 2, "RLAP"),
    ("coronal", 1, "RLSI"),
    ("sagittal", 0, "APSI"),
)

MARGIN_VOXELS = 4
"""Margin around the brain."""


def draw_overlay(
    *,
    image: NDArray[np.float32],
    score_map: NDArray[np.float32],
    affine: NDArray[np.float64],
    threshold: float | None,
    title: str,
    label: NDArray[np.bool_] | None = None,
) -> Figure:
    """Draw the scan, and below it the scan under its heat map, in three planes through the peak.

    Colours are those of :mod:`medrd.draw.heat`, in units of the calibrated threshold.

    Parameters
    ----------
    image, score_map
        (X, Y, Z) on one grid.
    label
        (X, Y, Z) bool; outlined, if given.
    """
    stacks = [canonical(array, affine) for array in (image, score_map)]
    scan, heat = stacks[0][0], stacks[1][0]
    spacing = np.linalg.norm(stacks[0][1][:3, :3], axis=0)
    truth = canonical(label.astype(np.float32), affine)[0] > 0 if label is not None else None
    box = bounding_box(scan != 0, MARGIN_VOXELS)
    scan, heat = scan[box], heat[box]
    truth = truth[box] if truth is not None else None
    centre = _centre(heat, threshold)
    scale = HeatScale.of(heat, threshold)
    positive = scan[scan > 0]
    lowest, highest = np.percentile(positive, [1, 99.5]) if positive.size else (0.0, 1.0)
    figure, ax = dark_axes(9.6, 6.6)
    for column, (name, axis, letters) in enumerate(PLANES):
        position = int(centre[axis])
        plane = cut(scan, axis, position)
        heat_plane = cut(heat, axis, position)
        rows, columns = (d for d in (2, 1, 0) if d != axis)
        aspect = float(spacing[rows] / spacing[columns])
        left = 0.1 + 2.9 * column
        ax.text(left + 1.4, 6.3, name, color="white", fontsize=9, ha="center", va="center")
        for low in (3.2, 0.15):
            place = fit(plane.shape, (left, left + 2.8, low, low + 2.95), aspect=aspect)
            show(ax, plane, place, cmap="gray", vmin=lowest, vmax=highest)
            if low < 3:
                scale.show(ax, heat_plane, place)
                if threshold:
                    outline(ax, heat_plane, threshold, place, colour="white", width=0.6)
            if truth is not None:
                lesion = cut(truth, axis, position).astype(np.float32)
                outline(ax, lesion, 0.5, place, colour="lime", width=0.8)
            write_letters(ax, letters, place)
    scale.add_bar(ax, noun="scan")
    write_title(
        ax,
        f"{drawable(title)} — above the scan, below its anomaly score — "
        f"{scale.legend}research use only",
    )
    return figure


def _centre(heat: NDArray[np.float32], threshold: float | None) -> tuple[int, ...]:
    """The peak of the largest region above the threshold, or of the whole map; else the middle."""
    if not heat.max() > 0:
        return tuple(n // 2 for n in heat.shape)
    if threshold is not None:
        above = heat >= threshold
        box = bounding_box(above)
        regions, count = ndimage.label(above[box])
        if count:
            largest = int(np.bincount(regions[above[box]])[1:].argmax()) + 1
            inside = np.where(regions == largest, heat[box], -np.inf)
            peak = np.unravel_index(int(inside.argmax()), inside.shape)
            return tuple(int(i) + part.start for i, part in zip(peak, box, strict=True))
    return tuple(int(i) for i in np.unravel_index(int(heat.argmax()), heat.shape))


def canonical(
    array: NDArray[np.float32], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Reorient (X, Y, Z) so that its axes run to the right, front and head (RAS+)."""
    image = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    return np.asarray(image.dataobj), np.asarray(image.affine)


def cut(array: NDArray[Any], axis: int, position: int) -> NDArray[Any]:
    """A plane of an RAS+ array as a picture: rows downwards, the patient's left on the right."""
    plane = np.take(array, position, axis=axis).T  # rows: the higher of the two axes
    return plane[::-1, ::-1]


def write_letters(ax: Axes, letters: str, place: Place) -> None:
    """Write the directions at left, right, top and bottom, as in :data:`PLANES`."""
    left, right, low, high = place
    x, y, inset = (left + right) / 2, (low + high) / 2, 0.06
    places = ((left + inset, y), (right - inset, y), (x, high - inset), (x, low + inset))
    for letter, (x, y) in zip(letters, places, strict=True):
        ax.text(x, y, letter, color="white", fontsize=7, ha="center", va="center", alpha=0.8)
