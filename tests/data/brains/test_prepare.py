"""Preparing a subject's volumes as normalised slices, compared with formulas written out here."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage, stats
from scipy.spatial.transform import Rotation

from medrd.config import RecipeConfig
from medrd.data.brains.geometry import SliceGeometry
from medrd.data.brains.lesions import read_lesions
from medrd.data.brains.prepare import (
    brain_mask,
    lesion_positions,
    normalise,
    prepare_slices,
    read_channels,
)
from medrd.data.margin import away_from
from medrd.data.subject import Source, Subject
from medrd.errors import AffineError, EmptyBrainError, GridMismatchError, TooLargeError
from medrd.images.volume import Volume, volume_from_array

MAX_VOXELS = 10**6
MakeBrain = Callable[..., Volume]


def recipe(**changes: Any) -> RecipeConfig:
    """Slices of the small brain: 2 mm voxels, 64 mm of them in 32 pixels, so native."""
    return RecipeConfig(**{"size": 32, "field_mm": 64.0, "min_brain_mm2": 400.0} | changes)


# --- normalisation ---------------------------------------------------------------------


def test_percentiles_become_0_and_1_and_the_rest_is_clipped(make_brain: MakeBrain) -> None:
    array = make_brain().array
    brain = array != 0
    low, high = np.quantile(array[brain].astype(np.float64), [0.05, 0.9])

    result = normalise(array, brain, recipe(percentiles=(5, 90)))

    expected = np.minimum(np.maximum((array.astype(np.float64) - low) / (high - low), 0), 1)
    np.testing.assert_allclose(result[brain], expected[brain], atol=1e-6)
    assert (result[~brain] == 0).all()
    assert (result.dtype, result.shape) == (np.float32, array.shape)


def test_ranks_are_those_of_scipy_ties_included() -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(1, 12, (6, 7, 5)).astype(np.float32)  # many ties
    brain = rng.random(array.shape) < 0.7

    result = normalise(array, brain, recipe(normalise="rank"))

    expected = stats.rankdata(array[brain]) / np.count_nonzero(brain)
    np.testing.assert_allclose(result[brain], expected, atol=1e-6)
    assert (result[~brain] == 0).all()


def test_the_median_becomes_0_4_whatever_the_scale_and_a_large_lesion_hardly_moves_it(
    make_brain: MakeBrain,
) -> None:
    array = make_brain().array
    brain = array != 0
    result = normalise(array, brain, recipe(normalise="median"))
    expected = np.minimum(0.4 * array / np.median(array[brain]), 1)
    np.testing.assert_allclose(result, np.where(brain, expected, 0), atol=1e-6)
    np.testing.assert_allclose(
        normalise(1000 * array, brain, recipe(normalise="median")), result, atol=1e-6
    )
    sick = array.copy()
    sick[tuple(np.argwhere(brain)[: int(0.1 * brain.sum())].T)] *= 4
    healthy = sick == array
    moved = {
        how: float(
            np.abs(
                normalise(sick, brain, recipe(normalise=how))
                - normalise(array, brain, recipe(normalise=how))
            )[brain & healthy].mean()
        )
        for how in ("median", "percentile")
    }
    assert moved["median"] < 0.3 * moved["percentile"]


def test_a_median_that_is_not_positive_is_an_error_that_says_what_to_do(
    make_brain: MakeBrain,
) -> None:
    volume = make_brain()
    shifted = np.where(volume.array != 0, volume.array - 2 * volume.array.max(), 0)
    negative = volume_from_array(shifted.astype(np.float32), volume.affine)
    said = r"median of -.* \(from .*another program.*normalise=percentile"
    with pytest.raises(EmptyBrainError, match=said):
        prepare_slices({"flair": negative}, recipe(normalise="median"))


@pytest.mark.parametrize("how", ["percentile", "rank"])
def test_normalisation_knows_no_unit(make_brain: MakeBrain, how: str) -> None:
    array = make_brain().array
    brain = array != 0
    shifted = np.where(brain, 40 * array - 7000, 0).astype(np.float32)  # Hounsfield-like
    assert (shifted[brain] < 0).any()
    np.testing.assert_allclose(
        normalise(shifted, brain, recipe(normalise=how)),
        normalise(array, brain, recipe(normalise=how)),
        atol=2e-4,
    )


@pytest.mark.parametrize("how", ["percentile", "rank", "median"])
def test_one_voxel_at_the_top_of_int16_does_not_set_the_scale(
    make_brain: MakeBrain, how: str
) -> None:
    array = make_brain().array
    brain = array != 0
    spoilt = array.copy()
    spoilt[tuple(np.argwhere(brain)[100])] = 32767

    change = np.abs(
        normalise(spoilt, brain, recipe(normalise=how))
        - normalise(array, brain, recipe(normalise=how))
    )

    assert np.sort(change[brain])[-2] < 0.01


# --- the brain -------------------------------------------------------------------------


def test_the_brain_is_any_modalitys_nonzero_with_holes_filled() -> None:
    first = np.zeros((9, 9, 9), np.float32)
    first[2:7, 2:7, 2:7] = -5
    first[4, 4, 4] = 0  # a hole: cerebrospinal fluid that a subtraction took to 0
    second = np.zeros((9, 9, 9), np.float32)
    second[1, 4, 4] = 3
    volumes = {name: volume_from_array(a, np.eye(4)) for name, a in (("a", first), ("b", second))}

    brain = brain_mask(volumes)

    expected = (first != 0) | (second != 0)
    expected[4, 4, 4] = True
    np.testing.assert_array_equal(brain, expected)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_an_image_without_contrast_is_an_error(make_brain: MakeBrain, value: float) -> None:
    volume = make_brain()
    flat = volume_from_array(np.where(volume.array != 0, value, 0), volume.affine)
    with pytest.raises(EmptyBrainError):
        prepare_slices({"flair": flat}, recipe())
    with pytest.raises(EmptyBrainError, match="same value" if value else "brain"):
        prepare_slices({"flair": flat}, recipe(normalise="rank"))


def test_a_flat_second_channel_is_named(make_brain: MakeBrain) -> None:
    volume = make_brain()
    flat = volume_from_array((volume.array != 0).astype(np.float32), volume.affine)
    channels = recipe(channels=("flair", "t1", "t2"))
    with pytest.raises(EmptyBrainError, match="t1"):
        prepare_slices({"flair": volume, "t1": flat, "t2": volume}, channels)


def test_a_brain_too_small_says_how_large_it_is(make_brain: MakeBrain) -> None:
    volume = make_brain()
    largest = 4 * np.count_nonzero(volume.array, axis=(0, 1)).max()
    with pytest.raises(EmptyBrainError, match=f"found {largest} mm²"):
        prepare_slices({"flair": volume}, recipe(min_brain_mm2=1e6))


def test_a_scan_with_its_skull_is_warned_of(make_brain: MakeBrain) -> None:
    volume = make_brain()
    noisy = volume_from_array(np.where(volume.array == 0, 0.5, volume.array), volume.affine)
    assert not prepare_slices({"flair": volume}, recipe()).warnings
    assert "skull-stripped" in "".join(prepare_slices({"flair": noisy}, recipe()).warnings)


@pytest.mark.parametrize("side_mm", [0.001, 1000.0])
def test_voxels_that_no_scanner_makes_are_refused(side_mm: float) -> None:
    # Metres or micrometres taken for mm: the field would be thousands of pixels wide.
    brain = np.ones((8, 8, 8), np.float32)
    volume = volume_from_array(brain, np.diag([side_mm, side_mm, side_mm, 1.0]))
    with pytest.raises(AffineError, match="voxels of"):
        prepare_slices({"flair": volume}, recipe())


def test_a_field_that_would_not_fit_in_memory_is_refused_before_it_is_filled() -> None:
    """A small file: 0.1 mm voxels make 2400 x 2400 x 160 of a field of 240 mm."""
    volume = volume_from_array(np.ones((16, 16, 160)), np.diag([0.1, 0.1, 0.1, 1.0]))
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError, match="160 slices of 2400 x 2400"):
            prepare_slices({"flair": volume}, recipe(field_mm=240.0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50e6


def test_brain_outside_the_field_is_warned_of(make_brain: MakeBrain) -> None:
    small = recipe(field_mm=20.0, min_brain_mm2=100.0)
    assert "outside the field" in "".join(prepare_slices({"flair": make_brain()}, small).warnings)


# --- slices ----------------------------------------------------------------------------

DEPTH_AXIS = {"axial": 2, "coronal": 1, "sagittal": 0}  # of a volume that runs along RAS


@pytest.mark.parametrize("axis", DEPTH_AXIS)
@pytest.mark.parametrize("spacing_mm", [(2.0, 2.0, 2.0), (1.0, 2.0, 4.0), (3.0, 1.5, 1.0)])
def test_slices_are_chosen_by_area_in_mm2(
    make_brain: MakeBrain, axis: str, spacing_mm: tuple[float, float, float]
) -> None:
    volume = make_brain(np.diag([*spacing_mm, 1.0]))
    depth = DEPTH_AXIS[axis]
    in_plane = tuple(d for d in range(3) if d != depth)
    area = np.prod([spacing_mm[d] for d in in_plane])
    areas = np.count_nonzero(volume.array, axis=in_plane) * area
    limit = float(np.median(areas[areas > 0])) + 0.1

    prepared = prepare_slices(
        {"flair": volume}, recipe(axis=axis, size=128, field_mm=128.0, min_brain_mm2=limit)
    )

    # Measured in resampled pixels, so a slice on the brink may fall on either side.
    assert prepared.depth == volume.shape[depth]
    assert np.isin(np.flatnonzero(areas > 1.03 * limit), prepared.numbers).all()
    assert (areas[prepared.numbers] > 0.97 * limit).all()
    assert prepared.images.shape == (prepared.numbers.size, 1, 128, 128)
    assert prepared.region.shape == (prepared.numbers.size, 128, 128)


def test_slices_hold_the_normalised_volume_channel_by_channel(make_brain: MakeBrain) -> None:
    volumes = {name: make_brain(seed=seed) for seed, name in enumerate(("t2", "flair", "t1"))}
    channels = recipe(channels=tuple(volumes))

    prepared = prepare_slices(volumes, channels)

    assert prepared.images.dtype == np.float32
    assert prepared.images.shape[1:] == (3, 32, 32)
    for channel, volume in enumerate(volumes.values()):
        expected = normalise(volume.array, prepared.brain_volume, channels)
        back = prepared.to_grid(prepared.images[:, channel])
        scored = prepared.scored()
        np.testing.assert_allclose(back[scored], expected[scored], atol=1e-6)
        assert (back[~scored] == 0).all()


@pytest.mark.parametrize("axis", DEPTH_AXIS)
def test_an_oblique_permuted_scan_gives_the_same_slices(make_brain: MakeBrain, axis: str) -> None:
    volume = make_brain()
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("zyx", [8, -6, 5], degrees=True).as_matrix()
    straight = volume_from_array(volume.array, turn @ volume.affine)
    # The same voxels stored the other way about: axes permuted and two of them reversed.
    stored = np.ascontiguousarray(volume.array.transpose(2, 0, 1)[::-1, :, ::-1])
    to_straight = np.zeros((4, 4))
    to_straight[[2, 0, 1, 3], [0, 1, 2, 3]] = (-1, 1, -1, 1)
    to_straight[2, 3], to_straight[1, 3] = stored.shape[0] - 1, stored.shape[2] - 1
    permuted = volume_from_array(stored, straight.affine @ to_straight)

    first = prepare_slices({"flair": straight}, recipe(axis=axis, size=48))
    second = prepare_slices({"flair": permuted}, recipe(axis=axis, size=48))

    np.testing.assert_array_equal(first.numbers, second.numbers)
    np.testing.assert_allclose(first.images, second.images, atol=1e-5)
    np.testing.assert_array_equal(first.region, second.region)
    maps = np.random.default_rng(0).random(first.region.shape).astype(np.float32)
    np.testing.assert_allclose(
        second.to_grid(maps),
        first.to_grid(maps).transpose(2, 0, 1)[::-1, :, ::-1],
        atol=1e-5,
    )


@pytest.mark.parametrize("size", [32, 50])
def test_maps_are_zero_outside_the_brain_and_in_slices_left_out(
    make_brain: MakeBrain, size: int
) -> None:
    volume = make_brain()
    prepared = prepare_slices({"flair": volume}, recipe(size=size))
    assert 0 < prepared.numbers.size < np.count_nonzero(volume.array.any(axis=(0, 1)))

    back = prepared.to_grid(np.ones(prepared.region.shape, np.float32))
    assert back.flags.f_contiguous, "the order of NIfTI files"
    assert prepared.scored().flags.f_contiguous

    left_out = np.ones(prepared.depth, bool)
    left_out[prepared.numbers] = False
    brain = ndimage.binary_fill_holes(volume.array != 0)
    expected = brain & ~left_out
    np.testing.assert_array_equal(prepared.scored(), expected)
    np.testing.assert_allclose(back, expected, atol=1e-5)


# --- lesions ---------------------------------------------------------------------------


@pytest.mark.parametrize("axis", DEPTH_AXIS)
def test_a_lesion_of_one_voxel_marks_its_slice_even_outside_the_field(
    make_brain: MakeBrain, axis: str
) -> None:
    volume = make_brain()
    at = (0, 3, 5)
    lesions = np.zeros(volume.shape, bool)
    lesions[at] = True
    # 17 pixels for 64 mm: a single voxel would be lost in a resized mask.
    geometry = SliceGeometry.around(
        volume.array != 0, volume.affine, axis=axis, field_mm=32.0, size=17
    )
    np.testing.assert_array_equal(lesion_positions(lesions, geometry), [at[DEPTH_AXIS[axis]]])


def test_the_margin_counts_slices_that_were_too_small_to_be_prepared() -> None:
    numbers = np.array([4, 5, 6, 9, 12])  # 7 and 8 hold too little brain; the lesion is in 7
    lesion = np.array([7])
    kept = {
        margin: numbers[away_from(numbers, lesion, margin=margin)].tolist() for margin in (0, 1, 2)
    }
    assert kept == {0: [4, 5, 6, 9, 12], 1: [4, 5, 9, 12], 2: [4, 12]}
    assert away_from(numbers, np.array([5]), margin=0).tolist() == [True, False, True, True, True]
    assert away_from(numbers, np.zeros(0, np.int64), margin=3).all()


def test_any_nonzero_label_is_a_lesion_and_frames_are_chosen(
    make_brain: MakeBrain, tmp_path: Path
) -> None:
    volume = make_brain()
    two = np.stack([volume.array, 2 * volume.array], axis=-1)
    labels = np.zeros(volume.shape, np.uint8)
    labels[3, 4, 5], labels[6, 7, 8] = 4, 1
    for name, array in (("scan", two), ("label", labels)):
        nib.save(nib.Nifti1Image(array, volume.affine), tmp_path / f"{name}.nii.gz")
    frames = {
        "t1": Source(tmp_path / "scan.nii.gz", 1),
        "flair": Source(tmp_path / "scan.nii.gz", 0),
    }

    read = read_channels(Subject("s", frames), recipe(channels=("flair",)), max_voxels=MAX_VOXELS)
    labelled = Subject("s", frames, Source(tmp_path / "label.nii.gz"))
    lesions = read_lesions(labelled, read["flair"], max_voxels=MAX_VOXELS).mask

    assert list(read) == ["flair"]
    np.testing.assert_array_equal(read["flair"].array, volume.array)
    assert np.argwhere(lesions).tolist() == [[3, 4, 5], [6, 7, 8]]


def test_modalities_on_different_grids_are_an_error(make_brain: MakeBrain, tmp_path: Path) -> None:
    volume = make_brain()
    moved: NDArray[np.float64] = volume.affine.copy()
    moved[0, 3] += 1
    sources = {}
    for name, affine in (("flair", volume.affine), ("t1", moved), ("t2", volume.affine)):
        nib.save(nib.Nifti1Image(volume.array, affine), tmp_path / f"{name}.nii")
        sources[name] = Source(tmp_path / f"{name}.nii")
    with pytest.raises(GridMismatchError, match=r"t1\.nii"):
        read_channels(
            Subject("s", sources), recipe(channels=("flair", "t1", "t2")), max_voxels=MAX_VOXELS
        )
