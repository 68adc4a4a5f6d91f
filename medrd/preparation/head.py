"""Bring a subject's raw scans onto one grid, without skull."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from medrd.errors import EmptyBrainError
from medrd.images.box import bounding_box
from medrd.images.sitk import quiet_sitk, sitk_array, to_sitk
from medrd.images.volume import Volume, volume_from_array
from medrd.preparation.bias import around_head, correct_bias
from medrd.preparation.brain import filled, is_stripped, refine
from medrd.preparation.check import checked, shown
from medrd.preparation.linear import Matrix, closest_rigid, inverse, translation
from medrd.preparation.options import PrepareOptions
from medrd.preparation.programs import find_extractor
from medrd.preparation.quality import (
    LEAST_CONTRAST,
    NOT_REFINED,
    STRIPPED,
    Alignment,
    Quality,
    dice,
    is_sized,
)
from medrd.preparation.register import Registration, register, register_scaled
from medrd.preparation.sample import centres_mm, resample
from medrd.preparation.template import Template

if TYPE_CHECKING:
    import SimpleITK

T1_WEIGHTED = ("t1", "t1ce")
_ORDER = (*T1_WEIGHTED, "t2", "flair")
_DARK_FLUID = (*T1_WEIGHTED, "flair")
"""Modalities in which skull and fluid are dark, so that a brain can be refined."""

_MARGIN_MM = 8.0
"""Margin around the template's brain beyond which a skull-stripped head must be empty."""
_MASK_MM = 2.0
_FAINTEST = 1e-3
"""Floor inside the brain, as a share of its brightest percentile: 0 would mean background."""

# Starts in degrees of pitch, roll and yaw, and in mm: possible positions of a head in a scanner,
# and the distance from the centre of the brain to that of a head with more or less of its neck.
_LYING = ((-30, -15, 0, 15, 30), (-15, 0, 15), (-15, 0, 15))
_LYING_STRAIGHT = ((-30, -15, 0, 15, 30), (0,), (-12, 0, 12))
_HEAD_SHIFTS_MM = ((0,), (-20, 0, 20), (-20, 0, 20, 40, 60))
_BRAIN_SHIFTS_MM = ((0,), (0,), (0,))
LEAST_PROMINENCE = 0.0055
"""Minimum prominence of registrations with free scales. Correct ones had 0.0066 and more, wrong
ones up to 0.0047 (docs/prepare.md)."""
# Within a session a head moves little.
_NODDING = ((-10, 0, 10),) * 3


@dataclass(frozen=True, eq=False)
class PreparedHead:
    """A subject's scans on the template's grid.

    Attributes
    ----------
    volumes
        Volumes by modality, with the raw scan's warnings; 0 outside the brain and where the scan
        has no data, nonzero elsewhere.
    brain
        (X, Y, Z) bool.
    to_raw
        By modality, the map from the prepared world to the raw scan's, RAS+ mm.
    to_template
        Affine map from the prepared world to the template's.
    """

    volumes: Mapping[str, Volume]
    brain: NDArray[np.bool_]
    to_raw: Mapping[str, Matrix]
    to_template: Matrix
    quality: Quality

    def warnings(self) -> list[str]:
        """Irregularities of the scans and of their preparation, one sentence each."""
        own = [
            f"{name}: {text}" for name, volume in self.volumes.items() for text in volume.warnings
        ]
        return own + self.quality.warnings()


@dataclass(frozen=True, eq=False)
class _Subject:
    """Scans on their own grids, their derived images, and the maps between them.

    Attributes
    ----------
    images
        The scans, with the bias corrected if requested.
    onto_others
        Maps from the reference's world to that of each other modality.
    """

    scans: Mapping[str, Volume]
    images: Mapping[str, SimpleITK.Image]
    reference: str
    onto_others: Mapping[str, Registration]


def choose_reference(volumes: Mapping[str, Volume]) -> str:
    """The modality to which the others and the template are registered.

    It is a T1-weighted one if there is any, like the template; otherwise the one with the finest
    slices.
    """

    def rank(channel: str) -> tuple[bool, float, int]:
        thickest_mm = round(max(volumes[channel].spacing_mm), 1)
        known = _ORDER.index(channel) if channel in _ORDER else len(_ORDER)
        return channel not in T1_WEIGHTED, thickest_mm, known

    return min(volumes, key=rank)


def prepare_head(
    volumes: Mapping[str, Volume], template: Template, options: PrepareOptions
) -> PreparedHead:
    """Bring all modalities of a subject to the template.

    The result's :attr:`~PreparedHead.quality` tells whether it may be used. Every voxel is
    resampled once, by the product of all maps.

    Parameters
    ----------
    volumes
        Raw scans by modality, each on its own grid.

    Raises
    ------
    WrongKindError
        Values are well below 0, so this is not an MR magnitude image.
    ShapeError
        A scan has too few slices.
    AffineError
        A grid is sheared.
    EmptyBrainError
        A scan is constant, or another program finds no brain.
    ExtractionError, GridMismatchError
        Another program fails, or its mask does not lie on the scan.
    ConfigError
        The program is unknown or not installed.
    """
    scans = {channel: checked(volume) for channel, volume in volumes.items()}
    reference = choose_reference(scans)
    with quiet_sitk():
        images = {channel: to_sitk(volume) for channel, volume in scans.items()}
        if options.bias:
            images = {channel: correct_bias(image) for channel, image in images.items()}
        onto_others = {
            channel: coregister(images[reference], image)
            for channel, image in images.items()
            if channel != reference
        }
        subject = _Subject(scans, images, reference, onto_others)
        method, mask = _raw_brain(scans, reference, options)
        head = place_on_template(subject, template, options, method, mask)
        if method == STRIPPED and head.quality.failures():
            # A small head in air of exactly 0 may look skull-stripped.
            method, mask = _brain_in_skull(scans, reference, options)
            again = place_on_template(subject, template, options, method, mask)
            head = head if again.quality.failures() else again
    return head


def coregister(reference: SimpleITK.Image, image: SimpleITK.Image) -> Registration:
    """Register a scan of the same session: the map from the reference's world to its own."""
    return register(
        reference,
        around_head(reference),
        image,
        freedom="rigid",
        angles=_NODDING,
        shifts_mm=_BRAIN_SHIFTS_MM,
        starts=[np.eye(4)],
        turns=True,
    )


def place_on_template(
    subject: _Subject, template: Template, options: PrepareOptions, method: str, mask: Volume | None
) -> PreparedHead:
    """Bring the subject, with its brain found by ``method``, to the template's position."""
    reference, others = subject.reference, subject.onto_others
    image = subject.images[reference]
    placed = _to_template(image, mask, template)
    alignment = Alignment.of(placed)
    # Without its own outline, a head of a wrong size could not be told from a wrong fit.
    resized = method not in (STRIPPED, NOT_REFINED) and not is_sized(alignment, _brain_ml(template))
    onto = placed.matrix
    if not options.stretch and not resized:
        onto = closest_rigid(onto, template.centre_mm)
    to_reference = onto @ template.pose
    to_template = inverse(placed.matrix) @ to_reference
    to_raw = {
        channel: (others[channel].matrix if channel in others else np.eye(4)) @ to_reference
        for channel in subject.scans
    }
    prior = resample(template.region(), template.shape, template.affine, to_template).array > 0.5
    if mask is not None:
        brain = resample(to_sitk(mask), template.shape, template.affine, to_reference).array > 0.5
    elif tissue := _shows_tissue(subject.scans, reference):
        brain = _refined(subject.images[tissue], template, to_raw[tissue], to_template)
    else:
        brain = prior
    prepared, covered = {}, {}
    for channel, scan in subject.scans.items():
        prepared[channel], covered[channel] = _cut(
            subject.images[channel], scan, brain, template, to_raw[channel]
        )
    change = abs(float(np.linalg.det(to_reference[:3, :3])))
    quality = Quality(
        reference=reference,
        to_template=alignment,
        to_reference={channel: Alignment.of(found) for channel, found in others.items()},
        brain=method,
        brain_ml=round(float(np.count_nonzero(brain)) * _voxel_ml(template) * change, 1),
        brain_dice=None if mask is None and not resized else round(dice(brain, prior), 4),
        covered=covered,
        resized=resized,
    )
    return PreparedHead(prepared, brain, to_raw, to_template, quality)


def _shows_tissue(scans: Mapping[str, Volume], reference: str) -> str | None:
    """The modality on which the brain is refined: the reference if possible, else the FLAIR."""
    return next((c for c in (reference, *_DARK_FLUID) if c in _DARK_FLUID and c in scans), None)


def _raw_brain(
    scans: Mapping[str, Volume], reference: str, options: PrepareOptions
) -> tuple[str, Volume | None]:
    """The method that found the brain, and its mask on the reference's grid if already known."""
    volume = scans[reference]
    if is_stripped(volume):
        mask = filled(volume.array != 0)
        return STRIPPED, volume_from_array(mask, volume.affine)
    return _brain_in_skull(scans, reference, options)


def _brain_in_skull(
    scans: Mapping[str, Volume], reference: str, options: PrepareOptions
) -> tuple[str, Volume | None]:
    """Like :func:`_raw_brain`, for a head with its skull."""
    volume = scans[reference]
    extractor = find_extractor(options.extraction)
    if extractor is None:
        return ("template" if _shows_tissue(scans, reference) else NOT_REFINED), None
    if extractor.needs_t1 and reference not in T1_WEIGHTED:
        raise EmptyBrainError(
            volume.path or "volume",
            expected=f"a T1-weighted scan, as {extractor.name} requires",
            found=f"{reference} as the only kind of scan",
            remedy="Add the subject's T1, or leave out --brain.",
        )
    return extractor.name, volume_from_array(extractor.mask(volume), volume.affine)


def _to_template(image: SimpleITK.Image, mask: Volume | None, template: Template) -> Registration:
    """Affine registration: the map from the template's world to the reference's.

    A head that is not found is tried again with free scales, as its voxel size may be wrong.
    """
    if mask is None:
        images = template.stripped, template.region(), image
        found = register(
            *images, freedom="affine", angles=_LYING, shifts_mm=_HEAD_SHIFTS_MM, turns=True
        )
        if found.contrast >= LEAST_CONTRAST:
            return found
        scaled = register_scaled(*images, angles=_LYING_STRAIGHT, shifts_mm=_HEAD_SHIFTS_MM)
        return scaled if scaled.prominence >= LEAST_PROMINENCE else found
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
    """Fit the template's brain to a head, at 2 mm: half of that would cost eight times as much."""
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
    """One modality's brain on the template's grid, and the share of it that the scan covers."""
    at = apply_affine(inverse(raw.affine) @ to_raw, centres_mm(brain, template.affine))
    nearest = np.rint(at).astype(np.int64)
    seen = np.all((nearest >= 0) & (nearest < raw.shape), axis=1)
    seen[seen] = shown(raw.array)[tuple(nearest[seen].T)]
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
    volume = volume_from_array(result, template.affine, code=2)
    return replace(volume, warnings=raw.warnings), share


def _brain_ml(template: Template) -> float:
    return np.count_nonzero(template.brain) * template.image.voxel_volume_mm3 / 1000


def _voxel_ml(template: Template) -> float:
    return abs(float(np.linalg.det(template.affine[:3, :3]))) / 1000
