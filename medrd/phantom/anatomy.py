"""A phantom's brain: the MNI152 tissue maps, deformed into one person's head.

The maps come with nilearn's wheel (ICBM 2009a symmetric, Fonov et al. 2011), so nothing is
downloaded. Coordinates: *voxels* are those of the BraTS grid
(240 x 240 x 155, 1 mm, LPS), *MNI* coordinates are millimetres, RAS.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medrd.images.box import bounding_box
from medrd.phantom.fields import FloatArray, evaluate_spline, knots, random_field

GRID = (240, 240, 155)
# Every phantom's brain lies within this part of the grid; only this part is computed.
_HEAD_BOX = (slice(35, 204), slice(28, 230), slice(0, 152))
# Where the centre of the brain lies in BraTS volumes (mean of the masks' centroids), and
# where it lies in MNI space. BraTS heads are in SRI24 space, smaller than MNI's.
_CENTRE_VOXEL = np.array([118.0, 135.0, 72.0], np.float32)
_CENTRE_MNI = np.array([0.0, -22.0, 9.5], np.float32)
_MNI_MM_PER_VOXEL = np.array([-1.06, -1.075, 1.14], np.float32)
_MNI_ORIGIN_MM = np.array([-98.0, -134.0, -72.0], np.float32)


@dataclass(frozen=True)
class Variety:
    """How much heads differ: standard deviations, or (mean, standard deviation).

    Attributes
    ----------
    tilt_deg
        Rotations about the x, y and z axes.
    shift_mm
        Of the centre along them.
    size, proportions
        Of the scale of the whole head and of each axis.
    deformation
        Factor on the smooth deformations.
    widening_mm, lopsided_mm
        How far the ventricles' walls lie outwards, and how much more on one side.
    atrophy
        Width of the sulci, in the logit of their fraction.
    sharpness
        Range of the factor on the fractions' logits.
    edge_mm
        Range of the brain's edge after skull-stripping, inwards.
    """

    tilt_deg: tuple[float, float, float] = (3.0, 1.5, 1.5)
    shift_mm: tuple[float, float, float] = (1.0, 2.5, 2.0)
    size: float = 0.012
    proportions: float = 0.015
    deformation: float = 1.0
    widening_mm: tuple[float, float] = (1.2, 2.2)
    lopsided_mm: float = 0.0
    atrophy: tuple[float, float] = (0.5, 0.5)
    sharpness: tuple[float, float] = (1.8, 2.5)
    edge_mm: tuple[float, float] = (-0.5, 1.0)


ADULTS = Variety()
"""The heads of a cohort of adults in one space, as BraTS's are."""


@dataclass(frozen=True)
class Template:
    """The MNI152 maps.

    Attributes
    ----------
    grey, white
        (197, 233, 189) float32 tissue fractions, 1 mm.
    depth_mm
        (99, 117, 95) float32, distance to the brain's surface, negative outside; 2 mm.
    widening
        (3, 99, 117, 95) float32, unitless direction towards the ventricles; 2 mm.
    """

    grey: FloatArray
    white: FloatArray
    depth_mm: FloatArray
    widening: FloatArray


@dataclass(frozen=True)
class Head:
    """The position of one person's brain, and the MNI coordinates of its voxels.

    Attributes
    ----------
    box
        The brain's bounding box in the BraTS grid.
    mask
        (x, y, z) bool, the brain inside the box; its n True voxels, in C order, form the last
        axis of every flat array.
    voxels
        (3, n) float32, indices into the BraTS grid.
    mni_mm
        (3, n) float32, MNI coordinates of the voxels.
    depth_mm
        (n,) float32, distance to the brain's surface in MNI millimetres.
    voxel_mm
        Side of a voxel of the grid that box and voxels count.
    """

    box: tuple[slice, slice, slice]
    mask: NDArray[np.bool_]
    voxels: FloatArray
    mni_mm: FloatArray
    depth_mm: FloatArray
    voxel_mm: float = 1.0

    def volume(self, flat: FloatArray, outside: float = 0.0) -> FloatArray:
        """Put an (n,) array back into the box."""
        volume = np.full(self.mask.shape, outside, np.float32)
        volume[self.mask] = flat
        return volume

    def field(self, rng: np.random.Generator, spacing_mm: float) -> FloatArray:
        """A smooth random field of unit variance at the brain's voxels, (n,)."""
        field: FloatArray = random_field(rng, self.mask.shape, spacing_mm / self.voxel_mm)[
            self.mask
        ]
        return field


@dataclass(frozen=True)
class Tissues:
    """Tissue fractions at the brain's voxels, each (n,) float32; they sum to one."""

    grey: FloatArray
    white: FloatArray
    csf: FloatArray


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Read the maps from nilearn's wheel and derive the coarse ones (about 5 s, once)."""
    from nilearn.datasets import (  # four seconds that `import medrd` must not cost
        load_mni152_brain_mask,
        load_mni152_gm_template,
        load_mni152_wm_template,
    )
    from scipy import ndimage

    def voxels(image: object) -> FloatArray:
        return np.asarray(image.dataobj, dtype=np.float32)  # type: ignore[attr-defined]

    grey = voxels(load_mni152_gm_template(resolution=1))
    white = voxels(load_mni152_wm_template(resolution=1))
    brain = voxels(load_mni152_brain_mask(resolution=1))[::2, ::2, ::2] > 0
    depth = ndimage.distance_transform_edt(brain) - ndimage.distance_transform_edt(~brain)
    depth_mm = (2 * depth).astype(np.float32)
    csf = np.clip(1 - grey - white, 0, 1)[::2, ::2, ::2]
    ventricles = ndimage.gaussian_filter(csf * (depth_mm > 30), 2.0)
    widening = np.stack(np.gradient(ventricles))
    widening /= np.linalg.norm(widening, axis=0).max()
    return Template(grey, white, depth_mm, widening.astype(np.float32))


def sample_map(values: FloatArray, mni_mm: FloatArray, spacing_mm: float = 1.0) -> FloatArray:
    """Linear interpolation of a template map at MNI coordinates, (3, ...) -> (...)."""
    from scipy import ndimage

    origin = _MNI_ORIGIN_MM.reshape(3, *[1] * (mni_mm.ndim - 1))
    at = (mni_mm - origin) / np.float32(spacing_mm)
    sampled: FloatArray = ndimage.map_coordinates(
        values, at, output=np.float32, order=1, mode="nearest"
    )
    return sampled


def make_head(
    rng: np.random.Generator,
    template: Template,
    variety: Variety = ADULTS,
    *,
    voxel_mm: float = 1.0,
) -> Head:
    """Deform the template into one person's head.

    Parameters
    ----------
    rng
        Draws pose, size, ventricle width and deformation.
    template
        From :func:`load_template`.
    voxel_mm
        Side of the voxels; the grid covers the same space as BraTS's.
    """
    start = np.array([side.start for side in _HEAD_BOX]) / voxel_mm
    stop = np.array([side.stop for side in _HEAD_BOX]) / voxel_mm
    frame = tuple(
        slice(int(a), int(b)) for a, b in zip(np.floor(start), np.ceil(stop), strict=True)
    )
    mni_mm = _deformed_coordinates(rng, template, variety, frame, voxel_mm)
    depth_mm = sample_map(template.depth_mm, mni_mm, spacing_mm=2.0)
    # A skull-stripper's edge is not smooth: it removes a little cortex here and leaves a
    # little dura there.
    edge_mm = 0.6 * random_field(rng, depth_mm.shape, 6 / voxel_mm) + 0.7 * random_field(
        rng, depth_mm.shape, 14 / voxel_mm
    )
    inside = depth_mm + edge_mm > rng.uniform(*variety.edge_mm)
    inside = _largest_part(inside)
    tight = bounding_box(inside)
    mask = inside[tight]
    box = tuple(
        slice(whole.start + part.start, whole.start + part.stop)
        for whole, part in zip(frame, tight, strict=True)
    )
    corner = np.array([[side.start] for side in box], np.float32)
    voxels = np.stack(np.nonzero(mask)).astype(np.float32) + corner
    flat_mni = np.stack([axis[tight][mask] for axis in mni_mm])
    whole = (box[0], box[1], box[2])
    return Head(whole, mask, voxels, flat_mni, depth_mm[tight][mask], voxel_mm)


def make_tissues(
    rng: np.random.Generator,
    template: Template,
    head: Head,
    mni_mm: FloatArray,
    variety: Variety = ADULTS,
) -> Tissues:
    """Tissue fractions of one person.

    The template is a mean of 152 brains and its cortex is blurred. Sharpening the
    fractions' logits restores thin sulci and gyri, and noise in them moves the borders,
    so that no two people fold alike.

    Parameters
    ----------
    mni_mm
        (3, n) the MNI coordinates that each voxel's tissue comes from: the head's own, shifted
        where a lesion has displaced tissue.
    """
    grey = sample_map(template.grey, mni_mm)
    white = sample_map(template.white, mni_mm)
    csf = np.clip(1 - grey - white, 0, 1)
    sharpness = np.float32(rng.uniform(*variety.sharpness))
    atrophy = np.float32(rng.normal(*variety.atrophy))
    # Deep nuclei are mixed tissue in every brain, not only in the mean of many.
    cortical = np.clip((34 - head.depth_mm) / 10, 0.25, 1)
    folds = head.field(rng, 3.5) * cortical
    widths = head.field(rng, 9.0) * cortical
    # The field is zero on sheets: inside cortex these are the sulci that the mean has lost.
    sheets = np.exp(-((head.field(rng, 6.0) / 0.28) ** 2)) * cortical
    surface = np.clip((4 - head.depth_mm) / 4, 0, 1)
    noise = (
        np.float32(0),
        0.6 * folds + 0.5 * widths,
        -0.7 * folds + 0.3 * widths + 2.2 * sheets + surface + atrophy,
    )
    weights = [
        np.exp(sharpness * np.log(fraction + 0.02) + shift)
        for fraction, shift in zip((grey, white, csf), noise, strict=True)
    ]
    total = weights[0] + weights[1] + weights[2]
    return Tissues(*(weight / total for weight in weights))


def _deformed_coordinates(
    rng: np.random.Generator,
    template: Template,
    variety: Variety,
    frame: tuple[slice, ...],
    voxel_mm: float,
) -> FloatArray:
    """MNI coordinates, (3, X, Y, Z), of every voxel of the frame."""
    shape = tuple(side.stop - side.start for side in frame)
    spacing = 6.0  # mm; the grid of the finest deformation, on which all others are summed
    coarse = knots(shape, spacing / voxel_mm)
    # Knot i of a cubic B-spline lies at (i - 1) * spacing.
    places = [
        (np.arange(n, dtype=np.float32) - 1) * spacing + side.start * voxel_mm
        for n, side in zip(coarse, frame, strict=True)
    ]
    offsets = np.stack(np.meshgrid(*places, indexing="ij")) - _CENTRE_VOXEL.reshape(3, 1, 1, 1)
    offsets -= rng.normal(0, variety.shift_mm).astype(np.float32).reshape(3, 1, 1, 1)
    matrix = _pose(rng, variety) * _MNI_MM_PER_VOXEL
    position = np.einsum("ab,bxyz->axyz", matrix, offsets)
    for knots_apart, amplitude_mm in ((7.0, 2.6), (2.7, 1.3)):
        for axis in range(3):
            amplitude = amplitude_mm * variety.deformation
            position[axis] += amplitude * random_field(rng, coarse, knots_apart)
    # A random spline has a third of its coefficients' standard deviation.
    position += 3 * 0.7 * rng.standard_normal(position.shape, dtype=np.float32)
    position += _CENTRE_MNI.reshape(3, 1, 1, 1)
    # Sampling further in, towards the ventricles, makes them wider.
    widening_mm = rng.normal(*variety.widening_mm)
    if variety.lopsided_mm:
        more = rng.normal(0, variety.lopsided_mm)
        widening_mm = widening_mm + more * np.tanh(position[0] / 6)
    position += np.stack(
        [widening_mm * sample_map(axis, position, spacing_mm=2.0) for axis in template.widening]
    )
    return np.stack([evaluate_spline(axis, shape, spacing / voxel_mm) for axis in position])


def _pose(rng: np.random.Generator, variety: Variety) -> FloatArray:
    """A small rotation with random scales a few per cent from 1, (3, 3)."""
    a, b, c = np.radians(rng.normal(0, variety.tilt_deg))
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    about_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    rotation = np.array(about_x) @ np.array(about_y) @ np.array(about_z)
    size = rng.normal(1.0, variety.size) * rng.normal(1.0, variety.proportions, 3)
    matrix: FloatArray = (rotation / size).astype(np.float32)
    return matrix


def _largest_part(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected component."""
    from scipy import ndimage

    parts, count = ndimage.label(inside)
    if count > 1:
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        inside = parts == sizes.argmax()
    return inside
