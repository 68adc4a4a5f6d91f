"""Lesion counts on hand-made cubes, and places in millimetres."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from medrd.metrics import LesionCounts, lesion_counts, lesion_table, summarise_lesions

Volume = NDArray[np.bool_]


def volume_with(*boxes: tuple[slice, slice, slice]) -> Volume:
    volume = np.zeros((20, 20, 20), dtype=np.bool_)
    for box in boxes:
        volume[box] = True
    return volume


def cube(x: int, y: int, z: int, side: int = 3) -> tuple[slice, slice, slice]:
    return slice(x, x + side), slice(y, y + side), slice(z, z + side)


NEAR, FAR, MIDDLE = cube(1, 1, 1), cube(15, 15, 15), cube(8, 8, 8)


def test_found_missed_and_false() -> None:
    found = lesion_counts(volume_with(NEAR, MIDDLE), volume_with(NEAR, FAR))
    assert found == LesionCounts(lesions=2, detected=1, false_positives=1, dice=2 * 27 / (54 + 54))


def test_one_shared_voxel_detects() -> None:
    found = lesion_counts(volume_with(cube(3, 3, 3)), volume_with(cube(1, 1, 1)))
    assert (found.detected, found.false_positives) == (1, 0)
    beside = lesion_counts(volume_with(cube(4, 3, 3)), volume_with(cube(1, 1, 1)))
    assert (beside.detected, beside.false_positives) == (0, 1)


def test_one_prediction_over_two_lesions_detects_both() -> None:
    bridge = (slice(1, 18), slice(1, 18), slice(1, 18))
    found = lesion_counts(volume_with(bridge), volume_with(NEAR, FAR))
    assert (found.lesions, found.detected, found.false_positives) == (2, 2, 0)


def test_small_components_are_left_aside_on_both_sides() -> None:
    speck = cube(8, 8, 8, side=2)  # 8 voxels
    label_speck = lesion_counts(volume_with(MIDDLE), volume_with(NEAR, speck))
    # The speck is no lesion to find, yet the prediction on it is not false either.
    assert (label_speck.lesions, label_speck.detected, label_speck.false_positives) == (1, 0, 0)
    predicted_speck = lesion_counts(volume_with(speck, cube(1, 1, 1, side=2)), volume_with(NEAR))
    assert (predicted_speck.detected, predicted_speck.false_positives) == (0, 0)
    assert predicted_speck.dice == 2 * 8 / (16 + 27)  # Dice is of the masks as they came


def test_the_limit_itself_counts() -> None:
    label = volume_with(NEAR)
    assert lesion_counts(label, label, min_voxels=27).detected == 1
    assert lesion_counts(label, label, min_voxels=28).lesions == 0


def test_voxels_touching_by_a_corner_are_one_lesion() -> None:
    corner = volume_with(cube(1, 1, 1), cube(4, 4, 4))
    assert lesion_counts(corner, corner).lesions == 1
    apart = volume_with(cube(1, 1, 1), cube(5, 4, 4))
    assert lesion_counts(apart, apart).lesions == 2


def test_healthy_scans() -> None:
    nothing = volume_with()
    assert lesion_counts(nothing, nothing) == LesionCounts(0, 0, 0, None)
    assert lesion_counts(volume_with(NEAR), nothing) == LesionCounts(0, 0, 1, None)
    assert lesion_counts(nothing, volume_with(NEAR)).dice == 0


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        (np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 2), np.bool_), "prediction must be bool"),
        (np.zeros((2, 2, 2), np.bool_), np.zeros((2, 2, 2), np.int16), "label must be bool"),
        (np.zeros((2, 2, 3), np.bool_), np.zeros((2, 2, 2), np.bool_), r"shape \(2, 2, 2\)"),
        (np.zeros((2, 2), np.bool_), np.zeros((2, 2), np.bool_), r"\(X, Y, Z\)"),
    ],
)
def test_masks_of_the_wrong_kind_are_refused(
    prediction: Volume, label: Volume, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lesion_counts(prediction, label)


def test_a_limit_that_would_count_the_background_is_refused() -> None:
    nothing = volume_with()
    with pytest.raises(ValueError, match="min_voxels must be at least 1"):
        lesion_counts(nothing, nothing, min_voxels=0)
    with pytest.raises(ValueError, match="min_voxels must be at least 1"):
        lesion_table(nothing.astype(np.float32), nothing, np.eye(4), min_voxels=0)


def test_summarise_pools_lesions_and_averages_scans() -> None:
    counts = [
        LesionCounts(3, 3, 1, 0.8),
        LesionCounts(1, 0, 0, 0.2),
        LesionCounts(0, 0, 4, None),  # healthy
        LesionCounts(0, 0, 0, 0.5),  # a label below the limit
    ]
    assert summarise_lesions(counts) == {
        "subject_dice": pytest.approx(0.5),
        "lesion_sensitivity": 0.75,
        "false_positives_per_scan": 1.25,
    }


def test_summarise_says_none_where_nothing_is_defined() -> None:
    healthy = summarise_lesions([LesionCounts(0, 0, 2, None)])
    assert healthy == {
        "subject_dice": None,
        "lesion_sensitivity": None,
        "false_positives_per_scan": 2,
    }
    assert set(summarise_lesions([]).values()) == {None}


def oblique_affine() -> NDArray[np.float64]:
    """Turned by 30 degrees about z, voxels of 0.5 x 1 x 2 mm, the first axis mirrored."""
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.diag([-0.5, 1, 2])
    affine[:3, 3] = [90, -126, -72]
    return affine


def test_a_row_gives_volume_peak_and_places_in_world_millimetres() -> None:
    mask = volume_with((slice(2, 6), slice(3, 6), slice(4, 6)))
    scores = np.full(mask.shape, 9, dtype=np.float32)  # outside the mask: must not be the peak
    scores[mask] = 1
    scores[5, 3, 4] = 2.5
    affine = oblique_affine()
    (row,) = lesion_table(scores, mask, affine)
    assert row["voxels"] == 24
    assert row["volume_mm3"] == pytest.approx(24)  # 0.5 * 1 * 2 mm3 a voxel
    assert row["peak_score"] == 2.5
    assert row["centroid_mm"] == pytest.approx((affine @ [3.5, 4, 4.5, 1])[:3])
    assert row["peak_mm"] == pytest.approx((affine @ [5, 3, 4, 1])[:3])
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    by_hand = [-1.75 * cos - 4 * sin + 90, -1.75 * sin + 4 * cos - 126, 9 - 72]
    assert row["centroid_mm"] == pytest.approx(by_hand)


def test_rows_come_by_volume_then_peak_then_place() -> None:
    mask = volume_with(NEAR, MIDDLE, FAR, cube(1, 15, 1, side=4), cube(15, 1, 1, side=2))
    scores = np.ones(mask.shape, dtype=np.float32)
    scores[16, 16, 16] = 5  # in FAR
    rows = lesion_table(scores, mask, np.eye(4))
    assert [row["centroid_mm"] for row in rows] == [
        [2.5, 16.5, 2.5],
        [16, 16, 16],
        [2, 2, 2],
        [9, 9, 9],
    ]
    # A peak reached by many voxels is the first of them.
    assert rows[2]["peak_mm"] == [1, 1, 1]
    assert json.loads(json.dumps(rows)) == rows


def test_no_lesion_no_rows() -> None:
    nothing = volume_with(cube(1, 1, 1, side=2))
    assert lesion_table(np.ones(nothing.shape, np.float32), nothing, np.eye(4)) == []


def test_what_the_table_refuses() -> None:
    mask = volume_with(NEAR)
    scores = np.ones(mask.shape, dtype=np.float32)
    with pytest.raises(ValueError, match=r"affine must be \(4, 4\)"):
        lesion_table(scores, mask, np.eye(3))
    with pytest.raises(ValueError, match="mask must be bool"):
        lesion_table(scores[1:], mask, np.eye(4))
    outside = scores.copy()
    outside[0, 0, 0] = np.nan
    assert len(lesion_table(outside, mask, np.eye(4))) == 1
    scores[2, 2, 2] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        lesion_table(scores, mask, np.eye(4))
