"""Masses, infarcts and spots of varied phantoms: their places, and how they change the signal.

Nothing here imitates a patient or one disease: sizes, places and brightness are drawn from wide
ranges, so that a model cannot rely on any of them. Brightness is relative to white matter (1.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medrd.phantom.anatomy import Head, Template, Tissues, sample_map
from medrd.phantom.fields import FloatArray
from medrd.phantom.lesions import LesionPlan, displace, grow_lesion
from medrd.phantom.looks import Look

HEALTHY, MASS, SPOTS, INFARCT = range(4)
SHARES = (0.15, 0.55, 0.17, 0.13)
"""Share of the persons with each of these."""
_ALSO_SPOTS = 0.12
"""Share of the patients with a mass or infarct who also have a few spots, and of those with spots
alone who have few (up to 8 instead of 60)."""
_CORES = (0.35, 0.33, 0.17, 0.15)
"""Shares of the kinds of :attr:`Look.cores`."""


@dataclass(frozen=True)
class Layer:
    """A change to the signal: ``signal += cover * (level * texture - signal)``.

    Attributes
    ----------
    cover
        (n,) float32 in [0, 1].
    level
        Brightness; where ``relative``, a factor on what is there instead.
    grain
        Spread of the texture.
    relative
        Whether the level multiplies the tissue that it covers.
    """

    cover: FloatArray
    level: float
    grain: float
    relative: bool = False


@dataclass(frozen=True)
class Disease:
    """The disease of one person.

    Attributes
    ----------
    layers
        From the lowest to the topmost.
    extent
        (n,) float32 in [0, 1]: how much of a voxel is lesion; above a half it is labelled.
    """

    layers: Sequence[Layer]
    extent: FloatArray


@dataclass(frozen=True)
class DiseasePlan:
    """The draws made before the tissues, since masses displace these."""

    kind: int
    masses: Sequence[LesionPlan]
    cavity: bool


def plan_disease(
    rng: np.random.Generator, template: Template, head: Head, *, healthy: bool = False
) -> DiseasePlan:
    """Draw the kind of disease of one person (none if ``healthy``), and the masses."""
    kind = HEALTHY if healthy else int(rng.choice(len(SHARES), p=SHARES))
    if kind != MASS:
        return DiseasePlan(kind, (), cavity=False)
    count = int(rng.choice([1, 1, 1, 2, 4]))
    cavity = bool(rng.random() < 0.1)
    return DiseasePlan(
        kind, [_plan_mass(rng, template, head, count, cavity) for _ in range(count)], cavity
    )


def displaced(head: Head, plan: DiseasePlan) -> FloatArray:
    """The MNI coordinates of each voxel's tissue, as all masses displace it: (3, n)."""
    moved = head.mni_mm
    for mass in plan.masses:
        moved = moved + (displace(head, mass) - head.mni_mm)
    return moved


def grow_disease(
    rng: np.random.Generator,
    head: Head,
    tissues: Tissues,
    plan: DiseasePlan,
    look: Look,
) -> Disease:
    """Grow the planned disease into the tissues, as one modality shows it."""
    layers: list[Layer] = []
    extent = np.zeros(head.mni_mm.shape[1], np.float32)

    def add(cover: FloatArray, own: Sequence[Layer]) -> None:
        layers.extend(own)
        np.maximum(extent, cover, out=extent)

    for mass in plan.masses:
        add(*_mass(rng, head, tissues, mass, look, cavity=plan.cavity))
    if plan.kind == INFARCT:
        for _ in range(int(rng.choice([1, 1, 2]))):
            add(*_infarct(rng, head, tissues, look))
    few = plan.kind != HEALTHY and rng.random() < _ALSO_SPOTS
    if plan.kind == SPOTS or few:
        count = int(np.exp(rng.uniform(0, np.log(8 if few else 60))))
        add(*_spots(rng, head, tissues, look, max(1, count)))
    return Disease(layers, extent)


def _plan_mass(
    rng: np.random.Generator, template: Template, head: Head, count: int, cavity: bool
) -> LesionPlan:
    most = 230 if count == 1 else 40
    whole_ml = float(np.exp(rng.uniform(np.log(0.4), np.log(most))))
    core_ml = whole_ml * rng.uniform(0.08, 0.95)
    radius_mm = (core_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    place = _place(rng, template, head)
    return LesionPlan(
        high_grade=bool(rng.random() < 0.6),
        centre_voxel=head.voxels[:, place],
        centre_mni_mm=head.mni_mm[:, place],
        whole_ml=whole_ml,
        core_ml=core_ml,
        enhancing_ml=core_ml * rng.uniform(0.2, 0.8),
        push_mm=0.0 if cavity else float(radius_mm * rng.uniform(0.0, 0.7)),
    )


def _place(rng: np.random.Generator, template: Template, head: Head) -> int:
    """The flat index of a voxel of tissue below the outer 3 mm; in nine of ten cases from MNI
    z = -25 mm upwards, so mostly in the cerebrum, else below z = -20 mm."""
    candidates = rng.permutation(head.mni_mm.shape[1])[:4000]
    solid = sample_map(template.white, head.mni_mm[:, candidates])
    solid += sample_map(template.grey, head.mni_mm[:, candidates])
    low = 0.0 if rng.random() < 0.1 else -25.0
    z = head.mni_mm[2, candidates]
    fits = (solid > 0.7) & (head.depth_mm[candidates] > 3)
    fits &= (z < -20) if low == 0.0 else (z > low)
    chosen = np.flatnonzero(fits)
    return int(candidates[chosen[0] if len(chosen) else 0])


def _shade(rng: np.random.Generator, look: Look) -> float:
    """A core's brightness: like tissue, common, rare, or like fluid."""
    return float(rng.uniform(*look.cores[int(rng.choice(4, p=_CORES))]))


def _mass(
    rng: np.random.Generator,
    head: Head,
    tissues: Tissues,
    plan: LesionPlan,
    look: Look,
    *,
    cavity: bool,
) -> tuple[FloatArray, list[Layer]]:
    """A lumpy core with oedema, half of them with a rim or patches; or a cavity with oedema.

    One recipe draws all masses: a haemorrhage or an abscess has no look of its own.
    """
    grown = grow_lesion(rng, head, tissues, plan)
    thinning = np.float32(rng.uniform(0.2, 1.0))
    oedema = grown.oedema * np.clip(thinning + (1 - thinning) * 2 * grown.inward, 0, 1)
    level = float(rng.uniform(*look.oedema))
    core = float(rng.uniform(*look.cavity)) if cavity else _shade(rng, look)
    layers = [Layer(oedema, level, 0.1, relative=bool(rng.random() < 0.3))]
    layers.append(Layer(grown.core, core, float(rng.uniform(0.03, 0.3))))
    if rng.random() < 0.5:
        rim = float(rng.uniform(*look.rim))
        layers.append(Layer(grown.enhancing, rim, float(rng.uniform(0.03, 0.2))))
    return np.maximum(grown.oedema, grown.core), layers


def _infarct(
    rng: np.random.Generator, head: Head, tissues: Tissues, look: Look
) -> tuple[FloatArray, list[Layer]]:
    """A lumpy ellipsoid around any voxel of tissue, cortex included; two in five have lost tissue
    inside. It follows no artery's territory and does not swell."""
    solid = np.flatnonzero(tissues.csf < 0.4)
    centre = head.voxels[:, rng.choice(solid)]
    radius_mm = float(np.exp(rng.uniform(np.log(3), np.log(38))))
    away = _away_mm(rng, head, centre, spread=0.35)
    reach = away / radius_mm + 0.25 * head.field(rng, max(4.0, radius_mm)) * min(1, radius_mm / 8)
    solid_part = np.clip(1.3 - 1.5 * tissues.csf, 0, 1)
    edge = np.float32(rng.uniform(4, 14))
    cover = _soft_edge(edge * (reach - 1))
    layers = [Layer(cover * solid_part, float(rng.uniform(*look.infarct)), 0.06)]
    extent = cover * solid_part
    if rng.random() < 0.4:
        inner = np.float32(rng.uniform(0.4, 0.85))
        lost = _soft_edge(edge * (reach / inner - 1))
        layers.append(Layer(lost, float(rng.uniform(*look.lost)), 0.1))
        extent = np.maximum(extent, lost)
    return extent, layers


def _soft_edge(outside: NDArray[np.floating]) -> FloatArray:
    """1 far inside an edge, a half on it, 0 far outside."""
    # Not the logistic function of medrd.phantom.lesions, whose rounding would change version 1.
    cover: FloatArray = (1 / (1 + np.exp(np.clip(outside, -30, 30)))).astype(np.float32)
    return cover


def _away_mm(
    rng: np.random.Generator, head: Head, centre: FloatArray, *, spread: float
) -> FloatArray:
    """Distance from a voxel in a stretched and turned space, (n,)."""
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    axes = np.exp(rng.uniform(-spread, spread, 3))
    axes /= np.prod(axes) ** (1 / 3)
    matrix = (turn / axes[:, None]).astype(np.float32) * np.float32(head.voxel_mm)
    offset = head.voxels - centre[:, None]
    square = np.zeros(offset.shape[1], np.float32)
    for row in matrix:
        square += (row[0] * offset[0] + row[1] * offset[1] + row[2] * offset[2]) ** 2
    distance: FloatArray = np.sqrt(square)
    return distance


def _spots(
    rng: np.random.Generator,
    head: Head,
    tissues: Tissues,
    look: Look,
    count: int,
) -> tuple[FloatArray, list[Layer]]:
    """Ellipsoids centred in white matter: beside the ventricles, under the cortex, and in between.

    They are 2 to 12 mm wide, and each axis is then stretched by up to 1.5 or shortened as much.
    """
    from scipy import ndimage

    fluid = head.volume(((tissues.csf > 0.5) & (head.depth_mm > 22)).astype(np.float32)) > 0
    fluid = ndimage.binary_opening(fluid)
    far = ndimage.distance_transform_edt(~fluid) if fluid.any() else np.full(fluid.shape, 99.0)
    far_mm = (far * head.voxel_mm)[head.mask].astype(np.float32)
    white = tissues.white
    near = white * np.exp(-far_mm / 4) * (head.depth_mm > 12)
    under = white * (tissues.grey > 0.15) * (head.depth_mm < 18) * 0.3
    deep = white * (head.depth_mm > 10) * 0.05
    mix = rng.dirichlet([1.5, 1, 1])
    weight = sum(
        m * w / max(float(w.sum()), 1e-6) for m, w in zip(mix, (near, under, deep), strict=True)
    )
    total = float(weight.sum())
    cover = head.volume(np.zeros_like(white))
    shape = np.array(cover.shape)
    corner = np.array([side.start for side in head.box], np.float32)
    level = float(rng.uniform(*look.spots))
    if total > 0:
        picks = rng.choice(
            weight.size,
            size=count,
            p=np.asarray(weight, np.float64) / np.sum(weight, dtype=np.float64),
        )
    else:
        picks = rng.integers(weight.size, size=count)
    big = float(rng.uniform(4, 12))
    for pick in picks:
        radius = 0.5 * float(np.exp(rng.uniform(np.log(2), np.log(big))))
        at = head.voxels[:, pick] - corner + rng.uniform(-0.5, 0.5, 3)
        turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        axes = radius * np.exp(rng.uniform(-0.4, 0.4, 3)) / head.voxel_mm
        half = int(np.ceil(axes.max() * 1.6)) + 1
        low = np.maximum(np.round(at).astype(int) - half, 0)
        high = np.minimum(np.round(at).astype(int) + half + 1, shape)
        grid = np.stack(
            np.meshgrid(*[np.arange(a, b) for a, b in zip(low, high, strict=True)], indexing="ij")
        )
        offset = (grid - at.reshape(3, 1, 1, 1)).reshape(3, -1)
        reach = np.sqrt((((turn @ offset) / axes[:, None]) ** 2).sum(0)).reshape(grid.shape[1:])
        steep = float(rng.uniform(3, 8)) * max(1.0, radius / 2)
        own = _soft_edge(steep * (reach - 1))
        part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        rng.uniform()  # unused, but version 1 drew it
        cover[part] = np.maximum(cover[part], own)
    flat = cover[head.mask] * np.clip(1.2 - 1.5 * tissues.csf, 0, 1)
    layers = [Layer(flat.astype(np.float32), level, 0.05)]
    if rng.random() < 0.25:  # black holes
        layers.append(
            Layer((flat**6 * 0.9).astype(np.float32), float(rng.uniform(*look.holes)), 0.0)
        )
    return flat.astype(np.float32), layers
