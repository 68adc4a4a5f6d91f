"""A comparison as one figure: models as rows, data sets side by side, on common axes."""

from __future__ import annotations

import math
import re
import textwrap
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from medrd.comparison.comparison import Aggregate, Comparison, aggregate
from medrd.draw.text import drawable
from medrd.files import atomic_path
from medrd.metrics.columns import FULL_HEADINGS, HEADLINES

CHANCE = {"image_auroc": 0.5, "aupro": 0.15}
"""Values of random scores. AUPRO: the overlap equals the false-positive rate, so its mean up to a
rate of 0.3 is 0.15. Pixel AP is missing: its value is the share of anomalous pixels, which cells do
not record."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
"""Colours of the domains in order, by Okabe and Ito: distinct for colour-blind readers."""
_GREY = "0.45"
_NAME_WIDTH = 26  # characters, before a model's name is broken


def save_figure(comparison: Comparison, path: Path) -> None:
    """Write the figure of :func:`draw_figure` as a PNG file, atomically."""
    figure = draw_figure(comparison)
    with atomic_path(path) as temporary:
        # Without matplotlib's version in it, the same results give the same file.
        figure.savefig(temporary, format="png", metadata={"Software": None})


def draw_figure(comparison: Comparison) -> Figure:
    """Draw a row of panels per metric, a column per data set, and in each panel a row per model.

    Panels of a metric share an axis from 0 to 1, or from 0.5 (marked as cut) for AUROC if all
    values are above chance. For a model without a value, the panel gives the reason instead.
    """
    data_sets, models = comparison.data_sets, comparison.models
    width = 1.9 + 2.75 * len(data_sets)
    height = 0.9 + len(HEADLINES) * (0.62 + 0.29 * len(models))
    figure = Figure(figsize=(width, height), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(HEADLINES), len(data_sets), squeeze=False)
    cut = False
    for metric, panels in zip(HEADLINES, grid, strict=True):
        columns = [[aggregate(comparison, m, d, metric) for m in models] for d in data_sets]
        start = _start(metric, [a for column in columns for a in column])
        cut = cut or start > 0
        for ax, data_set, column in zip(panels, data_sets, columns, strict=True):
            domain = comparison.domain(data_set)
            colour = COLOURS[comparison.domains.index(domain) % len(COLOURS)]
            _frame(ax, models if ax is panels[0] else [""] * len(models), start)
            _chance(ax, metric, len(models))
            for row, value in enumerate(column):
                _line(ax, row, value, colour)
            ax.set_title(FULL_HEADINGS[metric], loc="left", fontsize=8.5, fontweight="bold")
            if metric == HEADLINES[0]:
                _heading(ax, data_set, domain, colour)
    legend = _legend(comparison, width, cut=cut)
    figure.supxlabel(legend, x=0.01, ha="left", fontsize=6.5, color="0.3")
    return figure


def _start(metric: str, aggregates: list[Aggregate]) -> float:
    """Start of a metric's axis: 0, or for AUROC 0.5 if no value is below."""
    values = [value for a in aggregates for value in a.seeds.values()]
    values += [a.interval.low for a in aggregates if a.interval is not None and a.seeds]
    return 0.5 if metric == "image_auroc" and values and min(values) >= 0.5 else 0.0


def _frame(ax: Axes, names: list[str], start: float) -> None:
    """Set limits, grid and row names, and mark a cut axis."""
    margin = 0.02 * (1 - start)
    ax.set_xlim(start - margin, 1 + margin)
    ax.set_ylim(len(names) - 0.35, -0.6)
    steps = 5
    ax.set_xticks([start + (1 - start) * i / steps for i in range(steps + 1)])
    ax.set_yticks(range(len(names)), [drawable(_broken(name)) for name in names])
    ax.tick_params(axis="x", labelsize=7, length=2, color=_GREY)
    ax.tick_params(axis="y", labelsize=7.5, length=0)
    ax.grid(axis="x", color="0.92", linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(_GREY)
    for row in range(0, len(names), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="0.97", linewidth=0, zorder=0)
    if start > 0:
        mark: dict[str, Any] = {"transform": ax.transAxes, "ha": "center", "va": "center"}
        ax.text(0.008, 0, "//", fontsize=8, color=_GREY, **mark)


def _heading(ax: Axes, data_set: str, domain: str, colour: str) -> None:
    """Write the data set and its domain above the column."""
    text = drawable(textwrap.fill(f"{data_set} ({domain})", 34))
    ax.annotate(
        text,
        (0, 1),
        xytext=(0, 20),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9.5,
        fontweight="bold",
        color=colour,
        va="bottom",
    )


def _chance(ax: Axes, metric: str, rows: int) -> None:
    chance = CHANCE.get(metric)
    if chance is None:
        return
    ax.axvline(chance, color=_GREY, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
    ax.annotate(
        "chance",
        (chance, rows - 0.37),
        xytext=(2, 0),
        textcoords="offset points",
        fontsize=5.5,
        color=_GREY,
        va="bottom",
    )


def _line(ax: Axes, row: int, value: Aggregate, colour: str) -> None:
    """Draw one model's mean, seeds, interval and number, or the reason for a missing value."""
    margin = blended_transform_factory(ax.transAxes, ax.transData)
    style: dict[str, Any] = {"xycoords": margin, "textcoords": "offset points", "va": "center"}
    if value.mean is None:
        reason = "failed" if value.failed else ("not defined" if value.planned else "not run")
        style |= {"fontsize": 7, "style": "italic", "color": _GREY}
        ax.annotate(reason, (1.02, row), xytext=(0, 0), **style)
        return
    if value.interval is not None:
        ends = [value.interval.low, value.interval.high]
        ax.plot(ends, [row, row], color=colour, linewidth=1.3, solid_capstyle="butt", zorder=2)
        ax.plot(ends, [row, row], "|", color=colour, markersize=5, zorder=2)
    values = list(value.seeds.values())
    ax.plot(values, [row + 0.27] * len(values), "o", color=colour, alpha=0.5, ms=2.2, mew=0)
    whole = value.shortfall is None and value.complete
    face = colour if whole else "white"
    ax.plot([value.mean], [row], "o", color=colour, markerfacecolor=face, markersize=5, zorder=3)
    number = f"{value.mean:.3f}" + ("" if value.complete else " †")
    ax.annotate(number, (1.02, row), xytext=(0, 0), fontsize=7, color="0.15", **style)
    if value.shortfall is not None:
        note = (1.02, row)
        ax.annotate(value.shortfall, note, xytext=(0, -6.5), fontsize=5, color=_GREY, **style)


def _broken(name: str) -> str:
    """Break a long name into lines after its separators."""
    lines = [""]
    for piece in re.split(r"(?<=[_\-/ ])", name):
        if lines[-1] and len(lines[-1] + piece.rstrip()) > _NAME_WIDTH:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _legend(comparison: Comparison, width: float, *, cut: bool) -> str:
    """Explain the marks that are in the figure; ``width`` is in inches."""
    text = "Dot: mean over seeds, printed at the right; small dots: seeds"
    if any(comparison.categories(d) for d in comparison.data_sets):
        text += " (each the mean over categories)"
    if comparison.intervals:
        text += "; bar: 95 % bootstrap interval over subjects or pictures"
    text += (
        ". Dashed line: random scores (not drawn for pixel AP, where it is the share of anomalous "
        "pixels)."
    )
    if cut:
        text += f" The axis of {FULL_HEADINGS['image_auroc']} starts at 0.5 (//)."
    if any(c.status != "done" for c in comparison.cells):
        text += " Open dot: seeds are missing, or (†) some test inputs failed and were left out."
    return textwrap.fill(text, math.floor(width * 21.5))
