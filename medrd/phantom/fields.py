"""Smooth random fields on a voxel grid: cubic B-splines with random coefficients.

Everything irregular about a phantom (its folds, its bias field, the edge of its lesion)
is drawn here. A spline costs a few passes over the array, however smooth it is, and uses only
elementwise arithmetic: the result has the same bits on one thread or on eight, which neither an
FFT nor a matrix product guarantees.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

# The mean over positions of the sum of squared cubic B-spline weights: the variance that
# unit white coefficients keep along one axis.
_VARIANCE_PER_AXIS = 0.4794


def spline_weights(positions: FloatArray) -> tuple[NDArray[np.intp], FloatArray]:
    """Uniform cubic B-spline basis at positions counted in knots.

    Parameters
    ----------
    positions
        (n,) non-negative positions.

    Returns
    -------
    first, weights
        (n,) index of the first of four coefficients, and (4, n) their weights (sum 1).
    """
    first = np.floor(positions).astype(np.intp)
    t = (positions - first).astype(np.float32)
    weights: FloatArray = np.stack(
        [
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        ]
    )
    return first, weights


def knots(shape: Sequence[int], spacing: float) -> tuple[int, ...]:
    """Number of coefficients per axis for a grid of ``shape`` with ``spacing`` voxels per knot."""
    # Positions are float32: the last may round up to a knot that it lies just before.
    return tuple(int((n - 1) / spacing + 1e-4) + 4 for n in shape)


def evaluate_spline(coefficients: FloatArray, shape: Sequence[int], spacing: float) -> FloatArray:
    """Values of a cubic B-spline on every voxel.

    Parameters
    ----------
    coefficients
        An array of shape ``knots(shape, spacing)``.
    shape
        The grid, (X, Y, Z).
    spacing
        Voxels between knots.

    Returns
    -------
    (X, Y, Z) float32.
    """
    values = coefficients.astype(np.float32, copy=False)
    # The first axis last: its slabs are contiguous, and only this pass is full size.
    for axis in reversed(range(len(shape))):
        first, weights = spline_weights(np.arange(shape[axis], dtype=np.float32) / spacing)
        along = [1] * len(shape)
        along[axis] = -1
        total = np.take(values, first, axis) * weights[0].reshape(along)
        for k in range(1, 4):
            total += np.take(values, first + k, axis) * weights[k].reshape(along)
        values = total
    return values


def random_field(rng: np.random.Generator, shape: Sequence[int], spacing: float) -> FloatArray:
    """A smooth Gaussian field of about zero mean and unit variance.

    Parameters
    ----------
    rng
        Source of the coefficients.
    shape
        The grid, (X, Y, Z).
    spacing
        Voxels between knots; the field decorrelates over about two of them.

    Returns
    -------
    (X, Y, Z) float32.
    """
    white = rng.standard_normal(knots(shape, spacing), dtype=np.float32)
    white /= np.float32(_VARIANCE_PER_AXIS ** (len(shape) / 2))
    return evaluate_spline(white, shape, spacing)
