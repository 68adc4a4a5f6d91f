"""Conversion to and from SimpleITK; ITK never reads the geometry from a file itself.

ITK prefers the qform and nibabel the sform, so the two libraries would place a file whose
transforms differ differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medrd.errors import AffineError
from medrd.images.geometry import RAS_TO_LPS, is_sheared
from medrd.images.volume import Volume

if TYPE_CHECKING:
    import SimpleITK


def to_sitk(volume: Volume) -> SimpleITK.Image:
    """Copy a volume into a SimpleITK image with the affine in force.

    Returns
    -------
    SimpleITK.Image
        A float32 image of size (X, Y, Z) whose index-to-physical-point map is the volume's
        affine, converted from RAS+ to LPS+ mm.

    Raises
    ------
    AffineError
        If the voxel axes are not at right angles, as ITK's filters assume.
    """
    import SimpleITK  # heavy, and needed by few

    if is_sheared(volume.affine):
        raise AffineError(
            volume.path or "volume in memory",
            expected="voxel axes at right angles, which ITK needs",
            found="a sheared affine",
            remedy="Resample the scan onto a grid without shear first.",
        )
    spacing = np.asarray(volume.spacing_mm)
    lps = RAS_TO_LPS @ volume.affine
    image = SimpleITK.GetImageFromArray(volume.array.T)  # SimpleITK arrays are (Z, Y, X)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def sitk_array(image: SimpleITK.Image) -> NDArray[np.float32]:
    """A SimpleITK image's values as :class:`Volume` has them: (X, Y, Z) float32, a copy."""
    import SimpleITK

    return np.asarray(SimpleITK.GetArrayFromImage(image).T, np.float32)


@contextmanager
def quiet_sitk() -> Iterator[None]:
    """Suppress ITK's own warnings on the terminal."""
    import SimpleITK

    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)
