"""A tiny cohort and a run on it, for fixtures and for tests that need more of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def tiny_brain(seed: int) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.float64]]:
    """A smooth ellipsoid with a bright ball, its label, and the affine.

    48 x 48 x 24 voxels of 4 mm, LPS.
    """
    rng = np.random.default_rng(seed)
    shape = (48, 48, 24)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype(float)
    radii = np.array([18.0, 21.0, 10.5]) + rng.uniform(-1, 1, 3)
    brain = (((grid - np.array([23.5, 23.5, 11.5])) / radii) ** 2).sum(-1) < 1
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    image = 300 + 60 * texture / texture.std()
    centre = np.array([rng.uniform(17, 30), rng.uniform(17, 30), rng.uniform(8, 11)])
    lesion = (((grid - centre) / [4, 4, 2.2]) ** 2).sum(-1) < 1
    image[lesion] += 350
    affine = np.diag([-4.0, -4.0, 4.0, 1.0])
    affine[:3, 3] = [94, 110, -40]
    scan = np.where(brain, np.clip(image, 20, None), 0).astype(np.int16)
    return scan, (lesion & brain).astype(np.uint8), affine


def write_tiny_subject(folder: Path, name: str, seed: int) -> None:
    """FLAIR and label of :func:`tiny_brain` in BraTS's layout."""
    image, label, affine = tiny_brain(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, array in (("flair", image), ("seg", label)):
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}_{suffix}.nii.gz")


def make_tiny_raw(root: Path, cache: Path) -> dict[str, Any]:
    return {
        "data": {
            "root": str(root),
            "cache": str(cache),
            "healthy_margin": 1,
            "split": {"train": 2, "calibration": 2, "test": 2},
        },
        "recipe": {"size": 64, "min_brain_mm2": 2000},
        "scoring": {"image_score": "top"},
        "train": {"epochs": 2, "batch_size": 4, "device": "cpu", "precision": "fp32"},
    }


def brighter_copies(scan: Path, count: int) -> list[Path]:
    """The same brain, a little brighter each, so that no two files are alike."""
    image = nib.load(scan)
    made = []
    for i in range(count):
        array = np.asarray(image.dataobj)
        path = scan.parent / f"copy_{i}.nii.gz"
        nib.save(nib.Nifti1Image(np.where(array, array + i, 0), image.affine), path)
        made.append(path)
    return made
