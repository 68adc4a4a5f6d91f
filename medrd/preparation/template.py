"""The template brain that heads are registered to, and the grid of prepared scans.

BraTS's scans lie in the space of SRI24 (Rohlfing et al. 2010), which needs a download. The default
template is therefore MNI152 (ICBM 2009a, Fonov et al. 2011), which comes with nilearn's wheel. A
grid like BraTS's is placed over it as BraTS's lies over brains.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medrd.errors import ConfigError, EmptyBrainError
from medrd.images.box import fill_holes
from medrd.images.geometry import Affine, Shape3
from medrd.images.nifti import read_nifti
from medrd.images.sitk import to_sitk
from medrd.images.volume import Volume, check_same_grid, volume_from_array
from medrd.preparation.brain import LEAST_ML, MOST_ML
from medrd.preparation.linear import Matrix, about, inverse, rotation, translation
from medrd.preparation.sample import centres_mm

if TYPE_CHECKING:
    import SimpleITK

BRATS_SHAPE: Shape3 = (240, 240, 155)
BRATS_AFFINE: Affine = np.array(
    [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]], np.float64
)
"""Voxels of 1 mm with axes to the left, posterior and superior."""

# The pose of BraTS's brains on their grid relative to MNI152: the mean of six of its subjects
# (their standard deviations: 0.5, 2.1 and 2.9 mm, 1.2 and 1.0 degrees).
_BRATS_CENTRE_MM = np.array([-118.3, 103.6, 72.8])
_BRATS_PITCH, _BRATS_YAW = 14.9, 1.7


@dataclass(frozen=True, eq=False)
class Template:
    """A T1-weighted brain, and the grid of prepared scans relative to it.

    Attributes
    ----------
    name
        Name for the record.
    image
        T1-weighted image, with or without skull.
    brain
        (X, Y, Z) bool on the image's grid.
    shape, affine
        The grid of prepared scans, with its affine to RAS+ mm of the prepared world.
    pose
        (4, 4) rigid map from the prepared world to the template's.
    """

    name: str
    image: Volume
    brain: NDArray[np.bool_]
    shape: Shape3
    affine: Affine
    pose: Matrix

    @cached_property
    def hash(self) -> str:
        """SHA-256 over everything that prepared scans depend on."""
        result = hashlib.sha256()
        for part in (self.image.array, self.image.affine, self.brain, self.affine, self.pose):
            result.update(np.ascontiguousarray(part).data)
        result.update(repr(self.shape).encode())
        return result.hexdigest()

    @cached_property
    def centre_mm(self) -> NDArray[np.float64]:
        """(3,) the brain's centre of mass, in the template's world."""
        return centres_mm(self.brain, self.image.affine).mean(0)

    @cached_property
    def stripped(self) -> SimpleITK.Image:
        """The image, set to 0 outside the brain."""
        return to_sitk(
            volume_from_array(np.where(self.brain, self.image.array, 0), self.image.affine)
        )

    def region(self, margin_mm: float = 0.0) -> SimpleITK.Image:
        """Mask of the brain with a margin, as an image of 0 and 1."""
        inside = self.brain
        if margin_mm:
            distance = ndimage.distance_transform_edt(~self.brain, sampling=self.image.spacing_mm)
            inside = distance <= margin_mm
        return to_sitk(volume_from_array(inside, self.image.affine))


def load_template(image: Path | None = None, mask: Path | None = None) -> Template:
    """Load a template from files, or the installed one (about 5 s).

    A template of BraTS's shape (SRI24, or one of BraTS's scans) provides the grid itself; for any
    other, a grid like BraTS's is placed over it.

    Parameters
    ----------
    image
        T1-weighted NIfTI file.
    mask
        Mask of its brain. Without a mask, the image must be skull-stripped.

    Raises
    ------
    ConfigError
        A mask is given without an image.
    InputError
        A file cannot be read, the grids differ, or the mask does not have the size of a brain.
    """
    if image is None:
        if mask is not None:
            raise ConfigError(
                "--template-mask",
                expected="the template of this mask",
                found="none",
                remedy="Give --template too.",
            )
        return _installed()
    volume = read_nifti(image)
    if mask is None:
        brain = fill_holes(volume.array > 0)
    else:
        label = read_nifti(mask)
        check_same_grid({"template": volume, "its mask": label})
        brain = label.array > 0
    if not brain.any():
        raise EmptyBrainError(
            mask or image,
            expected="the template's brain",
            found="nothing above 0",
            remedy="Give another --template or --template-mask.",
        )
    ml = np.count_nonzero(brain) * volume.voxel_volume_mm3 / 1000
    if not LEAST_ML <= ml <= MOST_ML:
        raise EmptyBrainError(
            mask or image,
            expected=f"the template's brain, of {LEAST_ML:.0f} to {MOST_ML:.0f} ml",
            found=f"{ml:.0f} ml" + (" above 0: a head with its skull?" if mask is None else ""),
            remedy="Give its brain mask as --template-mask, or a skull-stripped template.",
        )
    if volume.shape == BRATS_SHAPE and np.allclose(volume.spacing_mm, 1, atol=1e-3):
        return Template(image.name, volume, brain, volume.shape, volume.affine, np.eye(4))
    centre_mm = centres_mm(brain, volume.affine).mean(0)
    pose = translation(centre_mm - _BRATS_CENTRE_MM)
    return Template(image.name, volume, brain, BRATS_SHAPE, BRATS_AFFINE, pose)


def _installed() -> Template:
    from nilearn.datasets import (  # importing it takes four seconds
        load_mni152_brain_mask,
        load_mni152_template,
    )

    image, mask = load_mni152_template(resolution=1), load_mni152_brain_mask(resolution=1)
    volume = volume_from_array(np.asarray(image.dataobj), image.affine)
    brain = np.asarray(mask.dataobj) > 0
    centre_mm = centres_mm(brain, volume.affine).mean(0)
    turn = inverse(rotation(_BRATS_PITCH, 0, _BRATS_YAW))
    pose = about(centre_mm, turn) @ translation(centre_mm - _BRATS_CENTRE_MM)
    return Template("MNI152 (ICBM 2009a symmetric)", volume, brain, BRATS_SHAPE, BRATS_AFFINE, pose)
