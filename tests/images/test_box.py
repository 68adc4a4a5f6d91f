"""The holes of masks, against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medrd.images.box import fill_holes


@pytest.mark.parametrize("share", [0.0, 0.5, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("order", ["C", "F"])
def test_holes_are_those_of_scipy(share: float, order: str) -> None:
    """Random masks have tunnels that only corners connect, and voxels at every border."""
    rng = np.random.default_rng(0)
    for shape in ((9, 8, 7), (1, 8, 7), (20, 21)):
        mask = np.asarray(rng.random(shape) < share, order=order)
        assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))
