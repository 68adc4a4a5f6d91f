"""The kinds of input, brain scans and pictures, behind one interface: files to slices and back.

:mod:`medrd.data.brains.kind` and :mod:`medrd.data.pictures.kind` implement :class:`Kind`, and
:mod:`medrd.data.kinds` picks one by the recipe. A picture is a stack of one slice on its own grid
(H, W), a scan a stack of many on (X, Y, Z).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medrd.config import AnyRecipeConfig, Config
from medrd.data.cases import Case
from medrd.data.layouts import Subject
from medrd.data.output_names import OutputFiles
from medrd.data.split import Split
from medrd.data.traits import ScanTraits
from medrd.errors import InputError
from medrd.images.picture import Picture
from medrd.images.volume import Volume

CODE_VERSION = 5
"""Raise when the same file and recipe would give other slices: cached ones become stale,
and predict does finished scans again."""


class Prepared(Protocol):
    """The slices of a scan, or the one of a picture, and the way back to its own grid."""

    @property
    def images(self) -> NDArray[np.float32]:
        """(S, C, H, W) float32 in [0, 1]."""
        ...

    @property
    def region(self) -> NDArray[np.bool_]:
        """(S, H, W) bool: the part of each image that is scored."""
        ...

    @property
    def numbers(self) -> NDArray[np.int64]:
        """(S,) position of each slice in the whole stack."""
        ...

    @property
    def positions_mm(self) -> NDArray[np.float64]:
        """(S,) place of each slice along the stack."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is unusual about the input."""
        ...

    @property
    def traits(self) -> ScanTraits | None:
        """What a scan looks like; None for a picture."""
        ...

    def to_grid(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Maps (S, H, W) on the input's own grid, 0 where there is no score."""
        ...

    def scored(self) -> NDArray[np.bool_]:
        """On the input's grid: where a map has values."""
        ...

    def upright(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array on the input's grid as a stack of images, values untouched."""
        ...


@dataclass(frozen=True, eq=False)
class TrainingItem:
    """A subject to train or calibrate on.

    Attributes
    ----------
    touched
        (L,) positions in the whole stack that hold an anomaly at original resolution, or are
        shown with a neighbour that does.
    content
        Hash of the voxels or pixels themselves, however they are stored.
    """

    prepared: Prepared
    touched: NDArray[np.int64]
    content: str
    fine: bool = False
    """Whether the images have steps that float16 would lose."""


@dataclass(frozen=True, eq=False)
class TestItem:
    """A subject to test on.

    Attributes
    ----------
    truth
        Anomalous or not, on the input's grid at original resolution; None where nobody has
        outlined what is anomalous.
    judged
        On the input's grid: the pixels that count. Those that have no score are not found.
    scored
        On the input's grid: where a map has values.
    anomalous
        (S,) bool: the label of each image.
    label_warnings
        A sentence for each oddity of the label or the masks.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    prepared: Prepared
    truth: NDArray[np.bool_] | None
    judged: NDArray[np.bool_]
    scored: NDArray[np.bool_]
    anomalous: NDArray[np.bool_]
    content: str
    label_warnings: tuple[str, ...] = ()


class Opened(Protocol):
    """A scan or picture that has been read, and how its results are written on its own grid."""

    @property
    def prepared(self) -> Prepared:
        """What the network is shown."""
        ...

    def write_map(
        self, path: Path, scores: NDArray[np.float32], *, description: str, threshold: float | None
    ) -> None:
        """Write the anomaly map as float32, atomically."""
        ...

    def write_mask(self, path: Path, mask: NDArray[np.bool_]) -> None:
        """Write the mask at the calibrated threshold."""
        ...

    def write_overlay(
        self, path: Path, scores: NDArray[np.float32], *, threshold: float | None, title: str
    ) -> None:
        """Draw the map over the image."""
        ...

    def describe(
        self,
        scores: NDArray[np.float32],
        mask: NDArray[np.bool_] | None,
        image_scores: NDArray[np.float32],
    ) -> dict[str, Any]:
        """Score, findings and sizes, by the keys of :class:`medrd.run.record.PredictionRecord`."""
        ...


class Kind(Protocol):
    """A kind of input: brain scans or pictures.

    Attributes
    ----------
    volumetric
        Whether inputs are scans, with a world in mm and a modality. Those are compared with a
        model's training scans, and may have a raw scan that they were prepared from.
    spares_damaged
        Whether training continues without inputs that cannot be read.
    files
        What an input and its outputs are called.
    normal
        What inputs without an anomaly are called: ``healthy`` or ``normal``.
    notice
        The last words of every record.
    """

    volumetric: bool
    spares_damaged: bool
    files: OutputFiles
    normal: str
    notice: str

    @property
    def recipe(self) -> AnyRecipeConfig:
        """How an input becomes slices."""
        ...

    # --- Data sets ---

    def subjects(self, config: Config) -> list[Subject]:
        """All subjects below ``data.root``; only names are looked at."""
        ...

    def split(self, subjects: Sequence[Subject], config: Config) -> Split:
        """Which side each subject is on: a function of ids, config and seed."""
        ...

    def check_normal(self, subjects: Sequence[Subject], config: Config) -> None:
        """Refuse subjects whose normal parts are unknown."""
        ...

    def training_item(self, subject: Subject, *, budget: int) -> TrainingItem:
        """Read and prepare a subject to train or calibrate on."""
        ...

    def test_item(self, subject: Subject, *, budget: int) -> TestItem:
        """Read and prepare a subject to test on, with its truth."""
        ...

    def baseline_recipe(self) -> AnyRecipeConfig:
        """The recipe of the untrained intensity baseline."""
        ...

    def protocol(self) -> dict[str, str]:
        """What the numbers are taken on, in words: ``region``, ``region_note``, ``image``."""
        ...

    # --- Files to predict ---

    def find(
        self, inputs: Sequence[Path], *, frame: int | None, series: str | None
    ) -> tuple[list[Case], list[InputError]]:
        """The cases below the given paths, and what cannot be used."""
        ...

    def read(self, case: Case, *, budget: int) -> Opened:
        """Read a case; more voxels or pixels than the budget are refused unread."""
        ...

    def prepare(self, given: Volume | Mapping[str, Volume] | Picture) -> Prepared:
        """Prepare an input in memory. Raises ModelError if it is of the other kind."""
        ...

    def is_own_map(self, path: Path) -> bool:
        """Whether a file is there and is a map that medrd wrote."""
        ...
