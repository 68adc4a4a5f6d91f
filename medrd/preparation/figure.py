"""Figure of a prepared head, to check its alignment with the template at a glance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medrd.draw.heat import dark_figure, outline
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
    figure = dark_figure((9.6, 3.4 * len(images) + 0.6))
    axes = figure.subplots(len(images), len(PLANES), squeeze=False)
    for row, (channel, array) in zip(axes, images.items(), strict=True):
        scan = canonical(array, affine)[0][box]
        positive = scan[scan > 0]
        low, high = np.percentile(positive, (1, 99.5)) if positive.size else (0.0, 1.0)
        for ax, (name, axis, letters) in zip(row, PLANES, strict=True):
            ax.imshow(cut(scan, axis, centre[axis]), cmap="gray", vmin=low, vmax=high)
            ax.set_axis_off()
            ax.set(xticks=[], yticks=[])
            for mask, colour in ((expected, _TEMPLATE), (detected, _BRAIN)):
                outline(ax, cut(mask, axis, centre[axis]), 0.5, colour=colour, width=0.7)
            ax.set_title(f"{drawable(channel)}, {name}", color="white", fontsize=9)
            write_letters(ax, letters)
    figure.suptitle(
        f"{drawable(title)}\ngreen: detected brain — blue: the template's — research use only",
        color="white",
        fontsize=9,
        wrap=True,
    )
    return figure
