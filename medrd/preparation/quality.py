"""Quality figures of a prepared head, and the rules that reject a failed one.

Later programs cannot notice a failed registration. Correct registrations of real heads satisfy
every rule here with a wide margin (docs/prepare.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.preparation.brain import LEAST_ML, MOST_ML
from medrd.preparation.linear import angle_degrees, scales
from medrd.preparation.register import Registration

LEAST_CONTRAST = 0.1
LEAST_DICE = 0.85
SCALES = (0.75, 1.3)
MOST_DEGREES = 60.0
LEAST_COVERED, WHOLE = 0.6, 0.98
LEAST_DICE_RESIZED = 0.9
MOST_UNEVEN = 1.25
"""Ratio of the largest to the smallest scale factor of a head whose voxel size may be right."""
STRIPPED, NOT_REFINED = "stripped", "template, not refined"
_LOST = "the registration failed"


@dataclass(frozen=True)
class Alignment:
    """Quality figures of one registration.

    Attributes
    ----------
    similarity
        Normalised mutual information, at least 1.
    contrast
        The smallest loss, as a share of the similarity above 1, when the head is moved by 10 mm
        or turned by 10 degrees.
    covered
        Share of the brain that lies in the scan's field of view.
    degrees
        Rotation of the head.
    scales
        Scale factors, largest first.
    """

    similarity: float
    contrast: float
    covered: float
    degrees: float
    scales: tuple[float, ...]

    @classmethod
    def of(cls, registration: Registration) -> Alignment:
        """The figures of a registration, rounded for the record."""
        matrix = registration.matrix
        return cls(
            similarity=round(registration.similarity, 4),
            contrast=round(registration.contrast, 3),
            covered=round(registration.covered, 3),
            degrees=round(angle_degrees(matrix), 2),
            scales=tuple(round(float(factor), 4) for factor in scales(matrix)),
        )


@dataclass(frozen=True)
class Quality:
    """All quality figures of a prepared head.

    Attributes
    ----------
    reference
        The modality that was registered to the template.
    to_template
        Figures of the reference's registration.
    to_reference
        Figures of the other modalities' registrations, by name.
    brain
        How the brain was found: ``stripped``, ``template``, ``template, not refined``, or the
        name of the program that found it.
    brain_ml
        Volume of the brain in the raw scan.
    brain_dice
        Dice of the brain and the affinely registered template's; None if derived from the latter,
        unless the head was resized.
    covered
        By modality, the share of the brain that the scan covers.
    resized
        Whether the head was scaled to the template's size, because the voxel size in its header
        gives an impossible brain.
    """

    reference: str
    to_template: Alignment
    to_reference: Mapping[str, Alignment]
    brain: str
    brain_ml: float
    brain_dice: float | None
    covered: Mapping[str, float]
    resized: bool = False

    def failures(self) -> list[str]:
        """Reasons not to use the result, a clause each; empty if it is usable."""
        found = [
            f"{self.reference} to template: {text}" for text in _affine_failures(self.to_template)
        ]
        for channel, alignment in self.to_reference.items():
            texts = _rigid_failures(alignment)
            found += [f"{channel} to {self.reference}: {text}" for text in texts]
        if not self.resized and not LEAST_ML <= self.brain_ml <= MOST_ML:
            found.append(
                f"a brain of {self.brain_ml:.0f} ml (brains have {LEAST_ML:.0f} to {MOST_ML:.0f})"
            )
        # The size of a resized head tells nothing, so its brain must match the template's better.
        least = LEAST_DICE_RESIZED if self.resized else LEAST_DICE
        if self.brain_dice is not None and self.brain_dice < least:
            found.append(
                f"brain and template overlap with a Dice of only {self.brain_dice:.2f} "
                f"(at least {least})"
            )
        for channel, share in self.covered.items():
            if share < LEAST_COVERED:
                found.append(f"{channel} shows only {share:.0%} of the brain")
        return found

    def warnings(self) -> list[str]:
        """Irregularities that do not prevent the result's use."""
        found = [
            f"{channel} shows {share:.0%} of the brain; the rest is 0 in it"
            for channel, share in self.covered.items()
            if LEAST_COVERED <= share < WHOLE
        ]
        if self.brain == NOT_REFINED:
            found.append(
                "the brain's outline is the template's, not refined: that needs a T1-weighted scan "
                "or a FLAIR"
            )
        if self.resized:
            factors = ", ".join(f"{factor:.2f}" for factor in self.to_template.scales)
            found.append(
                f"the header's voxel size seems wrong: it gives a brain of {self.brain_ml:.0f} ml, "
                f"whose lengths are {factors} times the template's; the head was scaled to the "
                "template's size"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return asdict(self)


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Overlap of two masks, 0 to 1."""
    both = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * float(np.count_nonzero(first & second)) / both if both else 0.0


def is_sized(alignment: Alignment, template_ml: float) -> bool:
    """Whether a head has a plausible size and shape, by its header's voxel size.

    Parameters
    ----------
    alignment
        That of the template's brain, registered to the head.
    template_ml
        Volume of the template's brain.
    """
    ml = template_ml * float(np.prod(alignment.scales))
    even = max(alignment.scales) <= MOST_UNEVEN * min(alignment.scales)
    return LEAST_ML <= ml <= MOST_ML and even


def _affine_failures(alignment: Alignment) -> list[str]:
    found = _rigid_failures(alignment)
    low, high = min(alignment.scales), max(alignment.scales)
    if not found and not SCALES[0] <= low <= high <= SCALES[1]:
        found.append(f"{_LOST}: lengths change by factors of {low:.2f} to {high:.2f}")
    return found


def _rigid_failures(alignment: Alignment) -> list[str]:
    if alignment.contrast < LEAST_CONTRAST:
        return [
            f"{_LOST}: it fits about as well when moved by 10 mm or turned by 10 degrees "
            f"(contrast {alignment.contrast:.2f}, at least {LEAST_CONTRAST})"
        ]
    if alignment.degrees > MOST_DEGREES:
        return [
            f"it fits best turned by {alignment.degrees:.0f} degrees: the header's orientation "
            "seems wrong"
        ]
    return []
