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
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medrd.files import atomic_path

COLOUR_MAP = "inferno"


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
        """The unit, to be written after a number."""
        return "× threshold" if self.threshold else "of the highest"

    def describe(self, noun: str) -> str:
        """The unit in words; ``noun`` is what the map belongs to, such as "scan"."""
        if self.threshold:
            return "× threshold"
        return f"of this {noun}'s maximum (not calibrated)"

    def alpha(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Opacity of each score: low scores leave the image visible."""
        return np.clip(scores / (self.threshold or self.top / 2), 0, 1) ** 8 * 0.8

    def show(self, ax: Any, plane: NDArray[Any], *, aspect: float = 1.0) -> Any:
        """Draw a plane (rows, columns) over the axes; returns the artist for :meth:`add_bar`."""
        norm, alpha = Normalize(0, self.top), self.alpha(plane)
        return ax.imshow(plane, cmap=COLOUR_MAP, norm=norm, alpha=alpha, aspect=aspect)

    def add_bar(self, figure: Figure, shown: Any, axes: Any, *, noun: str) -> None:
        """Add the colour bar, in units of the threshold; for ``noun`` see :meth:`describe`."""
        bar = figure.colorbar(shown, ax=axes, shrink=0.6, pad=0.01)
        ticks = [self.top * i / 4 for i in range(5)]
        bar.set_ticks(ticks, labels=[f"{tick / self.unit:.2g}" for tick in ticks])
        bar.set_label(f"anomaly score, {self.describe(noun)}", color="white", fontsize=8)
        bar.ax.tick_params(colors="white", labelsize=8)

    @property
    def legend(self) -> str:
        """The caption's words about the threshold's line, if it is drawn."""
        return "white line: calibrated threshold — " if self.threshold else ""


def dark_figure(size_inches: tuple[float, float]) -> Figure:
    """A black figure at 110 pixels per inch."""
    figure = Figure(figsize=size_inches, dpi=110, facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def outline(ax: Any, plane: NDArray[Any], level: float, *, colour: str, width: float) -> None:
    """Draw the border of values of at least ``level``, unless the plane is thinner than 2."""
    if min(plane.shape) >= 2 and plane.max() >= level > plane.min():
        ax.contour(plane, [level], colors=colour, linewidths=width)


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG file, atomically. Raises OutputError."""
    with atomic_path(path) as temporary:
        # Without matplotlib's date and version in it, the same map gives the same file.
        figure.savefig(temporary, format="png", metadata={"Software": None})
