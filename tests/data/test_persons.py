"""The scans of one person are kept together, whatever the data set calls them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medrd.config import SplitConfig, make_config
from medrd.data.persons import person_of
from medrd.data.split import split_subjects
from medrd.errors import ConfigError, LeakageError
from medrd.run.cohort import load_cohort

GLIOMAS = [f"BraTS-GLI-{person:05}-{time:03}" for person in range(12) for time in range(3)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("BraTS-GLI-00003-000", "BraTS-GLI-00003-001"),
        ("brats-men-rt-0012-1", "brats-men-rt-0012-2"),
        ("Brats18_CBICA_AAB_1", "Brats18_CBICA_AAB_2"),
        ("sub-01_ses-1", "sub-01_ses-2"),
        ("sub-01_ses-1_run-1_FLAIR", "sub-01"),
        ("anna_ses-pre", "anna_ses-post"),
        ("UPENN-GBM-00001_11", "UPENN-GBM-00001_21"),
        ("UCSF-PDGM-0289", "UCSF-PDGM-0289_FU001d"),
        ("ADNI_002_S_0295_MR_a", "ADNI_002_S_0295_MR_b"),
        ("OAS30001_MR_d0129", "OAS30001_MR_d0757"),
        ("training01_01", "training01_04"),
        ("ADNI_002_S_0295", "002_S_0295_I123"),
        ("Patient-001_week-000-1", "Patient-001_week-044"),
        ("TCGA-CS-4941_19960909", "TCGA-CS-4941_1997.01.20"),
        ("anna_v1", "anna_V02"),
        ("anna_tp1_FLAIR", "anna-timepoint-2_FLAIR"),
        ("anna_baseline", "anna_m12"),
        ("anna_BL", "anna_fu1"),
        ("anna_pre", "anna_post-op"),
    ],
)
def test_names_of_public_data_sets_tell_the_person(first: str, second: str) -> None:
    assert person_of(first, None) == person_of(second, None)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("BraTS-GLI-00003-000", "BraTS-GLI-00004-000"),
        ("BraTS-GLI-00003-000", "BraTS-MET-00003-000"),
        ("BraTS2021_00001", "BraTS2021_00002"),
        ("Brats17_2013_1_1", "Brats17_2013_2_1"),
        ("sub-01_ses-1", "sub-011_ses-1"),
        ("scan_1", "scan_2"),
        ("BRATS_001", "BRATS_002"),
        ("Brats18_TCIA01_401_1", "Brats18_TCIA01_411_1"),
        ("anna_v1", "bob_v1"),
        ("training01_01", "training02_01"),
        ("patient_1_t1", "patient_1_t2"),  # two points in time, or two modalities
        ("site_20200101", "site_20200102"),
    ],
)
def test_other_names_are_other_people(first: str, second: str) -> None:
    assert person_of(first, None) != person_of(second, None)


@pytest.mark.parametrize("seed", range(10))
def test_a_person_is_on_one_side_with_all_scans(seed: int) -> None:
    split = split_subjects(GLIOMAS, SplitConfig(train=0.5, calibration=2, test=0.3), seed=seed)
    sides = [split.train, split.calibration, split.test]
    assert [len(side) for side in sides] == [3 * 6, 3 * 2, 3 * 4]
    assert sum(len({person_of(id, None) for id in side}) for side in sides) == 12


def test_scans_that_only_their_visits_join_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("anna_v1", "anna_v2", "bob_v1", "sub-01_ses-1", "sub-01_ses-2", "carl"):
        (tmp_path / f"{name}.nii").touch()
    raw = {"data": {"root": str(tmp_path), "split": {"train": 2, "calibration": 1, "test": 1}}}
    for _ in range(2):
        load_cohort(make_config(raw))
    (said,) = [text for text in caplog.messages if "by their names" in text]
    assert said.startswith("Judging by their names, 2 scans are of 1 person (anna_v1, anna_v2)")


def test_a_pattern_that_matches_no_id_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "abcd":
        (tmp_path / f"{name}_v1.nii").touch()
    split = {"train": 2, "calibration": 1, "test": 1}
    for pattern in ("(.)_v", "patient(.)"):
        data = {"root": str(tmp_path), "split": split, "subject_pattern": pattern}
        load_cohort(make_config({"data": data}))
    (said,) = [text for text in caplog.messages if "subject_pattern" in text]
    assert "patient(.), matches none of the 4 subjects' ids (the first is a_v1)" in said


def test_a_pattern_of_ones_own_decides() -> None:
    ids = [f"{visit}-{person}" for person in "abcdef" for visit in ("before", "after")]
    half = SplitConfig(train=3, calibration=0, test=3)
    split = split_subjects(ids, half, seed=0, pattern="-(.)$")
    assert not {id[-1] for id in split.train} & {id[-1] for id in split.test}
    # As many people as ids: the known names count no longer.
    apart = SplitConfig(train=30, calibration=0, test=6)
    assert len(split_subjects(GLIOMAS, apart, seed=0, pattern="(.*)").train) == 30
    with pytest.raises(ConfigError, match=r"12 subjects left of 36.*one person count once"):
        split_subjects(GLIOMAS, apart, seed=0)


def test_a_person_listed_on_two_sides_is_leakage() -> None:
    listed = SplitConfig(train=(GLIOMAS[0],), calibration=0, test=(GLIOMAS[1],))
    with pytest.raises(LeakageError, match=r"-00000-001, and .*-00000-000 of the same person"):
        split_subjects(GLIOMAS, listed, seed=0)


def test_other_scans_of_a_listed_person_are_on_no_other_side() -> None:
    config = SplitConfig(train=0.9, calibration=0.1, test=(GLIOMAS[4],))
    split = split_subjects(GLIOMAS, config, seed=0)
    assert split.test == (GLIOMAS[4],)
    assert len(split.train + split.calibration) == 33
    assert not {GLIOMAS[3], GLIOMAS[5]} & {*split.train, *split.calibration}


def test_the_config_has_the_pattern(tmp_path: Path) -> None:
    for name in ("x1-a", "x1-b", "x2-a", "x2-b"):
        nib.save(
            nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)), tmp_path / f"{name}.nii"
        )
    raw = {"data": {"root": str(tmp_path), "split": {"train": 1, "calibration": 0, "test": 1}}}
    raw["data"]["subject_pattern"] = "x."
    assert {len(side) for side in (load_cohort(make_config(raw)).split.train,)} == {2}
    raw["data"]["subject_pattern"] = "("
    with pytest.raises(ConfigError, match="regular expression"):
        make_config(raw)
