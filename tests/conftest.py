"""Fixtures that more than one test module uses."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def brats_root() -> Path:
    """Folder of real BraTS 2018 subjects, which the repository does not hold."""
    root = Path(__file__).resolve().parents[2] / "shared" / "data" / "brats2018"
    if not root.is_dir():
        pytest.skip("no real BraTS subjects in ../shared/data/brats2018 beside the repository")
    return root
