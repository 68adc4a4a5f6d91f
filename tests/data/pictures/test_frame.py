"""Pictures to squares and back: every pixel's centre at its place, in all three ways."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from medrd.data.pictures.frame import PictureFrame, Resize

WAYS: tuple[Resize, ...] = ("stretch", "fit", "crop")
# Odd and even, tall and wide, a single row or column, larger and smaller than the square.
SHAPES = [(40, 60), (61, 40), (33, 33), (7, 50), (1, 9), (9, 1), (1, 1), (5, 4), (101, 64)]
SIZES = [1, 16, 17, 64]
CASES = [PictureFrame(shape, size, way) for way in WAYS for shape in SHAPES for size in SIZES]


def boxes(frame: PictureFrame) -> tuple[tuple[float, float], ...]:
    """Start and length in the picture and in the square, for rows and columns."""
    size, shortest, longest = frame.size, min(frame.shape), max(frame.shape)
    result = []
    for length in frame.shape:
        if frame.resize == "stretch":
            result.append((0, length, 0, size))
        elif frame.resize == "crop":
            result.append(((length - shortest) // 2, shortest, 0, size))
        else:
            shown = max(1, int(np.floor(length * size / longest + 0.5)))
            result.append((0, length, (size - shown) // 2, shown))
    return tuple(result)


def weights(
    source: tuple[float, float], target: tuple[float, float], extents: tuple[int, int]
) -> NDArray[np.float64]:
    """(target extent, source extent): triangle filters around the centres' places, by loops."""
    (s_start, s_length), (t_start, t_length) = source, target
    matrix = np.zeros(extents)
    scale = s_length / t_length
    support = max(1.0, scale)
    for i in range(int(t_length)):
        centre = (i + 0.5) * scale - 0.5
        row = np.array([max(0.0, 1 - abs(j - centre) / support) for j in range(int(s_length))])
        matrix[int(t_start) + i, int(s_start) : int(s_start + s_length)] = row / row.sum()
    return matrix


@pytest.mark.parametrize("frame", CASES, ids=str)
def test_both_directions_are_what_coordinates_say(frame: PictureFrame) -> None:
    rng = np.random.default_rng(0)
    picture = rng.random((*frame.shape, 3), dtype=np.float32)
    scores = rng.random((frame.size, frame.size), dtype=np.float32)
    to, back = [], []
    for (start, length, at, shown), extent in zip(boxes(frame), frame.shape, strict=True):
        to.append(weights((start, length), (at, shown), (frame.size, extent)))
        back.append(weights((at, shown), (start, length), (extent, frame.size)))

    square = frame.to_square(picture)
    restored = frame.to_picture(scores)

    assert square.dtype == restored.dtype == np.float32
    np.testing.assert_allclose(square, to[0] @ picture.transpose(2, 0, 1) @ to[1].T, atol=2e-5)
    np.testing.assert_allclose(restored, back[0] @ scores @ back[1].T, atol=2e-5)
    np.testing.assert_array_equal(frame.region(), np.outer(to[0].any(1), to[1].any(1)))
    np.testing.assert_array_equal(frame.shown(), np.outer(back[0].any(1), back[1].any(1)))


@pytest.mark.parametrize("frame", CASES, ids=str)
def test_a_constant_stays_itself_inside_and_0_outside(frame: PictureFrame) -> None:
    value = np.float32(0.1)
    square = frame.to_square(np.full((*frame.shape, 1), value))
    np.testing.assert_array_equal(square[0], np.where(frame.region(), value, np.float32(0)))
    restored = frame.to_picture(np.full((frame.size, frame.size), value))
    np.testing.assert_array_equal(restored, np.where(frame.shown(), value, np.float32(0)))


def test_what_each_way_shows() -> None:
    wide = (30, 60)
    assert PictureFrame(wide, 32, "stretch").region().all()
    assert PictureFrame(wide, 32, "stretch").shown().all()

    fit = PictureFrame(wide, 32, "fit")
    assert fit.shown().all()
    assert fit.region()[8:24].all()
    assert fit.region().sum() == 16 * 32
    odd = PictureFrame((29, 60), 31, "fit").region()  # 15 rows of 31: 8 above, 8 below
    assert np.flatnonzero(odd.any(1)).tolist() == list(range(8, 23))
    odd = PictureFrame((28, 60), 30, "fit").region()  # 14 rows of 30
    assert np.flatnonzero(odd.any(1)).tolist() == list(range(8, 22))
    odd = PictureFrame((30, 60), 31, "fit").region()  # 15.5, rounded up: 7 above, 8 below
    assert np.flatnonzero(odd.any(1)).tolist() == list(range(7, 23))

    crop = PictureFrame((30, 61), 32, "crop")
    assert crop.region().all()
    assert np.flatnonzero(crop.shown().any(0)).tolist() == list(range(15, 45))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(90, 120), (121, 90), (33, 40), (20, 31)])
@pytest.mark.parametrize("size", [32, 33, 64])
def test_a_ramp_comes_back_as_the_ramp(way: Resize, shape: tuple[int, int], size: int) -> None:
    frame = PictureFrame(shape, size, way)
    rows, columns = np.indices(shape)
    ramp = ((2 * rows + 3 * columns + 1) / (2 * shape[0] + 3 * shape[1])).astype(np.float32)

    square = frame.to_square(ramp[..., None])[0]
    restored = frame.to_picture(square)

    # Filters that reach over the edge of what is shown bend the ramp there.
    reach = [
        int(np.ceil(2 * max(1, length / shown, shown / length)))
        for _, length, _, shown in boxes(frame)
    ]
    inside = frame.shown().copy()
    first = [np.flatnonzero(inside.any(1 - axis))[[0, -1]] for axis in (0, 1)]
    near = np.zeros(shape, bool)
    near[
        first[0][0] + reach[0] : first[0][1] - reach[0] + 1,
        first[1][0] + reach[1] : first[1][1] - reach[1] + 1,
    ] = True
    assert near.any()
    # A sampled triangle's mean is off its centre by a little, where the scale is no whole
    # number: a tenth of a pixel is asked for, half a one is what mistaken centres cost.
    np.testing.assert_allclose(restored[near], ramp[near], atol=0.1 * (ramp[1, 1] - ramp[0, 0]))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(300, 200), (201, 333), (64, 65), (40, 50)])
def test_a_defect_does_not_move(way: Resize, shape: tuple[int, int]) -> None:
    frame = PictureFrame(shape, 64, way)
    network_pixel = [length / shown for _, length, _, shown in boxes(frame)]
    rng = np.random.default_rng(2)
    for _ in range(5):
        radius = 0.06 * min(shape)
        middle = np.array(shape) / 2 + rng.uniform(-0.25, 0.25, 2) * min(shape)
        rows, columns = np.indices(shape)
        defect = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < radius**2
        picture = defect.astype(np.float32)
        restored = frame.to_picture(frame.to_square(picture[..., None])[0])
        for axis, before, after in zip((0, 1), centroid(picture), centroid(restored), strict=True):
            assert abs(after - before) < 0.5 * max(1.0, network_pixel[axis])


def centroid(weight: NDArray[np.float32]) -> tuple[float, float]:
    rows, columns = np.indices(weight.shape)
    return float((rows * weight).sum() / weight.sum()), float(
        (columns * weight).sum() / weight.sum()
    )


@pytest.mark.parametrize("way", WAYS)
def test_the_same_grid_is_left_alone(way: Resize) -> None:
    picture = np.random.default_rng(3).random((24, 24, 3), dtype=np.float32)
    frame = PictureFrame((24, 24), 24, way)
    square = frame.to_square(picture)
    np.testing.assert_array_equal(square, np.moveaxis(picture, -1, 0))
    np.testing.assert_array_equal(frame.to_picture(square[1]), picture[..., 1])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [24, 12])
def test_arrays_that_may_not_be_written_to_are_neither_changed_nor_shared(size: int) -> None:
    picture = np.random.default_rng(4).random((24, 24, 1), dtype=np.float32)
    frame = PictureFrame((24, 24), size, "stretch")
    locked = picture[::-1]  # and its strides are negative
    locked.flags.writeable = False
    square = frame.to_square(locked)
    square += 1
    np.testing.assert_array_equal(locked, picture[::-1])


def test_values_stay_within_those_of_the_picture() -> None:
    rng = np.random.default_rng(5)
    for shape in ((200, 31), (31, 200), (5, 5)):
        picture = (rng.random((*shape, 3)) > 0.5).astype(np.float32) * np.float32(0.7)
        for way in WAYS:
            frame = PictureFrame(shape, 48, way)
            square = frame.to_square(picture)
            assert square.min() >= 0
            assert square.max() <= np.float32(0.7)
            assert frame.to_picture(square[0]).max() <= square[0].max()


def test_senseless_frames_and_arrays() -> None:
    for shape, size in (((0, 3), 4), ((3, 0), 4), ((3, 3), 0)):
        with pytest.raises(ValueError, match="no pixels"):
            PictureFrame(shape, size, "fit")
    with pytest.raises(ValueError, match="stretch, fit or crop"):
        PictureFrame((3, 3), 4, "pad")  # type: ignore[arg-type]
    frame = PictureFrame((3, 4), 4, "fit")
    with pytest.raises(ValueError, match="expected 3 x 4"):
        frame.to_square(np.zeros((4, 3, 1), np.float32))
    with pytest.raises(ValueError, match="expected 4 x 4"):
        frame.to_picture(np.zeros((3, 4), np.float32))
