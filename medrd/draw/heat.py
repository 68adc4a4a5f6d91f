"""Anomaly scores as colours, the same for scans and pictures.

The calibrated threshold sets the scale, never the image: full colour is twice the threshold, so
normal images stay dark. Without a threshold the scale ends at the map's maximum, and the colour
bar is labelled accordingly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medrd.files import atomic_path

COLOUR_MAP = "inferno"
Place = tuple[float, float, float, float]
"""Left, right, low and high edge of a picture, in inches."""


@dataclass(frozen=True)
class HeatScale:
    """The scale of a map's colours.

    Attributes
    ----------
    threshold
        The calibrated threshold, or None.
    top
        The score that is shown in full colour.
    """

    threshold: float | None
    top: float

    @classmethod
    def of(cls, heat: NDArray[np.float32], threshold: float | None) -> HeatScale:
        """The scale for a map of any shape."""
        return cls(threshold, 2 * threshold if threshold else max(float(heat.max()), 1e-6))

    @property
    def unit(self) -> float:
        """The score that counts as 1: the threshold, or without one the top."""
        return self.threshold or self.top

    @property
    def sign(self) -> str:
        """The unit, as written after a number."""
        return "× threshold" if self.threshold else "of the highest"

    def describe(self, noun: str) -> str:
        """The unit in words; ``noun`` is what the map belongs to, such as "scan"."""
        if self.threshold:
            return "× threshold"
        return f"of this {noun}'s maximum (not calibrated)"

    def alpha(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Opacity of each score: low scores leave the image visible."""
        return np.clip(scores / (self.threshold or self.top / 2), 0, 1) ** 8 * 0.8

    def show(self, ax: Axes, plane: NDArray[Any], place: Place) -> None:
        """Draw a plane (rows, columns) at a place."""
        norm, alpha = Normalize(0, self.top), self.alpha(plane)
        show(ax, plane, place, cmap=COLOUR_MAP, norm=norm, alpha=alpha)

    def add_bar(self, ax: Axes, *, noun: str) -> None:
        """Draw the colour bar at the right, in units of the threshold.

        For ``noun`` see :meth:`describe`.
        """
        (_, width), (_, height) = ax.get_xlim(), ax.get_ylim()
        left, low, high = width - 0.7, 0.2 * height, 0.8 * height
        shades = np.linspace(0, 1, 256)[::-1, None]
        show(ax, shades, (left, left + 0.15, low, high), cmap=COLOUR_MAP)
        for i in range(5):
            y = low + (high - low) * i / 4
            text = f"{self.top * i / 4 / self.unit:.2g}"
            ax.text(left + 0.2, y, text, color="white", fontsize=8, va="center")
        label = f"anomaly score, {self.describe(noun)}"
        at = (width - 0.12, height / 2)
        ax.text(*at, label, color="white", fontsize=8, ha="center", va="center", rotation=90)

    @property
    def legend(self) -> str:
        """The caption's words about the threshold's line, if it is drawn."""
        return "white line: calibrated threshold — " if self.threshold else ""


def dark_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A black figure, and one pair of axes that fills it, in inches from its lower left corner.

    Pictures are placed by explicit coordinates: separate axes, and a layout that measures them,
    would take most of a figure's time.
    """
    figure = Figure(figsize=(width, height), dpi=110, facecolor="black")
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.autoscale(enable=False)
    return figure, ax


def fit(shape: tuple[int, ...], cell: Place, *, aspect: float = 1.0) -> Place:
    """The largest place in the middle of a cell for a plane (rows, columns).

    ``aspect`` is a pixel's height over its width.
    """
    left, right, low, high = cell
    tall, wide = shape[0] * aspect, shape[1]
    size = min((right - left) / wide, (high - low) / tall)
    x, y = (left + right) / 2, (low + high) / 2
    return (x - size * wide / 2, x + size * wide / 2, y - size * tall / 2, y + size * tall / 2)


def show(ax: Axes, plane: NDArray[Any], place: Place, **settings: Any) -> None:
    """Draw a plane (rows, columns) at a place in the axes."""
    ax.imshow(plane, extent=place, aspect="auto", **settings)


def outline(
    ax: Axes, plane: NDArray[Any], level: float, place: Place, *, colour: str, width: float
) -> None:
    """Draw the border of values of at least ``level``, unless the plane is thinner than 2."""
    if min(plane.shape) >= 2 and plane.max() >= level > plane.min():
        ax.contour(plane, [level], origin="upper", extent=place, colors=colour, linewidths=width)


def write_title(ax: Axes, text: str) -> None:
    """Write at the top of the figure."""
    (_, width), (_, height) = ax.get_xlim(), ax.get_ylim()
    at = (width / 2, height - 0.06)
    ax.text(*at, text, color="white", fontsize=9, ha="center", va="top", wrap=True)


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG file, atomically. Raises OutputError."""
    with atomic_path(path) as temporary:
        # Without matplotlib's date and version in it, the same map gives the same file. Level 3
        # takes half the time of Pillow's 6, for 8 % more bytes.
        settings: dict[str, Any] = {
            "metadata": {"Software": None},
            "pil_kwargs": {"compress_level": 3},
        }
        figure.savefig(temporary, format="png", **settings)
