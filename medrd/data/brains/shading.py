"""Smooth shading of a brain by the coils, as a quadratic function of position.

Lesions are as smooth as shading, so a flexible field such as N4's takes them for shading. A fit of
few terms that ignores outliers needs most of the brain to agree with it. It still takes large faint
lesions for shading in part: one that fills a fifth of the brain and is a tenth brighter than tissue
loses half of its contrast or more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SAMPLE_MM = 4.0
"""Side of the blocks that are averaged, which keeps noise below the tolerance."""
_FIRST_TOLERANCE, _TOLERANCE = 0.3, 0.1
"""Voxels whose log-intensity is further than this from the fit have no weight; at first, the fit
is only a constant, and more of the brain has to count."""
_SHRINK, _ITERATIONS = 0.85, 25
_MOST_BELOW = 0.25
"""Interpolation leaves some voxels below 0, z-scores have half of them there."""


def without_shading(
    array: NDArray[np.float32], brain: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> NDArray[np.float32]:
    """Divide a scan by its shading, whose logarithm is a sum of quadratics along the grid's axes.

    It is fitted to the log-intensities of the brain by iteratively reweighted least squares with
    Tukey's biweight (Beaton & Tukey, Technometrics 1974), so that voxels which differ by more than
    a tenth from what is common at their place (lesions, fluid, fat) do not count. Products of two
    coordinates are left out: they explain little of coils' shading, and resemble one-sided lesions.

    Parameters
    ----------
    array, brain
        (X, Y, Z): the scan, and where its brain is.
    spacing_mm
        The voxel's sides.

    Returns
    -------
    (X, Y, Z) float32, about 1 in the brain's most common tissue; 0 outside the brain.

    Raises
    ------
    ValueError
        Intensities are not mostly above 0, so they have no logarithm.
    """
    values = array[brain]
    below = float(np.mean(values < 0))
    if not np.median(values) > 0 or below > _MOST_BELOW:
        raise ValueError(
            f"values below 0 in {below:.0%} of it, and a median of {np.median(values):.4g}"
        )
    blocks = [
        min(n, max(1, round(_SAMPLE_MM / side)))
        for n, side in zip(array.shape, spacing_mm, strict=True)
    ]
    places, logs = _samples(array, brain & (array > 0), blocks)
    centre = places.mean(axis=0)
    # In units of 10 cm, about the radius of a head, which makes the terms comparable in size.
    scale = np.asarray(spacing_mm) / 100
    coefficients = _robust_fit(_terms((places - centre) * scale), logs)
    axes = [(np.arange(n) - c) * s for n, c, s in zip(array.shape, centre, scale, strict=True)]
    result = np.zeros(array.shape, np.float32)
    result[brain] = values / np.exp(_polynomial(coefficients, axes)[brain])
    return result


def _samples(
    array: NDArray[np.float32], usable: NDArray[np.bool_], blocks: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres (N, 3) in voxels, and logarithms (N,) of the means, of blocks that are at least half
    usable (or as usable as any)."""
    whole = tuple(slice(n // side * side) for n, side in zip(array.shape, blocks, strict=True))
    shape = [
        part for n, side in zip(array.shape, blocks, strict=True) for part in (n // side, side)
    ]
    if not usable[whole].any():  # all of the brain is in the incomplete blocks at the far end
        return _samples(array, usable, (1, 1, 1))
    usable = usable[whole].reshape(shape)
    count = usable.sum(axis=(1, 3, 5))
    total = np.where(usable, array[whole].reshape(shape), 0).sum(axis=(1, 3, 5), dtype=np.float64)
    kept = (count > 0) & (2 * count >= min(np.prod(blocks), 2 * count.max()))
    centres = np.argwhere(kept) * np.array(blocks) + (np.array(blocks) - 1) / 2
    return centres, np.log(total[kept] / count[kept])


def _terms(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) -> (N, 7): 1, the coordinates, and their squares."""
    return np.concatenate([np.ones((len(places), 1)), places, places**2], axis=1)


def _polynomial(
    coefficients: NDArray[np.float64], axes: Sequence[NDArray[np.float64]]
) -> NDArray[np.float32]:
    """The sum of :func:`_terms` on the grid (X, Y, Z) of these coordinates."""
    parts = [
        axis * (c + axis * d)
        for axis, c, d in zip(axes, *np.split(coefficients[1:], 2), strict=True)
    ]
    x, y, z = np.ix_(*(part.astype(np.float32) for part in parts))
    result: NDArray[np.float32] = np.float32(coefficients[0]) + x + y + z
    return result


def _robust_fit(terms: NDArray[np.float64], logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients (7,) of the biweight fit. Terms that a thin slab cannot tell apart get the
    smallest ones."""
    coefficients = np.zeros(terms.shape[1])
    coefficients[0] = np.median(logs)
    for step in range(_ITERATIONS):
        tolerance = max(_TOLERANCE, _FIRST_TOLERANCE * _SHRINK**step)
        distance = (logs - terms @ coefficients) / tolerance
        root = np.clip(1 - distance**2, 0, None)  # of Tukey's weight
        if np.count_nonzero(root) < root.size / 10:  # two tissues far apart, and none between
            break
        fitted = np.linalg.lstsq(terms * root[:, None], logs * root, rcond=None)[0]
        coefficients = np.asarray(fitted, np.float64)
    return coefficients
