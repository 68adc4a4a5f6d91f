"""Line charts as PNG files, in the colours of the dark pages."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00")
"""The colours of Okabe and Ito, distinct for colour-blind readers, that stand out on black."""
_GROUND, _TEXT, _FRAME = "#1a1d21", "#e6e8ea", "#565d66"


@dataclass(frozen=True, eq=False)
class Line:
    """A line through points.

    Attributes
    ----------
    dots
        True to draw the points too.
    marked
        Index of a point that is drawn larger.
    """

    label: str
    x: ArrayLike
    y: ArrayLike
    dots: bool = False
    marked: int | None = None


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = (0, 1.02),
    chance: Sequence[tuple[float, float]] | None = None,
) -> bytes:
    """Draw lines as a PNG file; the same lines give the same bytes.

    Parameters
    ----------
    chance
        Two points of a dashed line: the performance of random guesses.
    """
    figure = Figure(figsize=(5.2, 3.9), dpi=160, layout="constrained", facecolor=_GROUND)
    axes = figure.subplots()
    axes.set_facecolor(_GROUND)
    if chance is not None:
        axes.plot(*zip(*chance, strict=True), color=_FRAME, linestyle="--", linewidth=1)
    for i, line in enumerate(lines):
        x, y = np.asarray(line.x, float), np.asarray(line.y, float)
        colour, style = _COLOURS[i % len(_COLOURS)], "-" if i < len(_COLOURS) else ":"
        marker = "o" if line.dots else ""
        axes.plot(x, y, style, color=colour, label=line.label, marker=marker, markersize=3.5)
        if line.marked is not None:
            axes.plot(x[line.marked], y[line.marked], "o", color=colour, markersize=8)
    axes.set_xlabel(x_label, color=_TEXT)
    axes.set_ylabel(y_label, color=_TEXT)
    if x_range is not None:
        axes.set_xlim(*x_range)
    if y_range is not None:
        axes.set_ylim(*y_range)
    axes.tick_params(colors=_TEXT)
    axes.grid(color=_FRAME, linewidth=0.4)
    for spine in axes.spines.values():
        spine.set_color(_FRAME)
    if len(lines) > 1:
        axes.legend(facecolor=_GROUND, edgecolor=_FRAME, labelcolor=_TEXT, fontsize=8)
    target = io.BytesIO()
    # Without matplotlib's version, the same chart is the same file.
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()
