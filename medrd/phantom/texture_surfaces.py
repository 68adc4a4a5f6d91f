"""Flawless textured surfaces and the camera that photographs them.

Reflectances are (H, W, 3) float32 in [0, 1]; lengths are in pixels whatever the picture's
size, so that a smaller picture shows less of the same material.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medrd.phantom.fields import random_field

FloatArray = NDArray[np.float32]

_THREAD_PX = 9.0
_BEND_PX = 40.0  # over which the cloth is pulled one way
_WARP = np.array([0.30, 0.42, 0.58], np.float32)  # blue threads along the cloth
_WEFT = np.array([0.74, 0.70, 0.60], np.float32)  # unbleached ones across

_CHIP_PX = 17.0
_SAND_PX = 4.5
_CEMENT = np.array([0.66, 0.64, 0.60], np.float32)
_STONES = np.array(
    [
        [0.86, 0.84, 0.80],
        [0.42, 0.40, 0.40],
        [0.62, 0.45, 0.36],
        [0.55, 0.56, 0.50],
        [0.74, 0.66, 0.52],
    ],
    np.float32,
)
_STONE_SHARES = np.array([0.32, 0.18, 0.16, 0.18, 0.16])


def weave(rng: np.random.Generator, size: int) -> FloatArray:
    """Plain-woven cloth: light weft over and under blue warp, no two threads alike."""
    across, along = _material_coordinates(rng, size, unit_px=_THREAD_PX, warp_px=1.0)
    i, j = np.floor(across).astype(np.intp), np.floor(along).astype(np.intp)
    u, v = np.pi * (across - i - 0.5), np.pi * (along - j - 0.5)
    over = np.where((i + j) % 2 == 0, 1, -1)
    # Each thread is a cylinder that bulges where it lies on top; the higher one is seen.
    warp_height = np.cos(u) + 0.55 * over * np.cos(v)
    weft_height = np.cos(v) - 0.55 * over * np.cos(u)
    top = _soft_step((warp_height - weft_height) * 4)
    height = np.maximum(warp_height, weft_height)
    fibre = rng.standard_normal((2, size, size), np.float32)
    lengthwise = ndimage.gaussian_filter(fibre[0], (3.0, 0.7)) * 4
    crosswise = ndimage.gaussian_filter(fibre[1], (0.7, 3.0)) * 4
    warp_tone = _of_each(rng, i, spread=0.07) + 0.055 * lengthwise
    weft_tone = _of_each(rng, j, spread=0.05) + 0.045 * crosswise
    colour = top[..., None] * _WARP * (1 + warp_tone)[..., None]
    colour = colour + (1 - top)[..., None] * _WEFT * (1 + weft_tone)[..., None]
    # Deep between the threads it is dark; flanks towards the lamp are lighter.
    shade = 0.42 + 0.45 * np.clip(height, 0, 1.6) / 1.1
    rise_y, rise_x = np.gradient(height)
    shade = shade * (1 - 0.35 * (rise_x + rise_y))
    return to_unit(colour * shade[..., None])


def grain(rng: np.random.Generator, size: int) -> FloatArray:
    """Terrazzo: chips of five kinds of stone in sandy cement, ground flat."""
    y, x = _material_coordinates(rng, size, unit_px=_CHIP_PX, warp_px=0.0)
    chip = _cells(rng, y, x)
    kind = rng.choice(len(_STONES), chip.count, p=_STONE_SHARES)[chip.of]
    reach = rng.uniform(0.18, 0.62, chip.count).astype(np.float32)[chip.of]
    tone = 1 + rng.normal(0, 0.06, chip.count).astype(np.float32)[chip.of]
    covered = _soft_step((chip.border - 0.07) / 0.05) * _soft_step((reach - chip.distance) / 0.05)

    sand = _cells(rng, y * (_CHIP_PX / _SAND_PX), x * (_CHIP_PX / _SAND_PX))
    speck = rng.normal(0, 0.075, sand.count).astype(np.float32)[sand.of] * _soft_step(
        (sand.border - 0.1) / 0.1
    )
    fine = ndimage.gaussian_filter(rng.standard_normal((size, size), np.float32), 0.8)
    cement = _CEMENT * (1 + speck + 0.05 * fine)[..., None]
    vein = ndimage.gaussian_filter(rng.standard_normal((size, size), np.float32), 2.0)
    stone = _STONES[kind] * (tone + 0.22 * vein + 0.04 * fine)[..., None]
    edge = 1 - 0.12 * np.exp(-(((reach - chip.distance) / 0.06) ** 2)) * (chip.border > 0.05)
    mixed = cement + covered[..., None] * (stone - cement)
    return to_unit(mixed * edge[..., None])


SURFACES: dict[str, Callable[[np.random.Generator, int], FloatArray]] = {
    "grain": grain,
    "weave": weave,
}


@dataclass(frozen=True)
class Camera:
    """What happens between surface and picture, drawn once and applied to any surface.

    Attributes
    ----------
    light
        (H, W, 3): exposure, white balance and the lamp's fall-off across the field.
    noise
        (H, W, 3), in units of the picture's range.
    blur_sigma_px
        The lens.
    """

    light: FloatArray
    noise: FloatArray
    blur_sigma_px: float

    def photograph(self, surface: FloatArray) -> FloatArray:
        """The surface as seen, (H, W, 3) in [0, 1]."""
        sharp = self.blur_sigma_px
        seen = ndimage.gaussian_filter(surface, (sharp, sharp, 0)) * self.light + self.noise
        return to_unit(seen)


def plan_camera(rng: np.random.Generator, size: int) -> Camera:
    """Draw exposure ±6 %, a light gradient of up to 12 % to each side, and noise of 1 %."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32),) * 2, indexing="ij")
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.12)
    fall_off = 1 + slope * (np.cos(angle) * x + np.sin(angle) * y) - 0.05 * (x * x + y * y)
    balance = np.exp(rng.normal(0, 0.06)) * np.exp(rng.normal(0, 0.012, 3))
    noise = rng.uniform(0.007, 0.013) * rng.standard_normal((size, size, 3), np.float32)
    return Camera(
        light=(fall_off[..., None] * balance).astype(np.float32),
        noise=noise.astype(np.float32),
        blur_sigma_px=float(rng.uniform(0.45, 0.65)),
    )


def _material_coordinates(
    rng: np.random.Generator, size: int, *, unit_px: float, warp_px: float
) -> tuple[FloatArray, FloatArray]:
    """Where each pixel lies on the material, in units: shifted, scaled ±4 %, turned ±3°, bent."""
    turn = np.deg2rad(rng.uniform(-3, 3))
    unit = unit_px * np.exp(rng.uniform(-0.04, 0.04))
    y, x = np.indices((size, size), np.float32)
    if warp_px:
        y = y + warp_px * random_field(rng, (size, size), _BEND_PX)
        x = x + warp_px * random_field(rng, (size, size), _BEND_PX)
    # Far from 0, so that indices of threads and cells are positive everywhere.
    shift = rng.uniform(100, 101, 2)
    along = (np.cos(turn) * y - np.sin(turn) * x) / unit + shift[0]
    across = (np.sin(turn) * y + np.cos(turn) * x) / unit + shift[1]
    return across.astype(np.float32), along.astype(np.float32)


def _of_each(rng: np.random.Generator, index: NDArray[np.intp], *, spread: float) -> FloatArray:
    """A random tone for each thread, looked up at every pixel."""
    index = index - index.min()
    return rng.normal(0, spread, int(index.max()) + 1).astype(np.float32)[index]


@dataclass(frozen=True)
class _Cells:
    """Voronoi cells of a jittered grid, at every pixel; lengths in units of the grid.

    Attributes
    ----------
    of
        (H, W) number of the cell, below ``count``.
    distance, border
        (H, W) distance to the cell's seed, and to the cell's border (approximately).
    """

    of: NDArray[np.intp]
    count: int
    distance: FloatArray
    border: FloatArray


def _cells(rng: np.random.Generator, y: FloatArray, x: FloatArray) -> _Cells:
    """Worley 1996: the two nearest of the seeds in the 3 x 3 grid cells around each pixel."""
    y, x = y - np.floor(y.min()) + 2, x - np.floor(x.min()) + 2
    rows, columns = int(y.max()) + 3, int(x.max()) + 3
    seeds = rng.uniform(0.1, 0.9, (2, rows, columns)).astype(np.float32)
    i, j = np.floor(y), np.floor(x)
    corner = (i * columns + j).astype(np.intp)
    y, x = y - i, x - j
    nearest = np.full(y.shape, np.inf, np.float32)
    second = nearest.copy()
    of = np.zeros(y.shape, np.intp)
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            number = corner + (di * columns + dj)
            # Squared, until the two nearest are known.
            far = (seeds[0].take(number) + di - y) ** 2 + (seeds[1].take(number) + dj - x) ** 2
            closer = far < nearest
            second = np.minimum(second, np.maximum(far, nearest))
            of = np.where(closer, number, of)
            nearest = np.minimum(far, nearest)
    nearest, second = np.sqrt(nearest), np.sqrt(second)
    return _Cells(of, rows * columns, nearest, second - nearest)


def _soft_step(x: FloatArray) -> FloatArray:
    """From 0 at -0.5 to 1 at 0.5, smoothly."""
    t = np.clip(x + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def to_unit(values: NDArray) -> FloatArray:
    """Cut off what is below 0 or above 1."""
    return np.clip(values, 0, 1).astype(np.float32)
