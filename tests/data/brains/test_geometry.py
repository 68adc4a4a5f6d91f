"""Slices and back: every voxel at its place in the world, whatever the file's orientation."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medrd.data.brains.geometry import Axis, SliceGeometry
from medrd.images.sitk import to_sitk
from medrd.images.volume import volume_from_array

AXES: tuple[Axis, ...] = ("axial", "coronal", "sagittal")
ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))
SPACING_MM = (0.75, 1.5, 2.25)


def signed_permutation(order: tuple[int, ...], signs: tuple[int, ...]) -> NDArray[np.float64]:
    """Affine whose voxel axis ``i`` runs along world axis ``order[i]``, odd origin and spacing."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for voxel_axis, (world_axis, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world_axis, voxel_axis] = sign * SPACING_MM[voxel_axis]
    affine[:3, 3] = (-11.5, 7.25, 3.0)
    return affine


def oblique(degrees: float = 20.0) -> NDArray[np.float64]:
    turned = signed_permutation((2, 0, 1), (1, -1, -1))
    turn = Rotation.from_euler("xyz", [degrees, -degrees / 2, degrees / 3], degrees=True)
    turned[:3, :3] = turn.as_matrix() @ turned[:3, :3]
    return turned


def native(
    shape: tuple[int, int, int], affine: NDArray[np.float64], axis: Axis
) -> tuple[SliceGeometry, tuple[int, ...]]:
    """A geometry that only turns, pads and crops, and the extent of the turned volume."""
    whole = SliceGeometry(shape, affine, axis, ((0, 1), (0, 1)), 1)
    extent = whole.oriented(np.zeros(shape, np.uint8)).shape
    side = max(extent) + 3  # beyond the volume on both sides
    return SliceGeometry(shape, affine, axis, ((-1, side - 1), (-2, side - 2)), side), extent


def world(affine: NDArray[np.float64], index: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, 3) indices to (N, 3) mm."""
    return index @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("axis", AXES)
def test_all_48_orientations_come_back_bit_for_bit_and_keep_each_voxels_place(axis: Axis) -> None:
    rng = np.random.default_rng(0)
    for order, signs in ORIENTATIONS:
        shape = (5, 8, 7)
        affine = signed_permutation(order, signs)
        geometry, extent = native(shape, affine, axis)
        array = rng.permutation(np.arange(1, np.prod(shape) + 1)).reshape(shape)
        array = array.astype(np.float32) + np.float32(0.1)

        stack = geometry.to_slices(array)

        assert stack.shape == (extent[0], geometry.size, geometry.size)
        np.testing.assert_array_equal(geometry.to_volume(stack), array)
        nearest = geometry.to_slices(array, nearest=True)
        np.testing.assert_array_equal(geometry.to_volume(nearest, nearest=True), array)
        # Each value is there once, so that it says which voxel a pixel shows.
        in_volume = np.argwhere(array)[np.argsort(array[array > 0])]
        in_stack = np.argwhere(stack)[np.argsort(stack[stack > 0])]
        np.testing.assert_allclose(
            world(geometry.slices_affine, in_stack), world(affine, in_volume), atol=1e-5
        )


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize(
    "affine", [oblique(), oblique(44), signed_permutation((1, 2, 0), (1,) * 3)]
)
def test_a_pixels_place_is_simpleitks_physical_point(
    axis: Axis, affine: NDArray[np.float64]
) -> None:
    shape, at = (6, 9, 7), (1, 6, 4)
    array = np.zeros(shape, np.float32)
    array[at] = 1
    volume = volume_from_array(array, affine)
    geometry, _ = native(shape, volume.affine, axis)
    lps = to_sitk(volume).TransformIndexToPhysicalPoint(at)

    (pixel,) = np.argwhere(geometry.to_slices(volume.array))

    expected = np.array([-lps[0], -lps[1], lps[2]])
    np.testing.assert_allclose(world(geometry.slices_affine, pixel[None])[0], expected, atol=1e-4)


@pytest.mark.parametrize("axis", AXES)
def test_enlarged_slices_are_linear_interpolation_at_the_places_they_name(axis: Axis) -> None:
    rng = np.random.default_rng(1)
    # Zero at the rim, so that padding and the edge of the interpolation agree.
    array = np.pad(rng.random((9, 8, 7)), 2).astype(np.float32)
    affine = oblique()
    brain = array > 0.3
    geometry = SliceGeometry.around(brain, affine, axis=axis, field_mm=33.0, size=71)
    assert any(low < 0 for low, _ in geometry.crop), "the field should reach beyond the volume"

    stack = geometry.to_slices(array)
    nearest = geometry.to_slices(brain.astype(np.uint8), nearest=True)

    pixels = np.indices(stack.shape).reshape(3, -1).T
    to_voxels = np.linalg.inv(affine)
    voxels = world(to_voxels, world(geometry.slices_affine, pixels)).T
    expected = ndimage.map_coordinates(array, voxels, order=1, mode="constant", cval=0)
    np.testing.assert_allclose(stack.ravel(), expected, atol=2e-4)
    whole = np.rint(voxels).astype(int)
    clear = np.all(np.abs(voxels - whole) < 0.49, axis=0)  # not halfway between two voxels
    inside = np.all((whole >= 0) & (whole < np.array(array.shape)[:, None]), axis=0)
    chosen = np.zeros(clear.size, bool)
    chosen[inside] = brain[tuple(whole[:, inside])]
    assert set(np.unique(nearest)) == {0.0, 1.0}
    np.testing.assert_array_equal(nearest.ravel()[clear] > 0.5, chosen[clear])
    assert clear.mean() > 0.9


@pytest.mark.parametrize("size", [32, 75])
def test_a_blob_stays_where_it_is_there_and_back(size: int) -> None:
    shape = (40, 50, 30)
    affine = oblique(10)
    centre = np.array([22.0, 29.0, 13.0])
    apart_mm = world(affine, np.indices(shape).reshape(3, -1).T) - world(affine, centre[None])
    blob = np.exp(-0.5 * (apart_mm**2).sum(axis=1) / 4.0**2).reshape(shape).astype(np.float32)
    geometry = SliceGeometry.around(blob > 0.01, affine, axis="axial", field_mm=70.0, size=size)

    stack = geometry.to_slices(blob)
    back = geometry.to_volume(stack)

    in_stack = np.array([ndimage.center_of_mass(stack)])
    in_mm = world(geometry.slices_affine, in_stack)[0]
    np.testing.assert_allclose(in_mm, world(affine, centre[None])[0], atol=0.05)
    np.testing.assert_allclose(ndimage.center_of_mass(back), centre, atol=0.05)
    # 32 pixels for 70 mm blur a blob of 4 mm somewhat; that is all that may happen to it.
    np.testing.assert_allclose(back, blob, atol=0.2 if size == 32 else 0.05)
    assert back.shape == shape
    assert np.isfinite(stack).all()


def test_beyond_the_field_is_zero_and_within_it_exact() -> None:
    array = np.random.default_rng(2).random((12, 11, 4)).astype(np.float32) + 1
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])  # rows run along Y, columns along X: "LPS"
    geometry = SliceGeometry(array.shape, affine, "axial", ((2, 8), (5, 11)), 6)

    back = geometry.to_volume(geometry.to_slices(array))

    inside = np.zeros(array.shape, bool)
    inside[5:11, 2:8] = True
    np.testing.assert_array_equal(back, np.where(inside, array, 0))
    assert geometry.share_inside(np.ones(array.shape, bool)) == pytest.approx(36 / 132)
    assert geometry.share_inside(inside) == 1
    beyond = SliceGeometry(array.shape, affine, "axial", ((-4, 6), (-2, 8)), 10)
    assert beyond.share_inside(np.ones(array.shape, bool)) == pytest.approx(6 * 8 / 132)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("corner", [(0, 0, 0), (22, 0, 14)])
def test_the_field_is_centred_on_a_brain_off_centre(
    axis: Axis, corner: tuple[int, int, int]
) -> None:
    shape, affine = (32, 28, 24), signed_permutation((1, 0, 2), (-1, 1, -1))
    brain = np.zeros(shape, bool)
    brain[tuple(slice(c, c + 9) for c in corner)] = True
    field_mm = 45.0

    geometry = SliceGeometry.around(brain, affine, axis=axis, field_mm=field_mm, size=40)

    middle = world(affine, np.argwhere(brain).mean(axis=0)[None])[0]
    centre = (geometry.size - 1) / 2
    seen = world(geometry.slices_affine, np.array([[0, centre, centre]]))[0]
    rows, columns = geometry.slices_affine[:3, 1], geometry.slices_affine[:3, 2]
    for direction in (rows, columns):
        along = direction / np.linalg.norm(direction)
        assert abs(along @ (seen - middle)) <= max(SPACING_MM) / 2
        # Whole voxels make the field, so it is right to half of one.
        assert np.linalg.norm(direction) * 40 == pytest.approx(field_mm, abs=max(SPACING_MM) / 2)
    area = np.linalg.norm(rows) * np.linalg.norm(columns)
    assert geometry.pixel_area_mm2 == pytest.approx(area)


# Where slices, rows and columns run to, in RAS+: the convention that a radiologist expects.
UPRIGHT = {
    "axial": ([0, 0, 1], [0, -1, 0], [-1, 0, 0]),  # nose up, the patient's left on the right
    "coronal": ([0, 1, 0], [0, 0, -1], [-1, 0, 0]),  # vertex up, left on the right
    "sagittal": ([1, 0, 0], [0, 0, -1], [0, -1, 0]),  # vertex up, nose to the left
}


@pytest.mark.parametrize("axis", AXES)
def test_slices_stand_upright_in_every_orientation(axis: Axis) -> None:
    for order, signs in ORIENTATIONS:
        affine = signed_permutation(order, signs)
        geometry = SliceGeometry((5, 6, 7), affine, axis, ((0, 4), (0, 4)), 4)
        directions = geometry.slices_affine[:3, :3]
        unit = directions / np.linalg.norm(directions, axis=0)
        np.testing.assert_allclose(unit.T, UPRIGHT[axis], atol=1e-9)


def test_the_volume_given_is_never_written_to() -> None:
    # This orientation and size need no change at all, so a view could be handed out.
    affine = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float)
    array = np.ones((3, 4, 4), np.float32)
    geometry = SliceGeometry(array.shape, affine, "axial", ((0, 4), (0, 4)), 4)
    stack = geometry.to_slices(array)
    np.testing.assert_array_equal(stack, array)

    stack[:] = 7
    geometry.to_volume(stack)[:] = 9
    geometry.oriented(array)[:] = 8

    np.testing.assert_array_equal(array, 1)
    np.testing.assert_array_equal(stack, 7)


def test_one_geometry_serves_many_volumes_in_any_order() -> None:
    # Inversion must not lean on what went through the transforms last.
    rng = np.random.default_rng(3)
    geometry, _ = native((4, 5, 6), oblique(), "coronal")
    first, second = rng.random((2, 4, 5, 6)).astype(np.float32)
    one, two = geometry.to_slices(first), geometry.to_slices(second)
    np.testing.assert_array_equal(geometry.to_volume(one), first)
    np.testing.assert_array_equal(geometry.to_volume(two), second)
    np.testing.assert_array_equal(geometry.to_volume(one), first)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("nearest", [False, True])
def test_torch_moves_as_monai_does(axis: Axis, nearest: bool) -> None:
    """Reduced, enlarged and as they are; within the volume and beyond it on either side."""
    rounding = 0 if nearest else 3e-7  # sums in another order
    rng = np.random.default_rng(4)
    shape = (23, 31, 27)
    array = rng.random(shape).astype(np.float32)
    crops = [((-5, 40), (3, 21)), ((2, 15), (-4, 30)), ((4, 20), (5, 21)), ((-20, 0), (-3, 13))]
    affines = [oblique(), signed_permutation((1, 2, 0), (-1, 1, -1)), np.diag([-1.0, -1, 1, 1])]
    for affine, crop, size in product(affines, crops, (8, 16, 33)):
        theirs, ours = (
            SliceGeometry(shape, affine, axis, crop, size, quick) for quick in (False, True)
        )
        stack = theirs.to_slices(array, nearest=nearest)
        np.testing.assert_allclose(
            ours.to_slices(array, nearest=nearest), stack, rtol=0, atol=rounding
        )
        np.testing.assert_array_equal(
            theirs.to_volume(stack, nearest=nearest), ours.to_volume(stack, nearest=nearest)
        )
        assert np.array_equal(theirs.slices_affine, ours.slices_affine)
