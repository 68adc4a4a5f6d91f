"""Correction of the coils' bias field with N4."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medrd.preparation.sample import coarse

if TYPE_CHECKING:
    import SimpleITK

_COARSE_MM = 4.0
"""The field is smooth: finer voxels would cost time without adding information."""
_ITERATIONS = (50, 50, 30)


def head_mask(image: SimpleITK.Image) -> SimpleITK.Image:
    """Mask of everything but air, by Otsu's threshold, as 0 and 1."""
    import SimpleITK

    return SimpleITK.OtsuThreshold(image, 0, 1, 200)


def around_head(image: SimpleITK.Image) -> SimpleITK.Image:
    """Mask of the head with a margin of 8 mm, as 0 and 1 in voxels of 4 mm.

    The margin lets the head's outline count in comparisons of images.
    """
    import SimpleITK

    return SimpleITK.BinaryDilate(head_mask(coarse(image, _COARSE_MM)), [2, 2, 2])


def correct_bias(image: SimpleITK.Image) -> SimpleITK.Image:
    """Divide an image by its bias field.

    Tustison et al., "N4ITK: Improved N3 Bias Correction", IEEE TMI 2010.
    """
    import SimpleITK

    small = coarse(image, _COARSE_MM)
    # N4 takes logarithms.
    mask = SimpleITK.And(head_mask(small), SimpleITK.Cast(small > 0, SimpleITK.sitkUInt8))
    n4 = SimpleITK.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(_ITERATIONS)
    n4.Execute(small, mask)
    field = SimpleITK.Exp(n4.GetLogBiasFieldAsImage(image))
    return image / SimpleITK.Cast(field, image.GetPixelID())
