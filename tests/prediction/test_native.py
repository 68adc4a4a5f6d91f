"""Resampling from prepared scans to raw grids, to a fraction of a micrometre."""

from __future__ import annotations

import json

import numpy as np
import pytest
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from medrd.images.volume import volume_from_array
from medrd.prediction.native import NativeSpace, native_mask
from medrd.preparation.linear import about, inverse, rotation, translation
from medrd.preparation.record import Origin
from phantom_heads import points_of

SHAPE = (60, 60, 40)
AFFINE = np.array([[-4.0, 0, 0, 0], [0, -4, 0, 239], [0, 0, 4, 0], [0, 0, 0, 1]])
TO_RAW = (
    translation([4, 3, -2])
    @ translation([118, -104, -73])
    @ about((-118, 104, 73), rotation(5, 4, -8))
)


def native_space(
    spacing_mm: tuple[float, ...], shape: tuple[int, int, int], axes: tuple[int, ...]
) -> NativeSpace:
    """An oblique raw grid with permuted axes, one of them reversed, after a round trip to JSON."""
    affine = rotation(11, -7, 20) @ np.eye(4)[[*axes, 3]] @ np.diag([*spacing_mm, 1])
    affine = affine @ np.diag([-1, 1, 1, 1])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    origin = Origin.of(volume_from_array(np.zeros(shape), affine), TO_RAW, "raw.nii.gz")
    again = Origin.from_dict(json.loads(json.dumps(origin.to_dict())))
    return NativeSpace(again, again.blank())


def ramp(points_mm: NDArray) -> NDArray:
    """A value that tells everywhere where it is."""
    return 10 + 0.01 * points_mm[..., 0] - 0.02 * points_mm[..., 1] + 0.03 * points_mm[..., 2]


@pytest.mark.parametrize(
    ("spacing_mm", "shape", "axes"),
    [((3.6, 3.6, 5), (55, 64, 24), (0, 1, 2)), ((4.8, 4, 4), (40, 50, 45), (2, 0, 1))],
)
def test_a_map_lies_where_it_belongs_on_an_oblique_permuted_grid(
    spacing_mm: tuple[float, ...], shape: tuple[int, int, int], axes: tuple[int, ...]
) -> None:
    native = native_space(spacing_mm, shape, axes)
    prepared = ramp(points_of(SHAPE, AFFINE)).astype(np.float32)
    found = native.scores(prepared, AFFINE)
    raw_mm = points_of(shape, native.blank.affine)
    truth = ramp(apply_affine(inverse(TO_RAW), raw_mm.reshape(-1, 3)).reshape(raw_mm.shape))
    inside = found != 0
    assert inside.mean() > 0.5
    # 1e-4 mm of the steepest slope, and float32.
    np.testing.assert_allclose(found[inside], truth[inside], rtol=0, atol=5e-6)


def test_findings_that_no_voxel_of_thick_slices_shows_are_counted() -> None:
    native = native_space((4.0, 4.0, 40.0), (60, 60, 5), (0, 1, 2))
    slices_mm = apply_affine(
        inverse(TO_RAW) @ native.blank.affine, np.array([[30.0, 30, 2], [30, 30, 2.5]])
    )
    mask = np.zeros(SHAPE, bool)
    for centre_mm in slices_mm:  # in a slice, and midway between it and the next
        x, y, z = np.rint(apply_affine(inverse(AFFINE), centre_mm)).astype(int)
        mask[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = True
    mask[0, 0, 0] = True  # too small to be a finding anywhere
    found, lost = native_mask(native, mask, AFFINE)
    assert lost == 1
    assert np.unique(np.argwhere(found)[:, 2]).tolist() == [2]
