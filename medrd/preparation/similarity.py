"""Similarity of two images of any contrasts, to choose starts and to assess results.

The optimiser has its own measure (Mattes et al. 2003), over the points that both images cover. This
one counts points outside the moving image as background, so that sliding off the image does not
improve the fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine, from_matvec
from numpy.typing import NDArray
from scipy import ndimage

from medrd.images.geometry import RAS_TO_LPS, Affine
from medrd.images.sitk import sitk_array
from medrd.preparation.linear import Matrix, about, inverse, rotation, translation

if TYPE_CHECKING:
    import SimpleITK

BINS = 32
"""Number of intensity bins."""
MOST_POINTS = 5_000


@dataclass(frozen=True, eq=False)
class Fit:
    """Two images to compare under many maps.

    Attributes
    ----------
    points_mm
        (N, 3) points of the fixed image, RAS+.
    fixed
        (N,) bins of the fixed image at these points.
    moving
        (X, Y, Z) bins of the moving image.
    world_to_voxel
        (4, 4) affine of the moving image.
    """

    points_mm: NDArray[np.float64]
    fixed: NDArray[np.int64]
    moving: NDArray[np.float32]
    world_to_voxel: Affine

    @cached_property
    def centre_mm(self) -> NDArray[np.float64]:
        """(3,) mean of the points."""
        return self.points_mm.mean(0)

    def covered(self, matrix: Matrix) -> float:
        """Share of the points inside the moving image's field of view."""
        at = self._voxels(matrix)
        limits = np.array(self.moving.shape)[:, None] - 0.5
        return float(((at > -0.5) & (at < limits)).all(0).mean())

    def __call__(self, matrix: Matrix) -> float:
        """Normalised mutual information, from 1 (none) to 2 (identical images).

        Studholme et al., "An overlap invariant entropy measure of 3D medical image alignment",
        1999.
        """
        values = ndimage.map_coordinates(self.moving, self._voxels(matrix), order=1, cval=0.0)
        moved = np.clip(np.rint(values), 0, BINS - 1).astype(np.int64)
        joint = np.bincount(self.fixed * BINS + moved, minlength=BINS**2).reshape(BINS, BINS)
        both = _entropy(joint)
        return (_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / both if both > 0 else 1.0

    def contrast(self, matrix: Matrix) -> float:
        """:meth:`prominence` as a share of the similarity above 1."""
        return self.prominence(matrix) / max(self(matrix) - 1, 1e-6)

    def prominence(self, matrix: Matrix) -> float:
        """The loss of similarity if the head is moved by 10 mm or rotated by 10 degrees.

        The smallest loss among twelve such moves. It is 0 or less if the map is not even a local
        optimum.
        """
        moves = [translation(move) for axis in np.eye(3) for move in (10 * axis, -10 * axis)]
        for angles in (step * axis for axis in np.eye(3) for step in (10, -10)):
            moves.append(about(self.centre_mm, rotation(*angles)))
        return self(matrix) - max(self(matrix @ move) for move in moves)

    def climb(self, start: Matrix, *, scales: bool = False) -> Matrix:
        """The map of the nearest optimum, by Powell's method.

        It searches along whole lines and so passes small local optima that stop a gradient method.

        Parameters
        ----------
        start
            Where to begin.
        scales
            Also change the scale along each of the fixed image's axes. Without it the map changes
            rigidly.
        """

        from scipy import optimize  # a third of a second, which prediction need not wait for

        def moved(move: NDArray[np.float64]) -> Matrix:
            linear = rotation(*move[3:6])
            if scales:
                linear = linear @ np.diag([*np.exp(move[6:]), 1.0])
            return start @ translation(move[:3]) @ about(self.centre_mm, linear)

        steps = [8.0] * 3 + [6.0] * 3 + [0.1] * 3 * scales
        # Scales are logarithms, and their optimum is flatter.
        tolerances = {"xtol": 0.02, "ftol": 1e-5} if scales else {"xtol": 0.05, "ftol": 1e-4}
        found = optimize.minimize(
            lambda move: -self(moved(move)),
            np.zeros(len(steps)),
            method="Powell",
            options={"direc": np.diag(steps), **tolerances},
        )
        return moved(found.x)

    def best(self, starts: Iterable[Matrix], count: int) -> list[Matrix]:
        """The ``count`` best-fitting maps, best first."""
        ranked = sorted(((self(start), i, start) for i, start in enumerate(starts)), reverse=True)
        return [start for _, _, start in ranked[:count]]

    def _voxels(self, matrix: Matrix) -> NDArray[np.float64]:
        return apply_affine(self.world_to_voxel @ matrix, self.points_mm).T


def make_fit(fixed: SimpleITK.Image, region: NDArray[np.bool_], moving: SimpleITK.Image) -> Fit:
    """Prepare a comparison of ``moving`` with a region (X, Y, Z) of ``fixed``, both from
    ``coarse``."""
    values, affine = sitk_array(fixed), affine_of(fixed)
    indices = np.argwhere(region)
    indices = indices[:: max(1, len(indices) // MOST_POINTS)]
    chosen = values[tuple(indices.T)]
    moving_values = sitk_array(moving)
    inside = moving_values[moving_values > 0]
    return Fit(
        points_mm=apply_affine(affine, indices),
        fixed=np.rint(_binned(chosen, chosen)).astype(np.int64),
        moving=_binned(moving_values, inside if inside.size else moving_values),
        world_to_voxel=inverse(affine_of(moving)),
    )


def starts_around(
    fit: Fit,
    moving_centre_mm: NDArray[np.float64],
    *,
    angles: Sequence[Sequence[float]],
    shifts_mm: Sequence[Sequence[float]],
) -> list[Matrix]:
    """Rigid maps that take the points' centre to the moving image's, turned and shifted.

    Parameters
    ----------
    angles
        Values of pitch, roll and yaw to try, in degrees.
    shifts_mm
        Distances from the moving centre to try along each of x, y and z.
    """
    onto = translation(moving_centre_mm - fit.centre_mm)
    return [
        translation(shift) @ onto @ about(fit.centre_mm, rotation(*turn))
        for turn in product(*angles)
        for shift in product(*shifts_mm)
    ]


def starts_turned(
    fit: Fit, moving_centre_mm: NDArray[np.float64], *, shifts_mm: Sequence[Sequence[float]]
) -> list[Matrix]:
    """Like :func:`starts_around`, in the 23 other orientations of a cube."""
    onto = translation(moving_centre_mm - fit.centre_mm)
    cube = {
        tuple(rotation(*turn).round().astype(int).ravel())
        for turn in product((0, 90, 180, 270), repeat=3)
    }
    turns = [np.array(turn, np.float64).reshape(4, 4) for turn in sorted(cube)]
    # The neck turns with the head, so the shift to the brain's centre turns too.
    return [
        onto @ about(fit.centre_mm, turn) @ translation(shift)
        for turn in turns
        if not np.array_equal(turn, np.eye(4))
        for shift in product(*shifts_mm)
    ]


def affine_of(image: SimpleITK.Image) -> Affine:
    """The affine from voxels to RAS+ mm."""
    direction = np.array(image.GetDirection()).reshape(3, 3)
    lps = from_matvec(direction * np.array(image.GetSpacing()), image.GetOrigin())
    return np.asarray(RAS_TO_LPS @ lps, np.float64)


def _binned(values: NDArray[np.float32], of: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale to [0, 31], from 0 or the first percentile to the 99.5th."""
    low, high = np.percentile(of, (1, 99.5))
    low = min(low, 0.0)
    scaled = (values - low) / max(float(high - low), 1e-6) * (BINS - 1)
    return np.clip(scaled, 0, BINS - 1).astype(np.float32)


def _entropy(counts: NDArray[np.int64]) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
