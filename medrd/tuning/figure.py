"""A search in one picture: how it went, where good values lie, and which keys matter."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medrd.files import atomic_path
from medrd.tuning.space import Choice, Dimension, Space, Uniform
from medrd.tuning.trials import Status, Trial, as_text, best_of

_GREY = "0.45"
_BLUE, _RED = "#0072B2", "#D55E00"  # Okabe and Ito's, distinct for colour-blind readers
_MAP = colormaps["viridis"]
_MARKS: tuple[tuple[Status, str, dict[str, Any]], ...] = (
    ("finished", "finished", {"color": _BLUE}),
    ("stopped", "stopped early", {"color": _BLUE, "mfc": "white"}),
    ("unfinished", "unfinished", {"color": _GREY, "mfc": "white"}),
)


def save_search_figure(
    space: Space, trials: Sequence[Trial], importances: Mapping[str, float], path: Path
) -> None:
    """Write :func:`draw_search`'s picture as a PNG, whole or not at all."""
    figure = draw_search(space, trials, importances)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def draw_search(space: Space, trials: Sequence[Trial], importances: Mapping[str, float]) -> Figure:
    """Three panels: history, parallel coordinates, importances.

    Parameters
    ----------
    trials
        In the order in which they began.
    importances
        By key, from 0 to 1; empty where there are too few trials to tell.
    """
    width = max(8.0, 2.2 + 1.25 * (len(space) + 1))
    figure = Figure(figsize=(width, 6.6), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplot_mosaic(
        [["history", "importance"], ["coordinates", "coordinates"]],
        width_ratios=(1.6, 1),
        height_ratios=(1, 1.15),
    )
    _draw_history(panels["history"], trials)
    _draw_importances(panels["importance"], space, importances)
    _draw_coordinates(panels["coordinates"], space, trials)
    return figure


def _draw_history(ax: Axes, trials: Sequence[Trial]) -> None:
    numbered = list(enumerate(trials, start=1))
    judged = [(n, t) for n, t in numbered if t.objective is not None]
    for status, name, style in _MARKS:
        shown = [(n, t.objective) for n, t in judged if t.status == status]
        if shown:
            ax.plot(*zip(*shown, strict=True), "o", markersize=4.5, label=name, **style)
    failed = [n for n, t in numbered if t.status == "failed"]
    if failed:
        across: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "clip_on": False}
        ax.plot(failed, [0] * len(failed), "x", color=_RED, markersize=5, label="failed", **across)
    steps = _best_so_far(trials)
    if steps:
        ax.step(*zip(*steps, strict=True), where="post", color=_GREY, linewidth=1, label="best")
    ax.set_xlim(0.4, len(trials) + 0.6)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("trial", fontsize=8)
    _title(ax, "Objective by trial")
    ax.legend(fontsize=6.5, frameon=False)


def _best_so_far(trials: Sequence[Trial]) -> list[tuple[int, float]]:
    """The best finished trial's objective after each trial, from the first finished one on."""
    steps = []
    for number in range(1, len(trials) + 1):
        best = best_of(trials[:number])
        if best is not None and best.objective is not None:
            steps.append((number, best.objective))
    return steps


def _draw_importances(ax: Axes, space: Space, importances: Mapping[str, float]) -> None:
    _title(ax, "Importance (functional ANOVA)")
    if not importances:
        ax.set_axis_off()
        ax.text(0, 0.9, "too few finished trials to tell", fontsize=7.5, color=_GREY, va="top")
        return
    keys = sorted(space, key=lambda key: importances.get(key, 0.0))
    values = [importances.get(key, 0.0) for key in keys]
    ax.barh(range(len(keys)), values, color=_BLUE, height=0.6)
    for row, value in enumerate(values):
        ax.annotate(f"{value:.2f}", (value, row), xytext=(3, 0), textcoords="offset points",
                    va="center", fontsize=7)  # fmt: skip
    ax.set_yticks(range(len(keys)), keys, fontsize=7)
    ax.set_xlim(0, 1.12)


def _draw_coordinates(ax: Axes, space: Space, trials: Sequence[Trial]) -> None:
    """One vertical axis a key and one for the objective; a line a trial, good ones bright."""
    judged = [t for t in trials if t.objective is not None]
    objectives = [t.objective for t in judged if t.objective is not None]
    low, high = min(objectives), max(objectives)
    scale = Normalize(low, high if high > low else low + 1)
    places = range(len(space) + 1)
    for trial in sorted(judged, key=lambda t: t.objective or 0.0):
        assert trial.objective is not None
        heights = [height(dimension, trial.point[key]) for key, dimension in space.items()]
        heights.append(scale(trial.objective))
        finished = trial.status == "finished"
        ax.plot(
            places,
            heights,
            color=_MAP(0.92 * scale(trial.objective)),
            linewidth=1.4 if finished else 0.8,
            linestyle="solid" if finished else (0, (3, 2)),
            alpha=0.9 if finished else 0.6,
        )
    for place in places:
        ax.axvline(place, color=_GREY, linewidth=0.8, zorder=0)
    for place, dimension in zip(places, space.values(), strict=False):
        for value, text in _ticks(dimension):
            _tick(ax, place, value, text)
    for value in (low, high):
        _tick(ax, len(space), float(scale(value)), f"{value:.3f}")
    names = [f"{key}\n[{d.unit}]" if d.unit else key for key, d in space.items()]
    ax.set_xticks(list(places), [*names, "objective"], fontsize=7)
    ax.set_xlim(-0.4, len(space) + 0.5)
    ax.set_ylim(-0.06, 1.06)
    ax.set_yticks([])
    ax.tick_params(axis="x", length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    _title(ax, "Values and objective (dashed: not trained to the end)")


def height(dimension: Dimension, value: Any) -> float:
    """Where a value stands on its axis, from 0 to 1."""
    if isinstance(dimension, Choice):
        last = max(1, len(dimension.values) - 1)
        return dimension.values.index(value) / last
    low, high, value = float(dimension.low), float(dimension.high), float(value)
    if isinstance(dimension, Uniform) and dimension.kind == "log_uniform":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _ticks(dimension: Dimension) -> list[tuple[float, str]]:
    values = dimension.values if isinstance(dimension, Choice) else dimension.ends()
    return [
        (height(dimension, v), f"{v:.3g}" if isinstance(v, float) else as_text(v)) for v in values
    ]


def _tick(ax: Axes, place: float, value: float, text: str) -> None:
    ax.annotate(
        textwrap.shorten(text, 22, placeholder="…"),
        (place, value),
        xytext=(3, 0),
        textcoords="offset points",
        fontsize=6,
        color="0.2",
        va="center",
        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
    )


def _title(ax: Axes, text: str) -> None:
    ax.set_title(text, loc="left", fontsize=9, fontweight="bold")
    ax.tick_params(labelsize=7)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
