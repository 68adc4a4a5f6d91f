"""Anomaly scores as colours, the same for scans and pictures.

Colours are scaled by the calibrated threshold, never by the image itself: full colour is twice
the threshold, so that normal images stay dark. Without a threshold the scale is the map's own,
and the colour bar says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medrd.files import atomic_path

COLOUR_MAP = "inferno"


@dataclass(frozen=True)
class HeatScale:
    """What scores look like.

    Attributes
    ----------
    threshold
        The calibrated one, or None.
    top
        The score that gets full colour.
    """

    threshold: float | None
    top: float

    @classmethod
    def of(cls, heat: NDArray[np.float32], threshold: float | None) -> HeatScale:
        """For a map of any shape."""
        return cls(threshold, 2 * threshold if threshold else max(float(heat.max()), 1e-6))

    @property
    def unit(self) -> float:
        """The score that is called 1: the threshold, else the top."""
        return self.threshold or self.top

    @property
    def sign(self) -> str:
        """Of the unit, after a number."""
        return "× threshold" if self.threshold else "of the highest"

    def describe(self, noun: str) -> str:
        """The unit in words; ``noun`` is what has a maximum of its own."""
        if self.threshold:
            return "× threshold"
        return f"of this {noun}'s maximum (not calibrated)"

    def alpha(self, scores: NDArray[Any]) -> NDArray[Any]:
        """How opaque each score is shown: nothing is hidden, little glows."""
        return np.clip(scores / (self.threshold or self.top / 2), 0, 1) ** 8 * 0.8

    def show(self, ax: Any, plane: NDArray[Any], *, aspect: float = 1.0) -> Any:
        """Lay a plane (rows, columns) over what ``ax`` shows; returns what a bar is made from."""
        norm, alpha = Normalize(0, self.top), self.alpha(plane)
        return ax.imshow(plane, cmap=COLOUR_MAP, norm=norm, alpha=alpha, aspect=aspect)

    def add_bar(self, figure: Figure, shown: Any, axes: Any, *, noun: str) -> None:
        """The colour bar, in units of the threshold; ``noun`` is what has a maximum of its own."""
        bar = figure.colorbar(shown, ax=axes, shrink=0.6, pad=0.01)
        ticks = [self.top * i / 4 for i in range(5)]
        bar.set_ticks(ticks, labels=[f"{tick / self.unit:.2g}" for tick in ticks])
        bar.set_label(f"anomaly score, {self.describe(noun)}", color="white", fontsize=8)
        bar.ax.tick_params(colors="white", labelsize=8)

    @property
    def legend(self) -> str:
        """What the caption says of the line."""
        return "white line: calibrated threshold — " if self.threshold else ""


def dark_figure(size_inches: tuple[float, float]) -> Figure:
    """A black figure, 110 pixels an inch."""
    figure = Figure(figsize=size_inches, dpi=110, facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def outline(ax: Any, plane: NDArray[Any], level: float, *, colour: str, width: float) -> None:
    """The border of what is at least ``level``; nothing in a plane too thin to have one."""
    if min(plane.shape) >= 2 and plane.max() >= level > plane.min():
        ax.contour(plane, [level], colors=colour, linewidths=width)


def save_figure(figure: Figure, path: Path) -> None:
    """As PNG, whole or not at all. Raises OutputError."""
    with atomic_path(path) as temporary:
        # Without the date and version matplotlib would add, the same map is the same file.
        figure.savefig(temporary, format="png", metadata={"Software": None})
