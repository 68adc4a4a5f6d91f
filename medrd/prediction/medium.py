"""What ``medrd predict`` asks of scans and of pictures, and which of the two a model takes.

:mod:`medrd.prediction.scans` and :mod:`medrd.prediction.pictures` implement it;
:func:`medium_of` picks one by the model's recipe. It is to files what
:class:`medrd.data.domain.Domain` is to data sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medrd.config import AnyRecipeConfig
from medrd.data.domain import Prepared
from medrd.errors import InputError
from medrd.images.picture import Picture
from medrd.images.volume import Volume
from medrd.run.calibration import Calibration
from medrd.run.cases import Case
from medrd.run.outputs import OutputFiles
from medrd.run.predictor import Prediction


class Opened(Protocol):
    """An input that has been read, and how its results are written on its own grid."""

    @property
    def prepared(self) -> Prepared:
        """What the network is shown."""
        ...

    def write_map(
        self, path: Path, scores: NDArray[np.float32], *, description: str, threshold: float | None
    ) -> None:
        """The anomaly map as float32, whole or not at all."""
        ...

    def write_mask(self, path: Path, mask: NDArray[np.bool_]) -> None:
        """The mask at the calibrated threshold."""
        ...

    def write_overlay(
        self, path: Path, scores: NDArray[np.float32], *, threshold: float | None, title: str
    ) -> None:
        """The map over the image, for people to look at."""
        ...

    def describe(
        self,
        prediction: Prediction,
        calibration: Calibration | None,
    ) -> dict[str, Any]:
        """What the record says of scores and findings, in the medium's own terms."""
        ...


class Medium(Protocol):
    """A kind of file.

    Attributes
    ----------
    files
        What it and its outputs are called.
    notice
        The last words of every record.
    """

    files: OutputFiles
    notice: str

    def find(
        self, inputs: Sequence[Path], *, frame: int | None, series: str | None
    ) -> tuple[list[Case], list[InputError]]:
        """The cases below what was given, and what cannot be used."""
        ...

    def read(self, case: Case, *, budget: int) -> Opened:
        """Read a case; more voxels or pixels than the budget are refused unread."""
        ...

    def prepare(self, given: Volume | Mapping[str, Volume] | Picture) -> Prepared:
        """What is in memory already. Raises ModelError if it is of the other kind."""
        ...

    def is_own_map(self, path: Path) -> bool:
        """Whether a file is there and is a map that medrd wrote."""
        ...


def medium_of(recipe: AnyRecipeConfig) -> Medium:
    """The kind of file that a model with this recipe takes."""
    if recipe.kind == "pictures":
        from medrd.prediction.pictures import PictureFiles

        return PictureFiles(recipe)
    from medrd.prediction.scans import ScanFiles

    return ScanFiles(recipe)
