"""A phantom's tumour: its position, the tissue it displaces, and the extent of each part.

An adult diffuse glioma has a core, part of which may enhance, surrounded by oedema that
spreads along white matter. The oedema follows the travel time of
cells that move several times faster in white matter than in grey (Swanson et al. 2000;
as an eikonal front, Konukoglu et al. 2010). The core is a lumpy ball that pushes its
surroundings away. Volumes are drawn first, and the borders are placed to match them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from medrd.phantom.anatomy import Head, Template, Tissues, sample_map
from medrd.phantom.fields import FloatArray, random_field

# BraTS labels up to the 2021 challenge.
NECROSIS, OEDEMA, ENHANCING = 1, 2, 4

_TRAVEL_GRID_MM = 3
# Slowness of the front, relative to white matter.
_SLOW_GREY, _SLOW_CSF = 4.0, 25.0


@dataclass(frozen=True)
class LesionPlan:
    """The plan of a lesion, before it is grown.

    Attributes
    ----------
    high_grade
        Whether it has an enhancing rim.
    centre_voxel, centre_mni_mm
        The same place in both spaces, (3,) float32.
    whole_ml, core_ml, enhancing_ml
        Volumes, each within the one before.
    push_mm
        How far the tissue at the core's border has been displaced.
    """

    high_grade: bool
    centre_voxel: FloatArray
    centre_mni_mm: FloatArray
    whole_ml: float
    core_ml: float
    enhancing_ml: float
    push_mm: float

    @property
    def core_radius_mm(self) -> float:
        """Radius of the ball with the core's volume."""
        return float((self.core_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3))


@dataclass(frozen=True)
class Lesion:
    """A grown lesion at the brain's voxels.

    Attributes
    ----------
    labels
        (n,) uint8, BraTS labels.
    oedema, core, enhancing
        (n,) float32 in [0, 1], fraction of the voxel that each part occupies; later parts cover
        earlier ones.
    inward
        (n,) float32 in [0, 1], 0 at the oedema's border and 1 at the core.
    """

    labels: NDArray[np.uint8]
    oedema: FloatArray
    core: FloatArray
    enhancing: FloatArray
    inward: FloatArray


def plan_lesion(
    rng: np.random.Generator, template: Template, head: Head, *, high_grade: bool
) -> LesionPlan:
    """Draw a lesion's position and volumes, distributed as in BraTS 2018."""
    whole_ml = float(np.clip(rng.lognormal(np.log(105), 0.6), 6, 230))
    core_part = rng.uniform(0.2, 0.7) if high_grade else rng.uniform(0.35, 0.65)
    core_ml = whole_ml * core_part
    if high_grade:
        enhancing_ml = core_ml * rng.uniform(0.3, 0.85)
    else:
        enhancing_ml = core_ml * max(0.0, rng.uniform(-0.03, 0.04))
    place = _choose_place(rng, template, head)
    radius_mm = (core_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    return LesionPlan(
        high_grade=high_grade,
        centre_voxel=head.voxels[:, place],
        centre_mni_mm=head.mni_mm[:, place],
        whole_ml=whole_ml,
        core_ml=core_ml,
        enhancing_ml=enhancing_ml,
        push_mm=float(radius_mm * rng.uniform(0.15, 0.5)),
    )


def displace(head: Head, plan: LesionPlan) -> FloatArray:
    """MNI coordinates that each voxel's tissue comes from after displacement by the lesion.

    The displacement grows to ``push_mm`` at the core's border, fades beyond it, and vanishes at
    the rigid skull. Its slope stays below the limit at which tissue would fold.

    Returns
    -------
    (3, n) float32.
    """
    away = head.mni_mm - plan.centre_mni_mm[:, None]
    radius = np.float32(plan.core_radius_mm * 1.05)
    ratio = np.sqrt((away**2).sum(axis=0)) / radius
    push = np.exp(0.5 - 0.5 * (ratio / 1.2) ** 2) * np.float32(plan.push_mm / radius)
    push *= np.clip(head.depth_mm / 14, 0, 1)
    moved: FloatArray = head.mni_mm - away * np.minimum(push, 0.75)
    return moved


def grow_lesion(rng: np.random.Generator, head: Head, tissues: Tissues, plan: LesionPlan) -> Lesion:
    """Grow the planned lesion into the tissue around it."""
    fine, lumps, patches = (head.field(rng, spacing) for spacing in (3.0, 11.0, 5.0))
    # The core, as a distance in mm from the centre, lumpy and longer one way.
    stretch = rng.normal(1.0, 0.15, 3).clip(0.7, 1.4).astype(np.float32)
    away = (head.voxels - plan.centre_voxel[:, None]) * (stretch[:, None] * head.voxel_mm)
    reach = np.sqrt((away**2).sum(axis=0)) * (1 + 0.13 * lumps + 0.03 * fine)
    reach += 30 * np.clip(tissues.csf - 0.4, 0, 1)
    core_edge = _border(reach, plan.core_ml / head.voxel_mm**3)
    in_core = reach < core_edge

    travel = _travel_mm(rng, head, tissues, plan)
    travel = travel * (1 + 0.10 * lumps + 0.05 * patches)
    travel += 9 * np.clip(tissues.grey - 0.3, 0, 1) + 60 * np.clip(tissues.csf - 0.35, 0, 1)
    travel[in_core] = 0
    oedema_edge = _border(travel, plan.whole_ml / head.voxel_mm**3)
    in_whole = travel < oedema_edge

    # The rim is the part of the core near its border; without a rim, enhancement is patchy.
    rim_first = reach / core_edge + (0.14 if plan.high_grade else 2.0) * patches
    rim = np.where(in_core, rim_first, -np.inf)
    rim_edge = -_border(-rim, plan.enhancing_ml / head.voxel_mm**3)
    in_rim = rim > rim_edge

    labels = np.zeros(reach.shape, np.uint8)
    labels[in_whole] = OEDEMA
    labels[in_core] = NECROSIS
    labels[in_rim] = ENHANCING

    oedema_blur_mm = np.float32(rng.uniform(0.8, 2.5))
    core_blur_mm = np.float32(rng.uniform(0.4, 0.9 if plan.high_grade else 2.0))
    oedema = _soft((oedema_edge - travel) / oedema_blur_mm)
    core = _soft((core_edge - reach) / core_blur_mm)
    enhancing = core * _soft((rim_first - rim_edge) * core_edge / 0.8)
    if plan.enhancing_ml == 0:
        enhancing = np.zeros_like(core)
    inward = np.clip((oedema_edge - travel) / oedema_edge, 0, 1)
    return Lesion(labels, oedema, core, enhancing, inward)


def _choose_place(rng: np.random.Generator, template: Template, head: Head) -> int:
    """The flat index of a voxel in cerebral white matter, away from midline and surface."""
    candidates = rng.permutation(head.mni_mm.shape[1])[:4000]
    x, _, z = head.mni_mm[:, candidates]
    white = sample_map(template.white, head.mni_mm[:, candidates])
    depth_mm = head.depth_mm[candidates]
    fits = (white > 0.6) & (np.abs(x) > 14) & (z > -12) & (depth_mm > 11)
    return int(candidates[fits][0])


def _border(score: FloatArray, volume_ml: float) -> np.float32:
    """The score below which ``volume_ml`` of voxels of 1 mm3 lie."""
    count = min(max(round(volume_ml * 1000), 0), score.size - 1)
    border: np.float32 = np.partition(score, count)[count]
    return border


def _soft(distance: FloatArray) -> FloatArray:
    """The logistic function, safe for large arguments."""
    soft: FloatArray = 0.5 + 0.5 * np.tanh(0.5 * distance)
    return soft


def _travel_mm(
    rng: np.random.Generator, head: Head, tissues: Tissues, plan: LesionPlan
) -> FloatArray:
    """Travel time of the front to each voxel, in mm of white matter, (n,).

    Shortest paths over the 26 neighbours of a coarse grid.
    """
    from scipy import ndimage

    step = round(_TRAVEL_GRID_MM / head.voxel_mm)
    slow = tissues.white + _SLOW_GREY * tissues.grey + _SLOW_CSF * tissues.csf
    slowness = head.volume(slow)[1::step, 1::step, 1::step]
    inside = head.mask[1::step, 1::step, 1::step]
    slowness = slowness * np.exp(0.3 * random_field(rng, inside.shape, 4))
    corner = np.array([side.start for side in head.box], np.float32)
    source = ((plan.centre_voxel - corner - 1) / step).astype(np.float32)
    travel = shortest_paths(slowness, inside, source) * np.float32(step * head.voxel_mm)
    at = (head.voxels - corner[:, None] - 1) / np.float32(step)
    everywhere: FloatArray = ndimage.map_coordinates(
        travel, at, output=np.float32, order=1, mode="nearest"
    )
    return everywhere


def shortest_paths(
    slowness: FloatArray, inside: NDArray[np.bool_], source: FloatArray
) -> FloatArray:
    """Travel times in grid steps from the inside node nearest to ``source``, (x, y, z)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import dijkstra

    number = np.full(inside.shape, -1, np.int32)
    count = int(inside.sum())
    number[inside] = np.arange(count)
    nodes = np.argwhere(inside)
    starts, ends, costs = [], [], []
    for offset in product((-1, 0, 1), repeat=3):
        if offset <= (0, 0, 0):  # each edge once
            continue
        here, there = _neighbours(offset, inside.shape)
        both = inside[here] & inside[there]
        starts.append(number[here][both])
        ends.append(number[there][both])
        length = float(np.linalg.norm(offset))
        costs.append(0.5 * length * (slowness[here][both] + slowness[there][both]))
    edges = (np.concatenate(starts), np.concatenate(ends))
    graph = coo_matrix((np.concatenate(costs), edges), shape=(count, count)).tocsr()
    first = int(((nodes - source) ** 2).sum(axis=1).argmin())
    times = dijkstra(graph, directed=False, indices=first)
    reached = times[np.isfinite(times)].max()
    travel = np.full(inside.shape, reached, np.float32)
    travel[inside] = np.minimum(times, reached)
    return travel


def _neighbours(
    offset: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of a grid whose nodes have a neighbour at ``offset``, and of those neighbours."""
    sides = list(zip(offset, shape, strict=True))
    here = tuple(slice(max(0, -o), n - max(0, o)) for o, n in sides)
    there = tuple(slice(max(0, o), n - max(0, -o)) for o, n in sides)
    return here, there
