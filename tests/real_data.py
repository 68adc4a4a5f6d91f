"""Real scans and pictures, which the repository does not hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


def real_data(name: str) -> Path:
    """A file or folder below ``MEDRD_TEST_DATA``; the test is skipped where it is missing.

    By default that is the folder ``shared/data`` beside the repository.
    """
    root = Path(os.environ.get("MEDRD_TEST_DATA") or _BESIDE)
    if not (root / name).exists():
        pytest.skip(f"{root} has no {name}: set MEDRD_TEST_DATA to a folder that has")
    return root / name
