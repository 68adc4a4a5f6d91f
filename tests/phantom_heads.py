"""Heads of a few ellipsoids, with skull and neck, on any grid and anywhere in the scanner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from medrd.images.volume import Volume, volume_from_array
from medrd.preparation import register, similarity
from medrd.preparation.linear import Matrix
from medrd.preparation.template import Template, load_template

# In T1 and FLAIR: grey, white, fluid, nuclei, skull, scalp, muscle.
_VALUES = {"t1": (90, 140, 25, 115, 6, 170, 80), "flair": (120, 95, 12, 105, 4, 110, 60)}
LESION_MM, LESION_RADIUS_MM = np.array([30.0, -20.0, 25.0]), 12.0


def affine_of(spacing_mm: ArrayLike, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """RAS voxels of a size, the grid's centre at 0."""
    affine = np.diag([*np.broadcast_to(spacing_mm, 3), 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


def points_of(shape: tuple[int, int, int], affine: NDArray) -> NDArray[np.float64]:
    return np.stack(np.indices(shape), -1) @ affine[:3, :3].T + affine[:3, 3]


def _ball(points: NDArray, centre: ArrayLike, radii: ArrayLike) -> NDArray[np.float64]:
    """Distance from the centre, 1 on the surface."""
    return np.sqrt((((points - centre) / radii) ** 2).sum(-1))


def brain_at(points: NDArray) -> NDArray[np.bool_]:
    """Whether points are in the brain, in its own coordinates."""
    cerebrum = _ball(points, (0, 0, 0), (67, 84, 60)) < 1
    return cerebrum | (_ball(points, (0, -42, -42), (48, 34, 34)) < 1)


def head_at(
    points: NDArray, modality: str, *, skull: bool = True, lesion: bool = False
) -> NDArray[np.float64]:
    grey, white, fluid, nuclei, bone, scalp, muscle = _VALUES[modality]
    shell = _ball(points, (0, 0, -4), (67, 84, 64))
    value = np.zeros(points.shape[:-1])
    if skull:
        x, y, z = np.moveaxis(points, -1, 0)
        value[(np.hypot(x / 55, (y + 15) / 60) < 1) & (z < -40)] = muscle
        value[_ball(points, (0, 88, -55), (45, 30, 50)) < 1] = muscle
        for limit, tissue in ((1.32, scalp), (1.2, bone), (1.1, fluid)):
            value[shell < limit] = tissue
    brain = brain_at(points)
    value[brain] = grey
    value[_ball(points, (0, 4, 4), (52, 68, 44)) < 1] = white
    x, y, z = np.moveaxis(points, -1, 0)
    folds = np.sin(x / 5) + np.sin(y / 6 + 1) + np.sin(z / 5.5 + 2) > 0.9
    value[brain & folds & (_ball(points, (0, 4, 4), (56, 72, 48)) > 1)] = fluid
    for side in (-1, 1):
        value[_ball(points, (side * 13, 0, 10), (8, 32, 11)) < 1] = fluid
        value[_ball(points, (side * 26, 12, 0), (11, 22, 12)) < 1] = nuclei
    value[_ball(points, (-34, 45, 18), (14, 10, 12)) < 1] = grey
    value[_ball(points, (30, -50, 20), (9, 14, 10)) < 1] = nuclei
    if lesion:
        value[_ball(points, LESION_MM, LESION_RADIUS_MM) < 1] = 260
    return value


def make_head(
    modality: str,
    *,
    to_head: Matrix | None = None,
    spacing_mm: ArrayLike = 4.0,
    shape: tuple[int, int, int] = (56, 64, 64),
    skull: bool = True,
    lesion: bool = False,
    seed: int = 0,
) -> Volume:
    """A scan; ``to_head`` takes the scanner's world to the head's own."""
    affine = affine_of(spacing_mm, shape)
    to_head = np.eye(4) if to_head is None else to_head
    points = points_of(shape, to_head @ affine)
    value = head_at(points, modality, skull=skull, lesion=lesion)
    noise = np.random.default_rng(seed).normal(1, 0.03, shape)
    smooth = ndimage.gaussian_filter(value, 0.5) if skull else value
    return volume_from_array(np.clip(smooth * noise, 0, None), affine)


def save(volume: Volume, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume.array, volume.affine), path)
    return path


def coarse_template(*files: Path | None) -> Template:
    """Its prepared scans have voxels of 4 mm, as 64 times as many would tell no more."""
    fine = load_template(*files)
    coarse = np.diag([4.0, 4.0, 4.0, 1.0])
    coarse[:3, 3] = 1.5
    return replace(fine, shape=(60, 60, 39), affine=fine.affine @ coarse)


def take_few_samples(patch: pytest.MonkeyPatch) -> None:
    """Register in half of the time; test_real_heads.py takes all samples."""
    patch.setattr(similarity, "MOST_POINTS", 1000)
    patch.setattr(register, "FINE_SHARE", 0.1)
