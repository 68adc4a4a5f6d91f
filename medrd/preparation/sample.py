"""Resample images onto other grids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from medrd.images.geometry import Affine, Shape3
from medrd.images.sitk import sitk_array, to_sitk
from medrd.images.volume import Volume, volume_from_array
from medrd.preparation.linear import Matrix, to_itk

if TYPE_CHECKING:
    import SimpleITK


def resample(
    image: SimpleITK.Image, shape: Shape3, affine: Affine, matrix: Matrix, *, order: int = 1
) -> Volume:
    """Resample an image onto another grid; 0 outside its own field.

    Parameters
    ----------
    image
        From :func:`medrd.images.sitk.to_sitk`.
    shape, affine
        The grid: (X, Y, Z), and the affine from voxels to RAS+ mm.
    matrix
        The map from that grid's world to the image's.
    order
        0 nearest, 1 linear, 3 cubic B-spline.
    """
    import SimpleITK

    kinds = {
        0: SimpleITK.sitkNearestNeighbor,
        1: SimpleITK.sitkLinear,
        3: SimpleITK.sitkBSpline,
    }
    frame = volume_from_array(np.zeros(shape, np.float32), affine)
    result = SimpleITK.Resample(image, to_sitk(frame), to_itk(matrix), kinds[order], 0.0)
    return volume_from_array(sitk_array(result), affine)


def coarse(image: SimpleITK.Image, spacing_mm: float) -> SimpleITK.Image:
    """Resample to isotropic voxels, smoothed first to avoid aliasing."""
    import SimpleITK

    for axis, edge in enumerate(image.GetSpacing()):
        if edge < spacing_mm:
            gauss = SimpleITK.RecursiveGaussianImageFilter()
            gauss.SetDirection(axis)
            gauss.SetSigma((spacing_mm**2 - edge**2) ** 0.5 / 2)
            image = gauss.Execute(image)
    edges = np.array(image.GetSpacing())
    size = np.maximum(1, np.round(np.array(image.GetSize()) * edges / spacing_mm)).astype(int)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    corner = np.array(image.GetOrigin()) - direction @ edges / 2
    return SimpleITK.Resample(
        image,
        size.tolist(),
        SimpleITK.Transform(),
        SimpleITK.sitkLinear,
        (corner + direction @ np.full(3, spacing_mm / 2)).tolist(),
        [spacing_mm] * 3,
        image.GetDirection(),
        0.0,
        SimpleITK.sitkFloat32,
    )


def centres_mm(mask: NDArray[np.bool_], affine: Affine) -> NDArray[np.float64]:
    """Centres of the voxels of a mask (X, Y, Z): (N, 3) RAS+ mm."""
    return apply_affine(affine, np.argwhere(mask))
