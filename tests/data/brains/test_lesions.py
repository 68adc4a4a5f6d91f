"""The label values that mark lesions, and labels that mark something else."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medrd.config import make_config
from medrd.data.brains.lesions import read_lesions
from medrd.data.subject import Source, Subject
from medrd.errors import ConfigError
from medrd.images.nifti import read_nifti
from medrd.images.volume import Volume
from medrd.run.cohort import load_cohort, try_sides
from tiny import tiny_brain, write_tiny_subject


@pytest.fixture
def scan(tmp_path: Path) -> Volume:
    """A subject whose label is 1 in the brain and 2 in the lesion."""
    write_tiny_subject(tmp_path / "data" / "a", "a", seed=1)
    image, lesion, affine = tiny_brain(1)
    both = np.where(lesion, 2, image > 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(both, affine), tmp_path / "data" / "a" / "a_seg.nii.gz")
    return read_nifti(tmp_path / "data" / "a" / "a_flair.nii.gz")


def subject(tmp_path: Path, *labels: int) -> Subject:
    label = Source(tmp_path / "data" / "a" / "a_seg.nii.gz")
    return Subject("a", {}, label, lesion_labels=labels)


def test_a_label_of_the_brain_is_warned_of_unless_its_lesions_are_named(
    scan: Volume, tmp_path: Path
) -> None:
    _, lesion, _ = tiny_brain(1)
    everything = read_lesions(subject(tmp_path), scan, max_voxels=10**6)
    assert everything.mask.sum() == np.count_nonzero(scan.array)
    (warning,) = everything.warnings
    assert "covers 100% of the brain (values 1, 2)" in warning
    assert "data.lesion_labels" in warning

    named = read_lesions(subject(tmp_path, 2, 4), scan, max_voxels=10**6)
    np.testing.assert_array_equal(named.mask, lesion > 0)
    assert named.warnings == ()


def test_a_label_that_marks_all_outside_the_brain_is_warned_of(
    scan: Volume, tmp_path: Path
) -> None:
    _, lesion, affine = tiny_brain(1)
    outside = np.where(scan.array == 0, 255, lesion > 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(outside, affine), tmp_path / "data" / "a" / "a_seg.nii.gz")
    (warning,) = read_lesions(subject(tmp_path), scan, max_voxels=10**6).warnings
    assert "of the volume (values 1, 255)" in warning


def test_a_label_that_misses_the_brain_is_warned_of(scan: Volume, tmp_path: Path) -> None:
    corner = np.zeros(scan.shape, np.uint8)
    corner[:3, :3, :3] = 1
    nib.save(nib.Nifti1Image(corner, scan.affine), tmp_path / "data" / "a" / "a_seg.nii.gz")
    (warning,) = read_lesions(subject(tmp_path), scan, max_voxels=10**6).warnings
    assert "Only 0% of the label" in warning


def test_a_label_without_the_named_values_is_warned_of(scan: Volume, tmp_path: Path) -> None:
    lesions = read_lesions(subject(tmp_path, 3), scan, max_voxels=10**6)
    assert not lesions.mask.any()
    assert "none of data.lesion_labels (3), but 1, 2" in lesions.warnings[0]


def test_the_config_chooses_the_healthy_slices(
    scan: Volume, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def touched(**data: object) -> int:
        raw = {
            "data": {"root": str(tmp_path / "data"), "cache": str(tmp_path / "cache"), **data},
            "recipe": {"size": 64, "min_brain_mm2": 2000},
        }
        raw["data"] |= {"split": {"train": 1, "calibration": 0, "test": 0}}
        config = make_config(raw)
        with caplog.at_level(logging.WARNING, "medrd"):
            cached, errors = try_sides(load_cohort(config), ["train"], config)
        assert not errors
        return len(cached["a"].lesion_slices)

    _, lesion, _ = tiny_brain(1)
    assert touched(lesion_labels=[2]) == np.count_nonzero(lesion.any((0, 1)))
    assert not caplog.records
    assert touched() == np.count_nonzero(scan.array.any((0, 1)))
    assert "a: The label a_seg.nii.gz covers 100% of the brain" in caplog.text
    with pytest.raises(ConfigError, match="lesion_labels"):
        touched(lesion_labels=[0])
