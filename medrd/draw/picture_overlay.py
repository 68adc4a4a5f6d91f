"""A figure of a picture with its anomaly map."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medrd.draw.heat import HeatScale, dark_axes, fit, outline, show, write_title
from medrd.draw.text import drawable

_WIDTH_INCHES = 9.6
LARGEST_SIDE_PX = 1024
"""Larger pictures are shrunk to this (twice what a panel shows): matplotlib copies a picture a
dozen times."""


def draw_picture_overlay(
    *,
    image: NDArray[np.float32],
    score_map: NDArray[np.float32],
    threshold: float | None,
    title: str,
    label: NDArray[np.bool_] | None = None,
) -> Figure:
    """Draw the picture, and at its right the picture under its heat map.

    Colours are those of :mod:`medrd.draw.heat`, in units of the calibrated threshold. The
    picture keeps its brightness: 0 is black and 1 is white.

    Parameters
    ----------
    image
        (H, W, C) in [0, 1], C = 1 or 3.
    score_map
        (H, W).
    label
        (H, W) bool; outlined, if given.
    """
    factor = -(-max(score_map.shape) // LARGEST_SIDE_PX)
    scale = HeatScale.of(score_map, threshold)
    # Pictures shrink by the mean, as in every viewer; maps by the maximum, so that a small
    # finding does not fade below the threshold.
    picture = np.clip(blocks(image, factor).mean(axis=(1, 3)), 0, 1)
    heat = blocks(score_map, factor).max(axis=(1, 3))
    truth = blocks(label, factor).max(axis=(1, 3)) if label is not None else None

    height, width = heat.shape
    tall = float(np.clip(_WIDTH_INCHES * 0.45 * height / width, 1.5, 8))
    figure, ax = dark_axes(_WIDTH_INCHES, tall + 0.5)
    for left in (0.1, 4.5):
        place = fit(heat.shape, (left, left + 4.3, 0.1, tall + 0.2))
        if picture.shape[2] == 1:
            show(ax, picture[..., 0], place, cmap="gray", vmin=0, vmax=1)
        else:
            show(ax, picture, place)
        if left > 1:
            scale.show(ax, heat, place)
        if left > 1 and threshold:
            # A black edge keeps the white line visible on white pictures.
            outline(ax, heat, threshold, place, colour="black", width=1.6)
            outline(ax, heat, threshold, place, colour="white", width=0.7)
        if truth is not None:
            outline(ax, truth.astype(np.float32), 0.5, place, colour="lime", width=0.8)
    scale.add_bar(ax, noun="picture")
    write_title(
        ax,
        f"{drawable(title)} — left the picture, right its anomaly score — "
        f"{scale.legend}research use only",
    )
    return figure


def blocks(array: NDArray, factor: int) -> NDArray:
    """Reshape (H, W, ...) to (h, factor, w, factor, ...); edges are repeated to fill blocks."""
    height, width = array.shape[:2]
    missing = [(0, -height % factor), (0, -width % factor)]
    padded = np.pad(array, missing + [(0, 0)] * (array.ndim - 2), mode="edge")
    rows, columns = padded.shape[0] // factor, padded.shape[1] // factor
    return padded.reshape(rows, factor, columns, factor, *array.shape[2:])
