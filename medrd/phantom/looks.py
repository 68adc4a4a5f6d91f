"""The appearance of varied phantoms by modality: wide ranges that were not fitted to any patient.

Brightness is relative to white matter (1.0). Each range is (lowest, highest), drawn evenly. The
contrast of one data set is in :mod:`medrd.phantom.contrast`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

Range = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """One modality's ranges.

    Attributes
    ----------
    grey
        Cortex and nuclei: mean and standard deviation of a normal distribution, and its limits.
    fluid
        Cerebrospinal fluid, drawn evenly in logarithm.
    flow
        Brightening of fluid by flow in places, as a factor.
    plexus, caps, vessels, fat
        Brightness added in the choroid plexus, at the ventricles' ends, in vessels, and in fat that
        skull stripping leaves.
    oedema, rim, infarct, spots
        Brightness of diseases.
    cores
        Ranges for the core of a mass: like tissue, the common one, the rare one, and like fluid.
    cavity, lost
        Brightness where tissue was resected, or lost after an infarct.
    holes
        The middle of spots that have destroyed tissue.
    """

    grey: tuple[float, float, float, float]
    fluid: Range
    flow: Range
    plexus: Range
    caps: Range
    vessels: Range
    fat: Range
    oedema: Range
    cores: tuple[Range, Range, Range, Range]
    rim: Range
    cavity: Range
    infarct: Range
    lost: Range
    spots: Range
    holes: Range


LOOKS: Final[Mapping[str, Look]] = {
    "flair": Look(
        grey=(1.2, 0.13, 0.98, 1.6),
        fluid=(0.05, 0.6),
        flow=(0.0, 1.5),
        plexus=(0.0, 1.3),
        caps=(0.1, 0.8),
        vessels=(-0.4, 0.5),
        fat=(0.2, 1.6),
        oedema=(1.25, 2.6),
        cores=((0.95, 1.3), (1.25, 2.3), (0.5, 0.95), (0.05, 0.5)),
        rim=(0.8, 2.3),
        cavity=(0.05, 0.5),
        infarct=(1.25, 2.2),
        lost=(0.1, 0.6),
        spots=(1.3, 2.3),
        holes=(0.3, 0.9),
    ),
    "t1": Look(
        grey=(0.78, 0.09, 0.6, 0.95),
        fluid=(0.08, 0.5),
        flow=(0.0, 0.8),
        plexus=(0.0, 0.5),
        caps=(-0.3, 0.0),
        vessels=(-0.3, 0.8),
        fat=(0.2, 1.6),
        oedema=(0.45, 0.9),
        cores=((0.65, 0.95), (0.3, 0.75), (0.95, 1.8), (0.08, 0.5)),
        rim=(0.5, 1.4),
        cavity=(0.08, 0.5),
        infarct=(0.45, 0.9),
        lost=(0.1, 0.6),
        spots=(0.45, 0.9),
        holes=(0.15, 0.6),
    ),
    "t1ce": Look(
        grey=(0.82, 0.09, 0.62, 1.02),
        fluid=(0.08, 0.5),
        flow=(0.0, 0.8),
        plexus=(0.2, 2.0),
        caps=(-0.3, 0.0),
        vessels=(0.2, 2.5),
        fat=(0.2, 1.6),
        oedema=(0.45, 0.9),
        cores=((0.65, 0.95), (0.3, 0.75), (1.1, 2.6), (0.08, 0.5)),
        rim=(0.9, 3.0),
        cavity=(0.08, 0.5),
        infarct=(0.45, 1.4),
        lost=(0.1, 0.6),
        spots=(0.45, 1.3),
        holes=(0.15, 0.6),
    ),
    "t2": Look(
        grey=(1.3, 0.15, 1.03, 1.8),
        fluid=(1.8, 4.0),
        flow=(-0.4, 0.1),
        plexus=(-1.5, 0.0),
        caps=(0.1, 0.8),
        vessels=(-1.5, 0.3),
        fat=(0.0, 1.6),
        oedema=(1.4, 3.0),
        cores=((1.05, 1.6), (1.5, 3.2), (0.4, 1.0), (1.8, 4.0)),
        rim=(0.7, 2.4),
        cavity=(1.8, 4.0),
        infarct=(1.4, 2.8),
        lost=(1.8, 4.0),
        spots=(1.5, 2.8),
        holes=(1.8, 3.5),
    ),
}
