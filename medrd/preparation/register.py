"""Rigid and affine registration: many starts, few optimisations, coarse before fine.

SimpleITK's registration framework (Yaniv et al. 2018) maximises mutual information (Mattes et al.
2003), which does not require images of the same contrast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from medrd.images.geometry import RAS_TO_LPS
from medrd.images.sitk import sitk_array
from medrd.preparation.linear import Matrix, about, from_itk, to_itk
from medrd.preparation.sample import coarse
from medrd.preparation.similarity import (
    BINS,
    Fit,
    affine_of,
    make_fit,
    starts_around,
    starts_turned,
)

if TYPE_CHECKING:
    import SimpleITK

Freedom = Literal["rigid", "affine"]

COARSE_MM, FINE_MM = 4.0, 2.0
_FINALISTS, _FINALISTS_TURNED = 4, 2
FINE_SHARE = 0.3
"""Share of the fine image's voxels sampled in each step."""
_SEED = 1

SCALES_IN_PLANE, SCALES_ACROSS = (0.9, 1.02, 1.15), (0.8, 0.93, 1.07, 1.22)
"""Scales to start from, from the template to the scan, for heads whose voxel size is wrong by up to
a fifth along each axis: in the slices' plane (most often of one voxel size) and across it."""
_PER_SCALE, _SCALED, _SCALED_AGAIN = 2, 5, 2
_RESCALED = ((0.9, 0.9, 1.0), (0.9, 1.0, 1.0), (1.0, 0.9, 1.0), (1.0, 1.0, 0.9))


@dataclass(frozen=True, eq=False)
class Registration:
    """The map that was found, and how well it fits.

    Attributes
    ----------
    matrix
        The map from fixed world to moving world, RAS+ mm.
    similarity, contrast, covered
        Figures of :class:`medrd.preparation.similarity.Fit`, at 4 mm.
    """

    matrix: Matrix
    similarity: float
    contrast: float
    covered: float

    @property
    def prominence(self) -> float:
        """:meth:`medrd.preparation.similarity.Fit.prominence` of the map."""
        return self.contrast * (self.similarity - 1)


def register(
    fixed: SimpleITK.Image,
    region: SimpleITK.Image,
    moving: SimpleITK.Image,
    *,
    freedom: Freedom,
    angles: Sequence[Sequence[float]],
    shifts_mm: Sequence[Sequence[float]],
    starts: Sequence[Matrix] = (),
    turns: bool = False,
) -> Registration:
    """Register ``moving`` to the region of ``fixed``.

    Parameters
    ----------
    fixed, region, moving
        Images with their geometry; the fit is evaluated where the region is nonzero.
    freedom
        ``rigid``, or ``affine`` after a rigid stage.
    angles, shifts_mm
        Start positions around the moving image's centre of mass; see :func:`starts_around`.
    starts
        Further start positions.
    turns
        Also start from every orientation that a wrong header may give: upside down, back to
        front, with axes exchanged.
    """
    fixed_4, moving_4 = coarse(fixed, COARSE_MM), coarse(moving, COARSE_MM)
    mask_4 = _as_mask(region, fixed_4)
    fit = make_fit(fixed_4, sitk_array(mask_4) > 0, moving_4)
    middle_mm = centre_of_mass_mm(moving_4)
    around = starts_around(fit, middle_mm, angles=angles, shifts_mm=shifts_mm)
    turned = starts_turned(fit, middle_mm, shifts_mm=shifts_mm) if turns else []
    # Turned starts are ranked separately, so that the upright ones do not crowd them out.
    finalists = fit.best([*starts, *around], _FINALISTS) + fit.best(turned, _FINALISTS_TURNED)
    matrix = fit.best([fit.climb(start) for start in finalists], 1)[0]
    if freedom == "affine":
        matrix = _optimise(fixed_4, mask_4, moving_4, matrix, "affine", fit.centre_mm)
    fixed_2, moving_2 = coarse(fixed, FINE_MM), coarse(moving, FINE_MM)
    matrix = _optimise(
        fixed_2,
        _as_mask(region, fixed_2),
        moving_2,
        matrix,
        freedom,
        fit.centre_mm,
        share=FINE_SHARE,
    )
    return registration(fit, matrix)


def register_scaled(
    fixed: SimpleITK.Image,
    region: SimpleITK.Image,
    moving: SimpleITK.Image,
    *,
    angles: Sequence[Sequence[float]],
    shifts_mm: Sequence[Sequence[float]],
) -> Registration:
    """Register a head affinely whose voxel size may be wrong, differently along each axis.

    A wrong scale hides the right position, so positions are tried at each of several scales, and
    the best of each are optimised before scales compete. The similarity of wrong positions comes
    close to that of the right one, but it hardly falls around them: the result is therefore the
    optimum of the greatest prominence. It takes about three times as long as :func:`register`,
    whose parameters are the same.
    """
    fixed_4, moving_4 = coarse(fixed, COARSE_MM), coarse(moving, COARSE_MM)
    fit = make_fit(fixed_4, sitk_array(_as_mask(region, fixed_4)) > 0, moving_4)
    around = starts_around(fit, centre_of_mass_mm(moving_4), angles=angles, shifts_mm=shifts_mm)

    def scaled(matrix: Matrix, *factors: float) -> Matrix:
        return matrix @ about(fit.centre_mm, np.diag([*factors, 1.0]))

    climbed = []
    for in_plane, across in product(SCALES_IN_PLANE, SCALES_ACROSS):
        starts = [scaled(start, in_plane, in_plane, across) for start in around]
        climbed += [fit.climb(start) for start in fit.best(starts, _PER_SCALE)]
    found = [fit.climb(matrix, scales=True) for matrix in fit.best(climbed, _SCALED)]
    found.sort(key=fit.prominence, reverse=True)
    again = product(found[:_SCALED_AGAIN], _RESCALED)
    found += [fit.climb(scaled(matrix, *factors), scales=True) for matrix, factors in again]
    matrix = max(found, key=fit.prominence)
    fixed_2 = coarse(fixed, FINE_MM)
    fine = _optimise(
        fixed_2,
        _as_mask(region, fixed_2),
        coarse(moving, FINE_MM),
        matrix,
        "affine",
        fit.centre_mm,
        share=FINE_SHARE,
    )
    # The optimiser's own measure ignores what it moves out of the field of view.
    return registration(fit, max(matrix, fine, key=fit.prominence))


def registration(fit: Fit, matrix: Matrix) -> Registration:
    """A transform with its quality figures."""
    return Registration(matrix, fit(matrix), fit.contrast(matrix), fit.covered(matrix))


def centre_of_mass_mm(image: SimpleITK.Image) -> NDArray[np.float64]:
    """Centre of mass of the brighter half of an image, (3,) RAS+ mm, which excludes background."""
    values = sitk_array(image)
    return apply_affine(affine_of(image), np.argwhere(values > values.mean()).mean(0))


def _optimise(
    fixed: SimpleITK.Image,
    mask: SimpleITK.Image,
    moving: SimpleITK.Image,
    start: Matrix,
    freedom: Freedom,
    centre_mm: NDArray[np.float64],
    *,
    share: float = 1.0,
) -> Matrix:
    """The nearest optimum, or the start itself if the optimiser fails there."""
    import SimpleITK

    centre = (RAS_TO_LPS[:3, :3] @ centre_mm).tolist()
    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(mask)
    if share < 1:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(share, _SEED)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=0.005, numberOfIterations=150, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    # The optimiser's parameters are relative to the start and about the region's centre, which
    # makes rotations and shifts as independent as possible.
    move: Any = (  # SimpleITK annotates only its constructors
        SimpleITK.Euler3DTransform() if freedom == "rigid" else SimpleITK.AffineTransform(3)
    )
    move.SetCenter(centre)
    method.SetInitialTransform(move, inPlace=True)
    method.SetMovingInitialTransform(to_itk(start))
    try:
        method.Execute(fixed, moving)
    except RuntimeError:  # all samples are outside the moving image: no optimum from here
        return start
    return start @ from_itk(move)


def _as_mask(region: SimpleITK.Image, like: SimpleITK.Image) -> SimpleITK.Image:
    import SimpleITK

    return SimpleITK.Resample(
        region, like, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, 0, SimpleITK.sitkUInt8
    )
