"""Labels hold whole numbers of 0 and more; everything else is an error and not a lesion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medrd.errors import LabelError
from medrd.images.labels import refuse_grey_values
from medrd.images.nifti import read_label, read_mask, read_nifti
from medrd.images.picture import read_picture_mask
from medrd.images.volume import Volume
from picture_bytes import SHAPE, pillow, tiff

AFFINE = np.diag([4.0, 4, 4, 1])


def box(value: float = 1) -> NDArray[np.float32]:
    array = np.zeros((20, 20, 10), np.float32)
    array[5:11, 5:11, 3:7] = value
    return array


@pytest.fixture
def scan(tmp_path: Path) -> Volume:
    nib.save(nib.Nifti1Image(np.ones((20, 20, 10), np.int16), AFFINE), tmp_path / "scan.nii")
    return read_nifti(tmp_path / "scan.nii")


def spline(array: NDArray[Any]) -> NDArray[Any]:
    """Shifted by a third of a voxel, and thresholded but for the ripples."""
    shifted = ndimage.shift(array, 1 / 3, order=3)
    return np.where(np.abs(shifted) > 0.01, np.rint(shifted), shifted).astype(np.float32)


OUTSIDE = np.where(np.indices((20, 20, 10))[0] < 2, -1, 0).astype(np.float32)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (ndimage.gaussian_filter(box(), 1), "fractions"),
        (spline(box()), "fractions"),
        (box() + OUTSIDE, "400 negative, the lowest -1"),
        (np.where(OUTSIDE < 0, np.nan, box()), "400 NaN or infinite"),
        (box(0.5), "144 fractions, such as 0.5"),
        (box(2.0**30), "144 too large, the highest 1.074e"),
    ],
    ids=["blurred", "ringing", "negative", "nan", "half", "large"],
)
def test_what_is_no_whole_number_is_an_error_that_counts_it(
    array: NDArray[Any], found: str, scan: Volume, tmp_path: Path
) -> None:
    nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / "seg.nii.gz")
    with pytest.raises(LabelError, match=found):
        read_mask(tmp_path / "seg.nii.gz", scan)


def test_the_rounding_of_a_slope_is_no_fraction(scan: Volume, tmp_path: Path) -> None:
    image = nib.Nifti1Image(box().astype(np.uint8) * 255, AFFINE)
    image.header.set_slope_inter(1 / 255, 0)
    nib.save(image, tmp_path / "seg.nii")
    np.testing.assert_array_equal(read_label(tmp_path / "seg.nii", scan), box())


def test_grey_values_are_no_labels_but_many_numbered_lesions_are() -> None:
    blurred = np.rint(255 * ndimage.gaussian_filter(box(), 1)).astype(np.int32)
    with pytest.raises(LabelError, match="differ from voxel to voxel"):
        refuse_grey_values("seg.nii", blurred)
    numbered = np.arange(1, 126).reshape(5, 5, 5).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    numbered[::4], numbered[:, ::4], numbered[:, :, ::4] = 0, 0, 0
    refuse_grey_values("seg.nii", numbered)


def test_masks_of_pictures_hold_a_few_whole_values(save: Callable[..., Path]) -> None:
    square = np.zeros(SHAPE, np.float32)
    square[4:9, 4:9] = 1
    noise = np.random.default_rng(0).random(SHAPE) > 0.9
    smooth = (255 * ndimage.gaussian_filter(noise.astype(float), 1)).astype(np.uint8)
    for content, found in (
        (tiff(square / 2), "25 fractions, such as 0.5"),
        (tiff(-square.astype(np.int16)), "25 negative, the lowest -1"),
        (pillow(smooth, "PNG"), "shades"),
    ):
        with pytest.raises(LabelError, match=found):
            read_picture_mask([save(content)], shape=SHAPE)
    np.testing.assert_array_equal(read_picture_mask([save(tiff(square))], shape=SHAPE), square)
