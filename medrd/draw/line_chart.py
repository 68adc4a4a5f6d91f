"""Lines in a frame, as SVG for the dark pages."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00")
"""Okabe and Ito's, distinct for colour-blind readers, those that are seen on black."""
_TEXT, _LINE = "#e6e8ea", "#565d66"
_MOST_POINTS = 400
"""More than the figure has pixels across."""


@dataclass(frozen=True, eq=False)
class Line:
    """A line, or with ``dots`` its points too; ``marked`` is an index to draw larger."""

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
) -> str:
    """An ``<svg>`` element; the same lines give the same text.

    Parameters
    ----------
    chance
        Two points of a dashed line: what drawing lots would reach.
    """
    figure = Figure(figsize=(5.2, 3.9), layout="constrained", facecolor="none")
    axes = figure.subplots()
    axes.set_facecolor("none")
    if chance is not None:
        axes.plot(*zip(*chance, strict=True), color=_LINE, linestyle="--", linewidth=1)
    for i, line in enumerate(lines):
        x, y = _thinned(np.asarray(line.x, float), np.asarray(line.y, float))
        colour = _COLOURS[i % len(_COLOURS)]
        marker = "o" if line.dots else ""
        axes.plot(x, y, color=colour, label=line.label, marker=marker, markersize=3.5)
        if line.marked is not None:
            axes.plot(x[line.marked], y[line.marked], "o", color=colour, markersize=8)
    axes.set_xlabel(x_label, color=_TEXT)
    axes.set_ylabel(y_label, color=_TEXT)
    if x_range is not None:
        axes.set_xlim(*x_range)
    if y_range is not None:
        axes.set_ylim(*y_range)
    axes.tick_params(colors=_TEXT)
    axes.grid(color=_LINE, linewidth=0.4)
    for spine in axes.spines.values():
        spine.set_color(_LINE)
    if len(lines) > 1:
        axes.legend(facecolor="#1a1d21", edgecolor=_LINE, labelcolor=_TEXT, fontsize=8)
    return _svg(figure)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A point for each step along the line, its ends among them."""
    if x.size <= _MOST_POINTS:
        return x, y
    width, height = (max(float(np.ptp(values)), 1e-12) for values in (x, y))
    way = np.cumsum(np.hypot(np.diff(x, prepend=x[0]) / width, np.diff(y, prepend=y[0]) / height))
    kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], _MOST_POINTS)))
    kept = np.union1d(np.minimum(kept, x.size - 1), [0, x.size - 1])
    return x[kept], y[kept]


def _svg(figure: Figure) -> str:
    target = io.StringIO()
    # Letters as shapes: the same on every machine. Names and date would differ by run.
    with mpl.rc_context({"svg.hashsalt": "medrd", "svg.fonttype": "path"}):
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    element = target.getvalue()
    element = element[element.index("<svg") :]
    # Several figures on a page: their inner names must not meet.
    salt = f"f{zlib.crc32(element.encode()):x}"
    element = re.sub(r'id="([^"]+)"', rf'id="{salt}-\1"', element)
    element = re.sub(r"url\(#([^)]+)\)", rf"url(#{salt}-\1)", element)
    return re.sub(r'href="#([^"]+)"', rf'href="#{salt}-\1"', element)
