"""Varied phantoms: seeded, labelled where they are sick, and unlike one another."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medrd.phantom import disease
from medrd.phantom.cohort import write_cohort
from medrd.phantom.varied import VariedScan, make_varied

MM = 4.0
"""Voxels so coarse that a scan takes a few tenths of a second."""


@pytest.fixture(scope="module")
def scans() -> list[VariedScan]:
    return [make_varied(index, seed=3, voxel_mm=MM) for index in range(8)]


def test_a_seed_gives_the_same_scan_and_another_index_another_one(scans: list[VariedScan]) -> None:
    again = make_varied(1, seed=3, voxel_mm=MM)
    np.testing.assert_array_equal(again.image, scans[1].image)
    np.testing.assert_array_equal(again.labels, scans[1].labels)
    assert not np.array_equal(scans[0].image, scans[1].image)


def test_another_modality_shows_the_same_person_with_its_own_brightness(
    scans: list[VariedScan],
) -> None:
    flair = scans[0].image
    t1, t2 = (make_varied(0, seed=3, voxel_mm=MM, modality=each) for each in ("t1", "t2"))
    brain = flair > 0
    for other in (t1, t2):
        np.testing.assert_array_equal(other.labels, scans[0].labels)
        np.testing.assert_array_equal(other.image > 0, brain)
    # Fluid is dark on FLAIR and T1, and bright on T2.
    fluid = brain & (flair < np.percentile(flair[brain], 10))
    assert np.mean(t1.image[fluid] > np.median(t1.image[brain])) < 0.1
    assert np.mean(t2.image[fluid] > np.median(t2.image[brain])) > 0.7


def test_labels_lie_in_the_brain_and_some_scans_have_none(scans: list[VariedScan]) -> None:
    for scan in scans:
        assert (scan.image[scan.labels > 0] > 0).all()
    # An adult's brain, though a cut-off one may be smaller.
    volumes_ml = [(scan.image > 0).sum() * MM**3 / 1000 for scan in scans]
    assert min(volumes_ml) > 700
    assert max(volumes_ml) < 2200
    healthy = make_varied(0, seed=3, healthy=True, voxel_mm=MM)
    assert not healthy.labels.any()
    assert sum(bool(scan.labels.any()) for scan in scans) >= 4


@pytest.mark.parametrize("kind", [disease.MASS, disease.SPOTS, disease.INFARCT])
def test_each_kind_of_disease_changes_the_scan_where_it_is_labelled(
    kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = [0.0] * 4
    shares[kind] = 1.0
    monkeypatch.setattr(disease, "SHARES", tuple(shares))
    assert any(make_varied(index, voxel_mm=MM).labels.any() for index in range(2))


def test_a_cohort_of_varied_scans_holds_flair_and_label_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "medrd.phantom.cohort.make_varied",
        lambda index, *, seed, healthy: make_varied(index, seed=seed, healthy=healthy, voxel_mm=MM),
    )
    (folder,) = write_cohort(tmp_path, 1, sort="healthy")
    assert folder.name == "Healthy_000"
    names = sorted(path.name for path in folder.glob("*.nii.gz"))
    assert names == ["Healthy_000_flair.nii.gz", "Healthy_000_seg.nii.gz"]
    assert nib.load(folder / names[0]).header.get_zooms() == (MM, MM, MM)
    written = (folder / names[0]).stat().st_mtime_ns
    write_cohort(tmp_path, 1, sort="healthy")  # is kept
    assert (folder / names[0]).stat().st_mtime_ns == written
