"""Slices with their neighbours and places: which slice is which, and that no lesion slips in."""

from __future__ import annotations

import numpy as np
import pytest

from medrd.config import ChannelLayout
from medrd.data.brains.stacks import also_shown, neighbour_indices, stacked


def test_neighbours_are_the_nearest_slices_in_mm_and_the_last_at_the_ends() -> None:
    evenly = np.arange(5) * 1.5
    assert neighbour_indices(evenly, (0.0, -3.0, 3.0)).tolist() == [
        [0, 0, 2],
        [1, 0, 3],
        [2, 0, 4],
        [3, 1, 4],
        [4, 2, 4],
    ]
    gap = np.array([0.0, 1.0, 2.0, 6.0, 7.0])
    assert neighbour_indices(gap, (-2.0, 2.0)).tolist()[3] == [3, 4]
    # Halfway to the next: itself, on both sides.
    assert neighbour_indices(np.arange(4) * 4.0, (-2.0, 2.0)).tolist()[1] == [1, 1]


def test_channels_are_the_slice_its_neighbours_and_places() -> None:
    images = np.random.default_rng(0).random((4, 2, 6, 8), np.float32)
    layout = ChannelLayout(("flair", "t1"), (0.0, -1.0, 1.0), place=True)
    stack = stacked(images, np.arange(4.0) + 3, layout)
    assert stack.shape == (4, layout.channels, 6, 8)
    assert stack.dtype == np.float32
    np.testing.assert_array_equal(stack[2, :2], images[2])
    np.testing.assert_array_equal(stack[2, 2:4], images[1])
    np.testing.assert_array_equal(stack[2, 4:6], images[3])
    rows, aside, up = stack[1, 6:]
    assert rows[:, 3].tolist() == pytest.approx(np.linspace(0, 1, 6).tolist())
    assert aside[2].tolist() == pytest.approx(aside[2, ::-1].tolist())
    assert aside[2, 0] == 1
    assert np.unique(up).tolist() == pytest.approx([1 / 3])
    assert stacked(images, np.arange(4.0), ChannelLayout(("flair", "t1"))) is images


def test_a_slice_that_is_shown_with_a_lesion_beside_it_is_touched() -> None:
    numbers, lesion_slices = np.arange(10, 20), np.array([14, 30])
    layout = ChannelLayout(("flair",), (0.0, -2.0, 2.0))
    found = also_shown(lesion_slices, numbers, numbers * 1.0, layout)
    assert found.tolist() == [12, 14, 16, 30]
    assert also_shown(
        lesion_slices, numbers, numbers * 1.0, ChannelLayout(("flair",))
    ).tolist() == [
        14,
        30,
    ]
