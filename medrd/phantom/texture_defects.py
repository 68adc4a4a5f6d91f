"""Defects on a textured surface, each a pure function of the surface, a generator and a strength.

All take and give (H, W, 3) float32 reflectances in [0, 1], and change a part of the surface
alone. What of it can be seen is for :func:`outline` to say, once both are photographed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medrd.phantom.texture_surfaces import FloatArray, to_unit

Defect = Callable[[FloatArray, np.random.Generator, float], FloatArray]

VISIBLE = 8
"""Grey levels of 255 by which a channel must differ for the difference to be seen.

About 3 %: above what the eye tells apart beside an edge, below any contrast we draw.
"""

_CLOSING_PX = 2  # a patch of other threads agrees with the cloth in pixels here and there
_LEAST_AREA_PX = 12  # what is smaller is a speck of a defect's soft edge

# Reflectances of what falls onto a production line: rust, oil, green fluff, lint, graphite.
_FOREIGN = np.array(
    [
        [0.48, 0.25, 0.14],
        [0.30, 0.26, 0.12],
        [0.24, 0.42, 0.27],
        [0.78, 0.77, 0.72],
        [0.2, 0.2, 0.22],
    ],
    np.float32,
)


def scratch(surface: FloatArray, rng: np.random.Generator, strength: float) -> FloatArray:
    """A thin curved groove: one flank catches the light, the other lies in shade."""
    size = min(surface.shape[:2])
    stroke = _stroke(
        surface.shape[:2],
        rng,
        length_px=size * rng.uniform(0.25, 0.6),
        sigma_px=rng.uniform(0.8, 1.4),
    )
    # The shaded flank lies one way or the other, so that scratches are no brighter on the whole.
    shift = rng.choice([-1.0, 1.0]) * np.array([1.2, 1.2])
    flank = ndimage.shift(stroke, shift, order=1)
    contrast = (0.25 + 0.3 * strength) * rng.choice([-1.0, 1.0])
    relief = contrast * (stroke - 0.6 * flank)
    return to_unit(surface + relief[..., None])


def stain(surface: FloatArray, rng: np.random.Generator, strength: float) -> FloatArray:
    """A liquid that dried: the texture shows through, darker or bleached, with a rim."""
    size = min(surface.shape[:2])
    depth = _blob(surface.shape[:2], rng, radius_px=size * rng.uniform(0.07, 0.16))
    soft = _step(depth, 0.25)
    rim = np.exp(-((depth - 0.15) ** 2) / 0.02)
    amount = (0.2 + 0.3 * strength) * (soft * 0.8 + 0.35 * rim * soft)[..., None]
    if rng.random() < 0.5:
        # Oil and coffee take more of the blue than of the red.
        tint = np.array([0.9, 1.05, 1.25], np.float32) * rng.uniform(0.9, 1.1, 3)
        return to_unit(surface * (1 - amount * tint))
    return to_unit(surface + amount * (0.95 - surface))


def wear(surface: FloatArray, rng: np.random.Generator, strength: float) -> FloatArray:
    """The texture rubbed off: its structure fades, its mean brightness stays."""
    size = min(surface.shape[:2])
    depth = _blob(surface.shape[:2], rng, radius_px=size * rng.uniform(0.08, 0.15))
    amount = (0.55 + 0.45 * strength) * _step(depth, 0.2)[..., None]
    fuzz = ndimage.gaussian_filter(rng.standard_normal(surface.shape[:2], np.float32), 0.7)
    flat = ndimage.gaussian_filter(surface, (5, 5, 0)) + 0.03 * fuzz[..., None]
    return to_unit(surface + amount * (flat - surface))


def misplaced(surface: FloatArray, rng: np.random.Generator, strength: float) -> FloatArray:
    """A piece of the same material, turned and a little larger or smaller, set in."""
    height, width = surface.shape[:2]
    size = min(height, width)
    depth = _blob((height, width), rng, radius_px=size * rng.uniform(0.08, 0.16), roughness=0.25)
    inside = _step(depth, 0.06)[..., None]
    turn = np.deg2rad(rng.choice([-1, 1]) * rng.uniform(15 + 20 * strength, 45))
    # Speckled material looks alike from all sides, so that a turn alone would not show.
    zoom = np.exp(rng.choice([-1, 1]) * (0.35 + 0.35 * strength))
    rows, columns = np.indices((height, width), np.float32)
    centre = rng.uniform(0.3, 0.7, 2) * (height, width)
    y, x = (rows - centre[0]) / zoom, (columns - centre[1]) / zoom
    at = np.stack(
        [
            centre[0] + np.cos(turn) * y - np.sin(turn) * x,
            centre[1] + np.sin(turn) * y + np.cos(turn) * x,
        ]
    )
    channels = [
        ndimage.map_coordinates(c, at, order=1, mode="mirror") for c in np.moveaxis(surface, -1, 0)
    ]
    piece = np.stack(channels, -1).astype(np.float32)
    return to_unit(surface + inside * (piece - surface))


def contamination(surface: FloatArray, rng: np.random.Generator, strength: float) -> FloatArray:
    """Particles, or a fibre, of another material, with a shadow below."""
    size = min(surface.shape[:2])
    shape = surface.shape[:2]
    colour = rng.choice(_FOREIGN) * rng.uniform(0.85, 1.15)
    cover = np.zeros(shape, np.float32)
    if rng.random() < 0.35:
        length = size * rng.uniform(0.2, 0.4)
        cover = _stroke(shape, rng, length_px=length, sigma_px=rng.uniform(0.9, 1.3))
    else:
        for _ in range(rng.integers(1, 4)):
            depth = _blob(shape, rng, radius_px=size * rng.uniform(0.025, 0.055), roughness=0.3)
            cover = np.maximum(cover, _step(depth, 0.25))
    shadow = ndimage.gaussian_filter(ndimage.shift(cover, (2, 2), order=1), 1.2)
    grit = 1 + 0.12 * ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), 0.8)
    shaded = surface * (1 - 0.3 * strength * shadow[..., None])
    opacity = (0.6 + 0.4 * strength) * cover[..., None]
    return to_unit(shaded + opacity * (colour * grit[..., None] - shaded))


DEFECTS: dict[str, Defect] = {
    "contamination": contamination,
    "misplaced": misplaced,
    "scratch": scratch,
    "stain": stain,
    "wear": wear,
}


def outline(clean: NDArray[np.uint8], flawed: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where two (H, W, 3) pictures differ visibly, as an annotator would outline it.

    The pixels that differ by :data:`VISIBLE` or more, with gaps of a few pixels closed,
    holes filled and specks left out.
    """
    visible = np.abs(clean.astype(np.int16) - flawed).max(axis=-1) >= VISIBLE
    padded = np.pad(visible, _CLOSING_PX)  # closing at the border would erode what lies on it
    disc = np.hypot(*np.indices((2 * _CLOSING_PX + 1,) * 2) - _CLOSING_PX) <= _CLOSING_PX + 0.3
    closed = ndimage.binary_closing(padded, disc)[
        _CLOSING_PX:-_CLOSING_PX, _CLOSING_PX:-_CLOSING_PX
    ]
    parts, _ = ndimage.label(ndimage.binary_fill_holes(closed), np.ones((3, 3)))
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    return np.asarray((areas >= _LEAST_AREA_PX)[parts], bool)


def _blob(
    shape: tuple[int, int], rng: np.random.Generator, *, radius_px: float, roughness: float = 0.45
) -> FloatArray:
    """Signed depth of a blob with a wavy edge: 1 at its centre, 0 on its edge, then below."""
    margin = min(1.2 * radius_px, 0.45 * min(shape))
    centre = [rng.uniform(margin, n - margin) for n in shape]
    y, x = np.ogrid[: shape[0], : shape[1]]
    stretch = np.exp(rng.uniform(-0.35, 0.35))
    turn = rng.uniform(0, np.pi)
    along = (np.cos(turn) * (x - centre[1]) + np.sin(turn) * (y - centre[0])) * stretch
    across = (np.cos(turn) * (y - centre[0]) - np.sin(turn) * (x - centre[1])) / stretch
    angle = np.arctan2(across, along)
    edge = np.ones_like(angle)
    for wave in range(2, 8):
        edge += roughness * rng.normal() / wave * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    return (1 - np.hypot(along, across) / (radius_px * np.maximum(edge, 0.35))).astype(np.float32)


def _stroke(
    shape: tuple[int, int], rng: np.random.Generator, *, length_px: float, sigma_px: float
) -> FloatArray:
    """A curved line of Gaussian profile, 1 on its middle, its ends tapered."""
    t = np.linspace(0, 1, int(4 * length_px))
    turn, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.9)
    angles = turn + bend * (t - 0.5) + 0.3 * rng.normal() * np.sin(2 * np.pi * t)
    path = np.cumsum(np.stack([np.sin(angles), np.cos(angles)]), axis=1) * length_px / t.size
    path -= path.mean(axis=1, keepdims=True)
    reach = np.abs(path).max(axis=1)
    low, high = reach + 3, np.array(shape) - reach - 3
    path += rng.uniform(np.minimum(low, high), np.maximum(low, high))[:, None]
    taper = np.clip(6 * np.minimum(t, 1 - t), 0.15, 1)
    canvas = np.zeros(shape, np.float32)
    whole = np.floor(path).astype(np.intp)
    part = path - whole
    for dy in (0, 1):
        for dx in (0, 1):
            weight = np.abs(1 - dy - part[0]) * np.abs(1 - dx - part[1]) * taper
            y, x = whole[0] + dy, whole[1] + dx
            inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
            np.add.at(canvas, (y[inside], x[inside]), weight[inside])
    canvas = ndimage.gaussian_filter(canvas, sigma_px)
    return canvas / max(float(canvas.max()), 1e-6)


def _step(depth: FloatArray, softness: float) -> FloatArray:
    """Smoothly from 0 at depth 0 to 1 at ``softness``."""
    t = np.clip(depth / softness, 0, 1)
    return t * t * (3 - 2 * t)
