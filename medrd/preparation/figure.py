"""Figure of a prepared head, to check its alignment with the template at a glance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medrd.draw.heat import dark_axes, fit, outline, show, write_title
from medrd.draw.overlay import MARGIN_VOXELS, PLANES, canonical, cut, write_letters
from medrd.draw.text import drawable
from medrd.images.box import bounding_box

_TEMPLATE, _BRAIN = "deepskyblue", "lime"


def draw_prepared(
    images: Mapping[str, NDArray[np.float32]],
    affine: NDArray[np.float64],
    *,
    brain: NDArray[np.bool_],
    template: NDArray[np.bool_],
    title: str,
) -> Figure:
    """Draw a row per modality: three planes through the middle, with two outlines.

    Parameters
    ----------
    images
        Arrays (X, Y, Z) by modality.
    affine
        Affine of their common grid.
    brain, template
        (X, Y, Z) masks of the detected brain and of the template's.
    """
    detected, expected = (
        canonical(mask.astype(np.float32), affine)[0] for mask in (brain, template)
    )
    inside = (detected + expected) > 0
    box = bounding_box(inside, MARGIN_VOXELS)
    detected, expected = detected[box], expected[box]
    centre = [n // 2 for n in detected.shape]
    height = 3.4 * len(images) + 0.6
    figure, ax = dark_axes(9.6, height)
    for row, (channel, array) in enumerate(images.items()):
        scan = canonical(array, affine)[0][box]
        positive = scan[scan > 0]
        lowest, highest = np.percentile(positive, (1, 99.5)) if positive.size else (0.0, 1.0)
        top = height - 0.5 - 3.4 * row
        for column, (name, axis, letters) in enumerate(PLANES):
            left = 0.1 + 3.15 * column
            plane = cut(scan, axis, centre[axis])
            place = fit(plane.shape, (left, left + 3.1, top - 3.35, top - 0.3))
            show(ax, plane, place, cmap="gray", vmin=lowest, vmax=highest)
            for mask, colour in ((expected, _TEMPLATE), (detected, _BRAIN)):
                outline(ax, cut(mask, axis, centre[axis]), 0.5, place, colour=colour, width=0.7)
            heading = f"{drawable(channel)}, {name}"
            ax.text(left + 1.55, top - 0.15, heading, color="white", fontsize=9, ha="center")
            write_letters(ax, letters, place)
    write_title(
        ax,
        f"{drawable(title)}\ngreen: detected brain — blue: the template's — research use only",
    )
    return figure
