"""Brightness of each tissue in FLAIR, T1, T1 with contrast agent and T2.

Brightness is relative to white matter (1.0) of the same modality. The means and spreads
were matched to BraTS 2018 volumes, segmented into tissues by k-means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medrd.phantom.anatomy import Head, Tissues
from medrd.phantom.fields import FloatArray
from medrd.phantom.lesions import Lesion


@dataclass(frozen=True)
class Contrast:
    """Brightness of one modality's tissues: (mean, standard deviation) over subjects.

    ``necrosis`` and ``core`` are a high-grade and a low-grade lesion's non-enhancing
    core. ``oedema`` and ``core`` vary with the lesion's severity: with a negative
    deviation, more severe lesions are darker. ``vessel`` and ``fat`` are added in these
    structures; ``texture`` is the relative deviation within a tissue.
    """

    grey: tuple[float, float]
    csf: tuple[float, float]
    oedema: tuple[float, float]
    necrosis: tuple[float, float]
    core: tuple[float, float]
    enhancing: tuple[float, float]
    vessel: float
    fat: float
    texture: float


CONTRASTS = {
    "flair": Contrast(
        grey=(1.16, 0.05),
        csf=(0.15, 0.05),
        oedema=(2.00, 0.45),
        necrosis=(1.75, 0.40),
        core=(1.55, 0.22),
        enhancing=(1.70, 0.25),
        vessel=-0.20,
        fat=1.00,
        texture=0.07,
    ),
    "t1": Contrast(
        grey=(0.76, 0.04),
        csf=(0.20, 0.05),
        oedema=(0.80, -0.06),
        necrosis=(0.68, 0.07),
        core=(0.56, 0.07),
        enhancing=(0.80, 0.06),
        vessel=0.05,
        fat=1.10,
        texture=0.035,
    ),
    "t1ce": Contrast(
        grey=(0.82, 0.03),
        csf=(0.28, 0.06),
        oedema=(0.84, -0.06),
        necrosis=(0.75, 0.09),
        core=(0.64, 0.08),
        enhancing=(1.45, 0.22),
        vessel=1.60,
        fat=1.00,
        texture=0.035,
    ),
    "t2": Contrast(
        grey=(1.28, 0.05),
        csf=(3.10, 0.40),
        oedema=(2.05, 0.30),
        necrosis=(2.60, 0.50),
        core=(2.05, 0.35),
        enhancing=(1.85, 0.28),
        vessel=-0.50,
        fat=0.30,
        texture=0.065,
    ),
}
MODALITIES = tuple(CONTRASTS)

# A position in both hemispheres: |x|, y, z and radius, in MNI millimetres.
Place = tuple[float, float, float, float]
# Where grey or white matter differs from the rest, and the difference in each modality.
REGIONS: tuple[tuple[Place, dict[str, float]], ...] = (
    # Iron in the pallidum, the dentate nucleus and the substantia nigra.
    ((18, -3, 0, 6), {"flair": -0.18, "t2": -0.25, "t1": 0.03}),
    ((14, -55, -33, 6), {"flair": -0.10, "t2": -0.15}),
    ((10, -17, -11, 5), {"flair": -0.10, "t2": -0.20}),
    # Hippocampus, insula and cingulum: the brightest cortex on FLAIR.
    ((27, -16, -18, 9), {"flair": 0.12, "t2": 0.05}),
    ((38, 5, -2, 11), {"flair": 0.10}),
    ((6, 30, 20, 11), {"flair": 0.07}),
    # The corticospinal tract in the internal capsule.
    ((24, -22, 8, 5), {"flair": 0.10, "t2": 0.08, "t1": -0.04}),
)
# Ends and bodies of the lateral ventricles, where FLAIR is bright in most adults.
_CAPS: tuple[Place, ...] = ((16, 32, 6, 8), (27, -48, 16, 10), (21, -15, 26, 9))
# Choroid plexus: the trigones and the foramina of Monro.
CHOROID: tuple[Place, ...] = ((24, -42, 8, 8), (5, -8, 16, 5))


@dataclass(frozen=True)
class Surroundings:
    """Structures around the lesion that affect brightness, each (n,) float32 in [0, 1].

    Attributes
    ----------
    caps
        Periventricular caps and small white matter lesions of age: bright on FLAIR.
    vessels
        Vessels, sinuses and choroid plexus: bright after contrast agent.
    fat
        Fat and marrow left by the skull-stripper: bright.
    bone
        Dura and bone left by it: dark in every modality.
    """

    caps: FloatArray
    vessels: FloatArray
    fat: FloatArray
    bone: FloatArray


def make_surroundings(
    rng: np.random.Generator, head: Head, tissues: Tissues, mni_mm: FloatArray
) -> Surroundings:
    """Draw the normal bright and dark structures of one subject."""
    first, second, patches = (head.field(rng, spacing_mm) for spacing_mm in (8.0, 8.0, 7.0))
    age = float(rng.beta(1.6, 2.5))
    # Both fields are zero along curves: a tree of vessels near the surface, dense in sulci.
    curves = np.exp(-(first**2 + second**2) / (2 * 0.16**2))
    curves *= np.clip((22 - head.depth_mm) / 10, 0, 1)
    vessels = curves * np.clip(tissues.csf * 2 + 0.6 * tissues.grey, 0, 1)
    vessels += blobs(mni_mm, CHOROID) * tissues.csf * np.clip(0.7 + 0.6 * second, 0, 1)
    vessels += _sinuses(mni_mm, head.depth_mm) * np.clip(0.9 + 0.35 * first, 0, 1)
    # The remains at the edge are fat in some places and bone in others.
    edge = np.clip((2.5 - head.depth_mm) / 2.5, 0, 1.5)
    fat = edge * np.clip(patches - rng.uniform(0.6, 1.8), 0, 1)
    bone = edge * np.clip(-patches - 0.1, 0, 1)
    return Surroundings(
        caps=_caps(head, mni_mm, first, second, age) * tissues.white,
        vessels=np.clip(vessels, 0, 1),
        fat=np.clip(fat, 0, 1),
        bone=np.clip(bone, 0, 1),
    )


def _caps(
    head: Head, mni_mm: FloatArray, first: FloatArray, second: FloatArray, age: float
) -> FloatArray:
    """Periventricular caps, and spots of gliosis that grow more with ``age`` in [0, 1], (n,)."""
    caps = blobs(mni_mm, _CAPS) * np.clip(0.75 + 0.35 * first, 0, 1.2) * (0.25 + 0.9 * age)
    spots = np.clip((first + second) / np.sqrt(2) - (3.2 - 1.6 * age), 0, 1)
    deep = np.clip((head.depth_mm - 14) / 8, 0, 1)
    both: FloatArray = np.clip(caps + spots * deep, 0, 1).astype(np.float32)
    return both


def render(
    rng: np.random.Generator,
    head: Head,
    tissues: Tissues,
    surroundings: Surroundings,
    lesion: Lesion,
    mni_mm: FloatArray,
    *,
    high_grade: bool,
) -> dict[str, FloatArray]:
    """The ideal signal of each modality, without scanner effects, (n,) float32 each."""
    # All modalities image the same cells: variation within a tissue and the severity of a
    # lesion are partly shared.
    shared = head.field(rng, 5.0)
    regional = head.field(rng, 18.0)
    grain = head.field(rng, 2.0)
    mottled = 0.7 * (head.field(rng, 8.0) + head.field(rng, 3.0))
    severity = rng.standard_normal()
    regions = [(blobs(mni_mm, [place]), added) for place, added in REGIONS]
    images: dict[str, FloatArray] = {}
    for name, contrast in CONTRASTS.items():
        grey, csf = (_draw(rng, tissue) for tissue in (contrast.grey, contrast.csf))
        signal = tissues.white + grey * tissues.grey + csf * tissues.csf
        solid = 1 - tissues.csf
        for blob, added in regions:
            if name in added:
                signal += np.float32(added[name]) * blob * solid
        own = np.float32(rng.choice([-1.0, 1.0]))
        signal *= 1 + contrast.texture * (
            0.5 * shared + 0.8 * own * regional * solid + 0.8 * own * grain
        )
        if name in ("flair", "t2"):
            signal += surroundings.caps * np.float32(rng.uniform(0.35, 0.75))
        signal += contrast.vessel * surroundings.vessels
        signal += contrast.fat * surroundings.fat
        signal *= 1 - 0.85 * surroundings.bone
        images[name] = _add_lesion(
            rng, signal, contrast, lesion, mottled, high_grade=high_grade, severity=severity
        )
    return images


def _add_lesion(
    rng: np.random.Generator,
    signal: FloatArray,
    contrast: Contrast,
    lesion: Lesion,
    mottled: FloatArray,
    *,
    high_grade: bool,
    severity: float,
) -> FloatArray:
    """Blend oedema, core and rim over the healthy signal, by the fraction of each in a voxel."""
    core_mean, core_spread = contrast.necrosis if high_grade else contrast.core
    # Bounded: the faintest oedema is still oedema.
    degree = np.clip(0.8 * severity + 0.6 * rng.standard_normal(), -1.5, 1.5)
    oedema = contrast.oedema[0] + contrast.oedema[1] * degree
    core = core_mean + core_spread * np.clip(0.4 * severity + 0.9 * rng.standard_normal(), -2, 2)
    enhancing = _draw(rng, contrast.enhancing)
    # Oedema thins out towards its border and leaves some of the tissue in place.
    thinning = np.float32(rng.uniform(0.3, 0.7))
    taken = lesion.oedema * np.clip(thinning + (1 - thinning) * 2.0 * lesion.inward, 0, 1)
    taken *= np.clip(0.9 + 0.2 * mottled, 0, 1)
    signal = signal + taken * (np.float32(oedema) - signal)
    coarse = 1 + 0.13 * mottled
    signal += lesion.core * (np.float32(core) * coarse - signal)
    signal += lesion.enhancing * (enhancing * (2 - coarse) - signal)
    return np.maximum(signal, 0.05)


def _draw(rng: np.random.Generator, spread: tuple[float, float]) -> np.float32:
    """A normal draw from (mean, standard deviation), limited to two standard deviations."""
    mean, deviation = spread
    return np.float32(mean + deviation * np.clip(rng.standard_normal(), -2, 2))


def blobs(mni_mm: FloatArray, places: Sequence[Place]) -> FloatArray:
    """Gaussian hills of height 1, each at both (x, y, z) and (-x, y, z), summed, (n,)."""
    total = np.zeros(mni_mm.shape[1], np.float32)
    for x, y, z, radius in places:
        square = (np.abs(mni_mm[0]) - x) ** 2 + (mni_mm[1] - y) ** 2 + (mni_mm[2] - z) ** 2
        total += np.exp(-square / np.float32(2 * (0.6 * radius) ** 2))
    return total


def _sinuses(mni_mm: FloatArray, depth_mm: FloatArray) -> FloatArray:
    """Superior sagittal, straight and transverse sinus, (n,) in [0, 1]."""
    x, y, z = np.abs(mni_mm[0]), mni_mm[1], mni_mm[2]
    surface = np.clip((5 - depth_mm) / 3, 0, 1)
    sagittal = np.exp(-((x / 3.0) ** 2)) * surface * ((z > 5) | (y < -85))
    # From the vein of Galen back and down to the confluence.
    along = np.clip((-40 - y) / 45, 0, 1)
    straight = np.exp(-((x / 2.5) ** 2) - ((z - (5 - 18 * along)) / 3.0) ** 2)
    straight = straight * ((y < -40) & (y > -88))
    transverse = np.exp(-(((z + 18) / 4.0) ** 2)) * surface * ((y < -55) & (x < 60))
    sinuses: FloatArray = np.clip(sagittal + straight + transverse, 0, 1).astype(np.float32)
    return sinuses
