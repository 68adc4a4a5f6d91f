"""Varied phantoms: one scan each, as different from each other as possible.

The phantoms of :mod:`medrd.phantom.cohort` look like one data set. These are for training a model
for scans from any scanner. An adult template is deformed, tilted and scaled, with ventricles and
sulci from closed to wide, and badly skull-stripped or cut off; contrasts (FLAIR's or another
modality's), slices of 1.5 to 7 mm, shading, blur and noise come from wide ranges; there are masses,
infarcts, spots or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.phantom.anatomy import (
    GRID,
    Head,
    Tissues,
    Variety,
    load_template,
    make_head,
    make_tissues,
)
from medrd.phantom.contrast import CHOROID, REGIONS, blobs, make_surroundings
from medrd.phantom.disease import Disease, displaced, grow_disease, plan_disease
from medrd.phantom.fields import FloatArray, random_field
from medrd.phantom.looks import LOOKS
from medrd.phantom.scanner import excite, interpolate

ANYBODY = Variety(
    tilt_deg=(8.0, 4.0, 4.0),
    shift_mm=(2.0, 4.0, 4.0),
    size=0.04,
    proportions=0.03,
    deformation=1.5,
    widening_mm=(2.5, 3.5),
    lopsided_mm=1.5,
    atrophy=(0.5, 0.9),
    sharpness=(1.4, 3.0),
    edge_mm=(-3.0, 2.0),
)
VOXEL_MM = 1.5
# Increase it whenever the same seed gives other voxels.
VERSION = 1


@dataclass(frozen=True)
class VariedScan:
    """A scan: (X, Y, Z) int16 and uint8 labels, and the affine."""

    image: NDArray[np.int16]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]


def make_varied(
    index: int,
    *,
    seed: int = 0,
    healthy: bool = False,
    voxel_mm: float = VOXEL_MM,
    modality: str = "flair",
) -> VariedScan:
    """Simulate one person.

    The same person has the same lesions, slices, shading and noise in all modalities of
    :data:`medrd.phantom.looks.LOOKS`.
    """
    rngs = np.random.default_rng([seed, index, 1 + healthy]).spawn(6)
    anatomy, folds, growth, normal, look, scanner = rngs
    template = load_template()
    head = make_head(anatomy, template, ANYBODY, voxel_mm=voxel_mm)
    plan = plan_disease(growth, template, head, healthy=healthy)
    mni_mm = displaced(head, plan)
    tissues = make_tissues(folds, template, head, mni_mm, ANYBODY)
    disease = grow_disease(growth, head, tissues, plan, LOOKS[modality])
    signal = _render(look, head, tissues, mni_mm, normal, disease, modality)
    volume, kept = _scan(scanner, head, signal)
    grid = tuple(int(np.ceil(n / voxel_mm)) for n in GRID)
    image = np.zeros(grid, np.int16)
    labels = np.zeros(grid, np.uint8)
    inside = np.zeros(head.mask.shape, bool)
    inside[head.mask] = kept
    image[head.box][inside] = volume[inside]
    labelled = head.volume((disease.extent > 0.5).astype(np.float32)) > 0
    labels[head.box][labelled & inside] = 1
    affine = np.diag([-voxel_mm, -voxel_mm, voxel_mm, 1.0])
    affine[1, 3] = 239.0
    return VariedScan(image, labels, affine)


def _render(
    rng: np.random.Generator,
    head: Head,
    tissues: Tissues,
    mni_mm: FloatArray,
    normal: np.random.Generator,
    disease: Disease,
    modality: str,
) -> FloatArray:
    """The signal without scanner effects, (n,)."""
    around, look = make_surroundings(normal, head, tissues, mni_mm), LOOKS[modality]
    mean, deviation, least, most = look.grey
    grey = float(np.clip(rng.normal(mean, deviation), least, most))
    csf = float(np.exp(rng.uniform(*np.log(look.fluid))))
    regional, slow = head.field(rng, 18.0), head.field(rng, 40.0)
    shared, grain, mottled = head.field(rng, 5.0), head.field(rng, 2.0), head.field(rng, 7.0)
    solid = 1 - tissues.csf
    # Flow changes fluid in places; on FLAIR, it and poor suppression leave it bright.
    fluid = csf * (1 + float(rng.uniform(*look.flow)) * np.clip(slow, 0, 2))
    # Cortex varies in brightness from place to place.
    cortex = grey * (1 + float(rng.uniform(0, 0.1)) * slow)
    signal = tissues.white + cortex * tissues.grey + fluid * tissues.csf
    strength = float(rng.uniform(0.2, 1.8))
    for place, added in REGIONS:
        more = added.get("t1" if modality == "t1ce" else modality)
        if more is not None:
            signal += np.float32(strength * more) * blobs(mni_mm, [place]) * solid
    # Cerebellum and brainstem, and the plexus, differ from the rest as sequences differ.
    for place in ((0, -60, -35, 45), (0, -28, -35, 25), (0, -60, -28, 12)):
        signal *= 1 + float(rng.normal(0, 0.06)) * blobs(mni_mm, [place])
    plexus = blobs(mni_mm, CHOROID) * tissues.csf * np.clip(0.6 + 0.6 * shared, 0, 1)
    signal += float(rng.uniform(*look.plexus)) * plexus
    texture = float(rng.uniform(0.02, 0.11))
    signal *= 1 + texture * (0.6 * shared + 0.8 * regional * solid + 0.6 * grain)
    signal += around.caps * np.float32(rng.uniform(*look.caps))
    signal += np.float32(rng.uniform(*look.vessels)) * around.vessels
    signal += np.float32(rng.uniform(*look.fat)) * around.fat
    signal *= 1 - 0.85 * around.bone
    # Air in the skull base takes the signal of what lies over it.
    base = np.clip((18 - head.depth_mm) / 10, 0, 1) * np.clip((-8 - mni_mm[2]) / 12, 0, 1)
    lost = (
        float(rng.uniform(0, 1.2)) * base * np.clip(regional - float(rng.uniform(0.2, 1.5)), 0, 1)
    )
    signal *= 1 - np.clip(lost, 0, 0.9)
    squeeze = float(rng.uniform(0.65, 1.3))
    for layer in disease.layers:
        level = layer.level * (1 + layer.grain * mottled)
        if layer.relative:
            level = level * signal
        signal = signal + layer.cover * (level - signal)
    signal = 1 + squeeze * (signal - 1)
    return np.maximum(signal, 0.03).astype(np.float32)


def _scan(
    rng: np.random.Generator, head: Head, signal: FloatArray
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Stored intensities in the head's box, and the visible voxels of the brain (n,)."""
    from scipy import ndimage

    mm = head.voxel_mm
    volume = head.volume(signal, outside=float(rng.uniform(0.1, 1.0)))
    bias = float(rng.uniform(0.0, 0.3))
    volume *= np.exp(bias * random_field(rng, volume.shape, float(rng.uniform(45, 110)) / mm))
    if rng.random() < 0.4:
        volume *= _coil_end(rng, volume.shape, mm)
    # Slices are mostly axial.
    axis = int(rng.choice(3, p=[0.15, 0.1, 0.75]))
    slice_mm = float(rng.choice([1.5, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]))
    volume = np.moveaxis(volume, axis, 2)
    slices, where = excite(volume, slice_mm / mm, rng.uniform(0, slice_mm / mm))
    drift = float(rng.uniform(0, 0.06)) * (rng.random() < 0.4)
    slices = slices * np.exp(drift * rng.standard_normal(slices.shape[2])).astype(np.float32)
    noise = float(np.exp(rng.uniform(np.log(0.01), np.log(0.09))))
    drawn = noise * rng.standard_normal((2, *slices.shape), dtype=np.float32)
    slices = np.hypot(slices + drawn[0], drawn[1])
    blur = float(rng.uniform(0.3, 1.1)) / mm
    for each in (0, 1):
        slices = ndimage.gaussian_filter1d(slices, blur, axis=each, truncate=3)
    volume = np.moveaxis(interpolate(slices, where), 2, axis)
    cut = _field_of_view(rng, head)
    shown: NDArray[Any] = volume[head.mask]
    if cut is not None:
        inside, depth_mm = cut
        # The outermost slices may be darker or brighter than the rest.
        factor = float(np.exp(rng.uniform(-0.5, 0.6)))
        wide = float(rng.uniform(1.0, 6.0))
        shown = shown * (1 + (factor - 1) * np.exp(-np.clip(depth_mm, 0, 60) / wide))
    else:
        inside = np.ones(shown.shape, bool)
    gamma = float(np.exp(rng.uniform(-0.25, 0.25)))
    unit = float(np.exp(rng.uniform(np.log(130), np.log(9000))))
    stored = np.clip(np.rint(np.maximum(shown, 0) ** gamma * unit), 1, 32767).astype(np.int16)
    result = np.zeros(head.mask.shape, np.int16)
    result[head.mask] = stored
    return result, inside


def _coil_end(rng: np.random.Generator, shape: tuple[int, ...], voxel_mm: float) -> FloatArray:
    """The signal's fall towards where the coil ends, above or below: (X, Y, Z) in (0, 1]."""
    x, y, z = np.meshgrid(
        *[np.arange(n, dtype=np.float32) for n in shape], indexing="ij", sparse=True
    )
    tilt = rng.normal(0, 0.3, 2).astype(np.float32)
    up = bool(rng.random() < 0.6)
    height = z + tilt[0] * (x - shape[0] / 2) + tilt[1] * (y - shape[1] / 2)
    height = (shape[2] - height if up else height) * voxel_mm
    wide, least = float(rng.uniform(8, 25)), float(rng.uniform(0.25, 0.9))
    fall = 0.5 + 0.5 * np.tanh((height - float(rng.uniform(0, 35))) / wide)
    return (least + (1 - least) * fall).astype(np.float32)


def _field_of_view(
    rng: np.random.Generator, head: Head
) -> tuple[NDArray[np.bool_], FloatArray] | None:
    """The voxels inside the field of view of a scan that cuts off the head, and their distance from
    the cut."""
    if rng.random() > 0.35:
        return None
    normal = np.array([rng.normal(0, 0.08), rng.normal(0, 0.15), rng.choice([-1.0, 1.0])])
    normal /= np.linalg.norm(normal)
    along = (head.voxels * normal[:, None]).sum(axis=0) * head.voxel_mm
    low, high = float(along.min()), float(along.max())
    depth = (along - (low + rng.uniform(0.03, 0.3) * (high - low))).astype(np.float32)
    return depth > 0, depth
