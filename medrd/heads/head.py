"""A subject's raw scans -> the same on one grid, without skull."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medrd.errors import EmptyBrainError, WrongKindError
from medrd.heads.bias import around_head, correct_bias
from medrd.heads.brain import Extraction, deepbet_mask, filled, is_stripped, refine
from medrd.heads.linear import Matrix, apply, closest_rigid, inverse, translation
from medrd.heads.quality import Alignment, Quality, dice
from medrd.heads.register import Registration, register
from medrd.heads.sample import centres_mm, resample
from medrd.heads.template import Template
from medrd.volumes import Volume, bounding_box, sitk_array, to_sitk, volume_from_array

if TYPE_CHECKING:
    import SimpleITK

T1_WEIGHTED = ("t1", "t1ce")
_ORDER = (*T1_WEIGHTED, "t2", "flair")

_MARGIN_MM = 8.0
"""Around the template's brain, where a head without skull must be empty."""
_MASK_MM = 2.0
_MOST_NEGATIVE = 0.01
_FAINTEST = 1e-3
"""Of the brain's brightest percentile: no voxel of the brain may be 0, which means background."""

# Degrees of pitch, roll and yaw, and mm: where a head may lie in a scanner, and how far the
# centre of the brain is from that of a head with more or less of its neck.
_LYING = ((-30, -15, 0, 15, 30), (-15, 0, 15), (-15, 0, 15))
_HEAD_SHIFTS_MM = ((0,), (-20, 0, 20), (-20, 0, 20, 40, 60))
_BRAIN_SHIFTS_MM = ((0,), (0,), (0,))
# Within a session a head moves little.
_NODDING = ((-10, 0, 10),) * 3


@dataclass(frozen=True)
class Options:
    """What is done.

    Attributes
    ----------
    bias
        Correct each scan's bias field.
    stretch
        Also stretch the head to the template's size. BraTS's are not.
    extraction
        How the brain is found where the skull is still there.
    """

    bias: bool = True
    stretch: bool = False
    extraction: Extraction = Extraction.template


@dataclass(frozen=True, eq=False)
class PreparedHead:
    """A subject's scans on the template's grid.

    Attributes
    ----------
    volumes
        By modality; 0 outside the brain and nowhere in it, where the scan shows it.
    brain
        (X, Y, Z) bool.
    to_raw
        By modality: prepared world to the raw scan's, RAS+ mm.
    to_template
        Prepared world to the template's, affine.
    """

    volumes: Mapping[str, Volume]
    brain: NDArray[np.bool_]
    to_raw: Mapping[str, Matrix]
    to_template: Matrix
    quality: Quality


def choose_reference(volumes: Mapping[str, Volume]) -> str:
    """The modality that the others and the template are registered with.

    A T1-weighted one if there is any, as the template is; then the one with the finest slices.
    """

    def rank(channel: str) -> tuple[bool, float, int]:
        thickest_mm = round(max(volumes[channel].spacing_mm), 1)
        known = _ORDER.index(channel) if channel in _ORDER else len(_ORDER)
        return channel not in T1_WEIGHTED, thickest_mm, known

    return min(volumes, key=rank)


def prepare_head(
    volumes: Mapping[str, Volume], template: Template, options: Options
) -> PreparedHead:
    """Bring all modalities of a subject to the template.

    Whether the result may be used, its :attr:`~PreparedHead.quality` says. Every voxel is
    resampled once, by the product of all maps.

    Parameters
    ----------
    volumes
        Raw scans by modality, each on its own grid.

    Raises
    ------
    WrongKindError
        Values below 0: no MRI magnitude.
    AffineError
        A sheared grid.
    EmptyBrainError
        deepbet finds no brain.
    """
    for volume in volumes.values():
        _refuse_negative(volume)
    reference = choose_reference(volumes)
    images = {channel: to_sitk(volume) for channel, volume in volumes.items()}
    if options.bias:
        images = {channel: correct_bias(image) for channel, image in images.items()}
    method, mask = _raw_brain(volumes[reference], reference, options)
    coregistered = {
        channel: register(
            images[reference],
            around_head(images[reference]),
            image,
            freedom="rigid",
            angles=_NODDING,
            shifts_mm=_BRAIN_SHIFTS_MM,
            starts=[np.eye(4)],
        )
        for channel, image in images.items()
        if channel != reference
    }
    placed = _to_template(images[reference], mask, template)
    onto = placed.matrix
    if not options.stretch:
        onto = closest_rigid(onto, template.centre_mm)
    to_reference = onto @ template.pose
    to_template = inverse(placed.matrix) @ to_reference
    to_raw = {
        channel: (coregistered[channel].matrix if channel in coregistered else np.eye(4))
        @ to_reference
        for channel in volumes
    }
    prior = resample(template.region(), template.shape, template.affine, to_template).array > 0.5
    if mask is not None:
        brain = resample(to_sitk(mask), template.shape, template.affine, to_reference).array > 0.5
    elif reference in T1_WEIGHTED:
        brain = _refined(images[reference], template, to_reference, to_template)
    else:
        brain = prior
    prepared, covered = {}, {}
    for channel, image in images.items():
        prepared[channel], covered[channel] = _cut(
            image, volumes[channel], brain, template, to_raw[channel]
        )
    change = abs(float(np.linalg.det(to_reference[:3, :3])))
    quality = Quality(
        reference=reference,
        to_template=Alignment.of(placed),
        to_reference={c: Alignment.of(r) for c, r in coregistered.items()},
        brain=method,
        brain_ml=round(float(np.count_nonzero(brain)) * _voxel_ml(template) * change, 1),
        brain_dice=None if mask is None else round(dice(brain, prior), 4),
        covered=covered,
    )
    return PreparedHead(prepared, brain, to_raw, to_template, quality)


def _refuse_negative(volume: Volume) -> None:
    share = float(np.mean(volume.array < 0))
    if share > _MOST_NEGATIVE:
        raise WrongKindError(
            volume.path or "volume",
            expected="an MRI scan, whose values are not below 0",
            found=f"{share:.0%} of them below 0, as in CT or after another program's scaling",
            remedy="Give the scan as the scanner made it.",
        )


def _raw_brain(volume: Volume, reference: str, options: Options) -> tuple[str, Volume | None]:
    """How the brain was found and where it is on the raw grid, as far as it is known there."""
    if is_stripped(volume):
        mask = filled(volume.array != 0)
        return "stripped", volume_from_array(mask, volume.affine)
    if options.extraction is Extraction.template:
        return "template", None
    if reference not in T1_WEIGHTED:
        raise EmptyBrainError(
            volume.path or "volume",
            expected="a T1-weighted scan, which deepbet was made for",
            found=f"{reference} as the only kind of scan",
            remedy="Add the subject's T1, or leave --brain out.",
        )
    return "deepbet", volume_from_array(deepbet_mask(volume), volume.affine)


def _to_template(image: SimpleITK.Image, mask: Volume | None, template: Template) -> Registration:
    """Template world to the reference's, affine."""
    if mask is None:
        return register(
            template.stripped,
            template.region(),
            image,
            freedom="affine",
            angles=_LYING,
            shifts_mm=_HEAD_SHIFTS_MM,
            turns=True,
        )
    import SimpleITK

    inside = SimpleITK.Cast(to_sitk(mask) > 0.5, image.GetPixelID())
    return register(
        template.stripped,
        template.region(_MARGIN_MM),
        image * inside,
        freedom="affine",
        angles=_LYING,
        shifts_mm=_BRAIN_SHIFTS_MM,
        turns=True,
    )


def _refined(
    image: SimpleITK.Image, template: Template, to_reference: Matrix, to_template: Matrix
) -> NDArray[np.bool_]:
    """The template's brain, fitted to a head at 2 mm: finer costs eight times as much."""
    factor = _MASK_MM / abs(float(np.linalg.det(template.affine[:3, :3]))) ** (1 / 3)
    x, y, z = (max(1, round(n / factor)) for n in template.shape)
    affine = template.affine @ np.array(
        [[factor, 0, 0, (factor - 1) / 2], [0, factor, 0, (factor - 1) / 2],
         [0, 0, factor, (factor - 1) / 2], [0, 0, 0, 1]]
    )  # fmt: skip
    prior = resample(template.region(), (x, y, z), affine, to_template).array > 0.5
    if not prior.any():
        return np.zeros(template.shape, bool)
    values = resample(image, (x, y, z), affine, to_reference).array
    mask = volume_from_array(refine(values, prior, _MASK_MM), affine)
    fine = resample(to_sitk(mask), template.shape, template.affine, np.eye(4))
    result: NDArray[np.bool_] = fine.array > 0.5
    return result


def _cut(
    image: SimpleITK.Image,
    raw: Volume,
    brain: NDArray[np.bool_],
    template: Template,
    to_raw: Matrix,
) -> tuple[Volume, float]:
    """The brain of one modality on the template's grid, and the share of it that the scan shows."""
    at = apply(inverse(raw.affine) @ to_raw, centres_mm(brain, template.affine))
    seen = np.all((at > -0.5) & (at < np.array(raw.shape) - 0.5), axis=1)
    result = np.zeros(template.shape, np.float32)
    if seen.any():
        box = bounding_box(brain)
        corner = template.affine @ translation([part.start for part in box])
        x, y, z = (part.stop - part.start for part in box)
        values = resample(image, (x, y, z), corner, to_raw, order=3).array[brain[box]]
        # Splines overshoot at edges.
        most = float(sitk_array(image).max())
        faintest = _FAINTEST * float(np.percentile(values[seen], 99))
        faintest = max(faintest, float(np.finfo(np.float32).tiny))
        values = np.clip(values, faintest, max(most, faintest))
        result[brain] = np.where(seen, values, 0)
    share = round(float(seen.mean()), 4) if seen.size else 0.0
    return volume_from_array(result, template.affine, code=2), share


def _voxel_ml(template: Template) -> float:
    return abs(float(np.linalg.det(template.affine[:3, :3]))) / 1000
