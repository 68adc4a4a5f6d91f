"""What brain scans and pictures have in common: the way from a file to slices and back.

The workflows know this interface alone. :mod:`medrd.data.brains.kind` and
:mod:`medrd.data.pictures.kind` implement it; :mod:`medrd.data.domains` picks one by the recipe.
A picture is a stack of one slice on its own grid (H, W), a scan one of many on (X, Y, Z).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medrd.config import AnyRecipeConfig, Config
from medrd.data.layouts import Subject
from medrd.data.split import Split
from medrd.data.traits import ScanTraits

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
        """(S, H, W) bool: where there is something to judge."""
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
        """What was odd but could be gone on with."""
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
    anomalous
        (S,) bool: the label of each image.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    prepared: Prepared
    truth: NDArray[np.bool_] | None
    judged: NDArray[np.bool_]
    anomalous: NDArray[np.bool_]
    content: str


class Domain(Protocol):
    """A kind of data.

    Attributes
    ----------
    spares_damaged
        Whether training goes on without inputs that cannot be read.
    """

    spares_damaged: bool

    def find(self, config: Config) -> list[Subject]:
        """All subjects below ``data.root``; only names are looked at."""
        ...

    def split(self, subjects: Sequence[Subject], config: Config) -> Split:
        """Which side each subject is on: a function of ids, config and seed."""
        ...

    def check_normal(self, subjects: Sequence[Subject], config: Config) -> None:
        """Refuse subjects of which it cannot be said what is normal."""
        ...

    def training_item(
        self, subject: Subject, recipe: AnyRecipeConfig, *, budget: int
    ) -> TrainingItem:
        """Read and prepare a subject to train or calibrate on."""
        ...

    def test_item(self, subject: Subject, recipe: AnyRecipeConfig, *, budget: int) -> TestItem:
        """Read and prepare a subject to test on, with its truth."""
        ...

    def baseline_recipe(self, recipe: AnyRecipeConfig) -> AnyRecipeConfig:
        """What the untrained intensity baseline is shown."""
        ...

    def protocol(self, recipe: AnyRecipeConfig) -> dict[str, str]:
        """What the numbers are taken on, in words: ``region``, ``region_note``, ``image``."""
        ...
