"""What ``medrd evaluate`` leaves beside ``metrics.json``, for those who read it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medrd.files import atomic_path
from medrd.metrics import Units

CASES_NAME = "cases"
"""Folder of the predictions of a few test subjects, to look at."""

FROC_NAME = "froc.json"
"""Lesions found and false positives at multiples of the calibrated threshold."""


def save_units(path: Path, units: Units) -> None:
    """Write a category's units, atomically; plain arrays without pickles."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        arrays: dict[str, Any] = units.to_arrays()
        np.savez_compressed(file, **arrays)


def load_units(path: Path) -> Units:
    """The inverse of :func:`save_units`."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return Units.from_arrays(dict(arrays))
