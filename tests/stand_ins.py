"""Small data under the names that the documentation gives to a reader's own: ``/data/brats`` …"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from dicoms import write_series
from medrd.phantom.cohort import Phantom
from medrd.phantom.textures import write_texture_set
from tiny import tiny_brain


def small_phantom(index: int, *, seed: int = 0) -> Phantom:
    """The same as ``medrd phantom``, but with 48 x 48 x 24 voxels and quickly."""
    image, lesion, affine = tiny_brain(1000 * seed + index)
    dark = np.where(image > 0, 800 - np.minimum(image, 700), 0).astype(np.int16)
    modalities = {"flair": image, "t1": dark, "t1ce": dark, "t2": image}
    return Phantom(f"Phantom_{index:03d}", modalities, lesion, affine)


def write_brats(root: Path) -> None:
    """Eight subjects in the layout of BraTS up to 2021."""
    for number in range(8):
        name = f"Subject_{number + 1:03d}"
        phantom = small_phantom(number, seed=1)
        for kind, array in {**phantom.modalities, "seg": phantom.labels}.items():
            _save(root / name / f"{name}_{kind}.nii.gz", array, phantom.affine)


def write_brats2023(root: Path) -> None:
    """Three subjects in the layout of BraTS from 2023, FLAIR and label."""
    for number in range(3):
        name = f"BraTS-GLI-{number:05d}-000"
        image, lesion, affine = tiny_brain(5000 + number)
        _save(root / name / f"{name}-t2f.nii.gz", image, affine)
        _save(root / name / f"{name}-seg.nii.gz", lesion, affine)


def write_healthy(root: Path) -> None:
    """A plain folder of six scans without lesions or labels."""
    for number in range(6):
        image, lesion, affine = tiny_brain(2000 + number)
        healthy = np.where(lesion, 300, image).astype(np.int16)
        _save(root / f"volunteer_{number}.nii.gz", healthy, affine)


def write_bids(root: Path) -> None:
    """Two subjects of a BIDS dataset, one with a session."""
    root.mkdir(parents=True)
    description = {"Name": "Simulated", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    for number, stem in enumerate(["sub-01/anat/sub-01", "sub-02/ses-a/anat/sub-02_ses-a"]):
        image, _, affine = tiny_brain(3000 + number)
        _save(root / f"{stem}_FLAIR.nii.gz", image, affine)


def write_dicom(root: Path) -> None:
    """One axial series, ``series``."""
    image, _, _ = tiny_brain(4000)
    slices = image.transpose(2, 1, 0).clip(0).astype(np.uint16)
    write_series(root / "series", slices, spacing_mm=(4.0, 4.0, 4.0))


def write_mvtec(root: Path) -> None:
    """One category in MVTec AD's layout, ``bottle``."""
    write_texture_set(root, categories=["weave"], train=10, test_good=4, test_bad=8, size=96)
    (root / "weave").rename(root / "bottle")


STAND_INS: dict[str, Callable[[Path], None]] = {
    "brats": write_brats,
    "brats2023": write_brats2023,
    "healthy": write_healthy,
    "bids": write_bids,
    "dicom": write_dicom,
    "mvtec": write_mvtec,
}
"""Writers of data by the name after ``/data/`` in the documentation."""


def _save(path: Path, array: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
