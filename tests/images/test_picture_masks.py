"""Masks: any value but 0 counts, and a broken one is no empty one."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medrd.errors import GridMismatchError, TruncatedFileError
from medrd.images.picture import read_picture_mask
from picture_bytes import SHAPE, WHOLE, deep_png, pillow, tiff


def at(*pixels: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    for pixel in pixels:
        mask[pixel] = True
    return mask


def test_masks_are_united_and_any_value_but_0_counts(save: Callable[..., Path]) -> None:
    ones = save(pillow(at((2, 3)).astype(np.uint8), "PNG"))
    whites = save(pillow(at((2, 4), (2, 3)) * np.uint8(255), "BMP"))
    deep = save(pillow(at((7, 7)).astype(np.uint16), "PNG"))
    deep_colour = save(tiff(np.dstack([np.zeros(SHAPE), at((8, 8)), at((8, 9))]).astype("u2")))
    bits = save(pillow(at((12, 16)), "TIFF"))
    signed = save(tiff(at((1, 1)).astype(np.int16)))
    blue = save(pillow(np.dstack([at((0, 0)) * np.uint8(value) for value in (0, 0, 1)]), "PNG"))

    union = read_picture_mask([ones, whites, deep, deep_colour, bits, signed, blue], shape=SHAPE)

    assert union.dtype == np.bool_
    expected = at((2, 3), (2, 4), (7, 7), (8, 8), (8, 9), (12, 16), (1, 1), (0, 0))
    np.testing.assert_array_equal(union, expected)
    assert not read_picture_mask([], shape=SHAPE).any()


def test_alpha_marks_nothing(save: Callable[..., Path]) -> None:
    for channels in (2, 4):
        mask = np.zeros((*SHAPE, channels), np.uint8)
        mask[..., -1] = 255
        mask[4, 5, 0] = 1
        for content in (pillow(mask, "PNG"), deep_png(mask.astype(np.uint16))):
            np.testing.assert_array_equal(
                read_picture_mask([save(content)], shape=SHAPE), at((4, 5))
            )


def test_a_palette_mask_goes_by_index_and_not_by_colour(save: Callable[..., Path]) -> None:
    image = Image.fromarray(at((6, 2)).astype(np.uint8)).convert("P")
    image.putpalette(bytes([255, 255, 255, 0, 0, 0]))  # sound is white, the defect black
    for options in ({}, {"transparency": 0}):
        file = io.BytesIO()
        image.save(file, "PNG", **options)
        mask = read_picture_mask([save(file.getvalue())], shape=SHAPE)
        np.testing.assert_array_equal(mask, at((6, 2)))


def test_a_mask_of_another_shape_names_both(save: Callable[..., Path]) -> None:
    fits, turned = (save(pillow(mask.astype(np.uint8), "PNG")) for mask in (at((1, 2)), at().T))
    with pytest.raises(GridMismatchError) as caught:
        read_picture_mask([fits, turned], shape=SHAPE)
    assert str(turned) in str(caught.value)
    assert "13 × 17" in caught.value.expected
    assert "17 × 13" in caught.value.found


def test_a_broken_mask_is_an_error_and_not_an_empty_one(save: Callable[..., Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TruncatedFileError):
            read_picture_mask([save(WHOLE["png"][:-20])], shape=SHAPE)
