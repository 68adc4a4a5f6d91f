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
from medrd.data.cases import Case, Found
from medrd.data.output_names import OutputFiles
from medrd.data.split import Split
from medrd.data.subject import Subject
from medrd.data.traits import ScanTraits
from medrd.images.picture import Picture
from medrd.images.volume import Volume

CODE_VERSION = 5
"""Increase it when the same file and recipe give other slices: cached slices become stale, and
predict repeats finished scans."""


class Prepared(Protocol):
    """The slices of a scan, or the one of a picture, and the mapping back to its own grid."""

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
        """(S,) position of each slice along the stack, in mm."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Unusual properties of the input."""
        ...

    @property
    def traits(self) -> ScanTraits | None:
        """A summary of the scan's appearance; None for a picture."""
        ...

    def to_grid(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Resample maps (S, H, W) to the input's own grid, with 0 where there is no score."""
        ...

    def scored(self) -> NDArray[np.bool_]:
        """The mask, on the input's grid, of pixels that a map covers."""
        ...

    def upright(self, array: NDArray[Any]) -> NDArray[Any]:
        """Reorient an array on the input's grid to a stack of images, without resampling."""
        ...


@dataclass(frozen=True, eq=False)
class TrainingItem:
    """A subject to train or calibrate on.

    Attributes
    ----------
    lesion_slices
        (L,) positions in the whole stack that hold an anomaly at original resolution, or are
        shown with a neighbour that does.
    content
        Hash of the voxels or pixels themselves, however they are stored.
    """

    prepared: Prepared
    lesion_slices: NDArray[np.int64]
    content: str
    fine: bool = False
    """True if the images have steps that float16 would lose."""


@dataclass(frozen=True, eq=False)
class TestItem:
    """A subject to test on.

    Attributes
    ----------
    truth
        Mask of anomalies, on the input's grid at original resolution; None if anomalies are not
        outlined.
    evaluated
        Mask, on the input's grid, of the evaluated pixels; those without a score count as missed.
    scored
        Mask, on the input's grid, of pixels that a map covers.
    anomalous
        (S,) bool: the label of each image.
    label_warnings
        A sentence for each oddity of the label or the masks.
    """

    __test__ = False  # not a test case, despite its name

    prepared: Prepared
    truth: NDArray[np.bool_] | None
    evaluated: NDArray[np.bool_]
    scored: NDArray[np.bool_]
    anomalous: NDArray[np.bool_]
    content: str
    label_warnings: tuple[str, ...] = ()


class Opened(Protocol):
    """A scan or picture after reading, which can write results on its own grid."""

    @property
    def prepared(self) -> Prepared:
        """The input of the network."""
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
        """Score, findings and sizes, keyed as in :class:`medrd.run.record.PredictionRecord`."""
        ...


class Kind(Protocol):
    """A kind of input: brain scans or pictures.

    Attributes
    ----------
    volumetric
        True for scans, which have positions in mm and modalities. They are compared with a model's
        training scans, and may have been prepared from raw scans.
    spares_damaged
        True if training continues without inputs that cannot be read.
    files
        Words for an input, and names of its outputs.
    normal
        The word for inputs without an anomaly: ``healthy`` or ``normal``.
    notice
        The notice in every record.
    """

    volumetric: bool
    spares_damaged: bool
    files: OutputFiles
    normal: str
    notice: str

    @property
    def recipe(self) -> AnyRecipeConfig:
        """The recipe for converting an input to slices."""
        ...

    # --- Data sets ---

    def subjects(self, config: Config) -> list[Subject]:
        """All subjects below ``data.root``; no file is opened."""
        ...

    def split(self, subjects: Sequence[Subject], config: Config) -> Split:
        """Divide subjects into sides, depending only on ids, config and seed."""
        ...

    def check_normal(self, subjects: Sequence[Subject], config: Config) -> None:
        """Refuse subjects whose normal parts are unknown."""
        ...

    def training_item(self, subject: Subject, *, budget: int) -> TrainingItem:
        """Read and prepare a subject to train or calibrate on."""
        ...

    def test_item(self, subject: Subject, *, budget: int) -> TestItem:
        """Read and prepare a subject for testing, with its label."""
        ...

    def baseline_recipe(self) -> AnyRecipeConfig:
        """The recipe of the untrained intensity baseline."""
        ...

    def protocol(self) -> dict[str, str]:
        """Descriptions for the protocol: ``region``, ``region_note``, ``image``."""
        ...

    # --- Files to predict ---

    def find(self, inputs: Sequence[Path], *, frame: int | None, series: str | None) -> Found:
        """The cases below the given paths, errors of unusable ones, and what is left out."""
        ...

    def read(self, case: Case, *, budget: int) -> Opened:
        """Read a case; inputs with more voxels or pixels than ``budget`` are refused unread."""
        ...

    def prepare_slices(self, given: Volume | Mapping[str, Volume] | Picture) -> Prepared:
        """Prepare an input in memory. Raises ModelError if it is of the other kind."""
        ...

    def is_own_map(self, path: Path) -> bool:
        """True if the file exists and is a map that medrd wrote."""
        ...
