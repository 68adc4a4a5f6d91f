"""The inputs that ``medrd prepare`` finds; only names matter, so the files are empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from dicoms import write_series
from folders import touch
from medrd.errors import ConfigError, InputError
from medrd.preparation.inputs import find_raw


def found(*paths: Path, **options: Any) -> tuple[dict[str, list[str]], list[InputError]]:
    cases, errors = find_raw(paths, **options)
    subjects = {
        (case.place / case.subject.id).as_posix(): sorted(case.subject.images) for case in cases
    }
    return subjects, errors


def test_files_whose_names_differ_in_their_modality_are_one_subject(tmp_path: Path) -> None:
    touch(tmp_path, "site/a/a_flair.nii.gz", "site/a/a_t1.nii", "site/a/a_seg.nii.gz")
    touch(tmp_path, "flat/b_T1w.nii.gz", "flat/b_ce-gad_T1w.nii.gz", "flat/c_FLAIR.nii.gz")
    assert found(tmp_path) == (
        {"site/a": ["flair", "t1"], "flat/b": ["t1", "t1ce"], "flat/c": ["flair"]},
        [],
    )
    files = [tmp_path / "flat" / "b_T1w.nii.gz", tmp_path / "flat" / "c_FLAIR.nii.gz"]
    assert found(*files)[0] == {"b": ["t1"], "c": ["flair"]}


def test_a_folder_a_modality_is_one_subject_too(tmp_path: Path) -> None:
    touch(tmp_path, "pat/t1/pat_t1.nii.gz", "pat/flair/pat_flair.nii.gz", "pat2/pat2_t1.nii.gz")
    touch(tmp_path, "x/1_long/x_t1.nii.gz", "x/2_dark/x_flair.nii.gz")
    touch(tmp_path, "site/q/T1w/scan.nii.gz", "site/q/FLAIR/scan.nii.gz")
    touch(tmp_path, "all/t1/a.nii.gz", "all/t1/b.nii.gz", "all/flair/b.nii.gz", "all/flair/a.nii")
    assert found(tmp_path) == (
        {
            "pat": ["flair", "t1"],
            "pat2": ["t1"],
            "x/x": ["flair", "t1"],
            "site/q": ["flair", "t1"],
            "all/a": ["flair", "t1"],
            "all/b": ["flair", "t1"],
        },
        [],
    )
    assert found(tmp_path / "site" / "q" / "T1w")[0] == {"q": ["t1"]}


def test_a_modality_twice_fails_its_subject_and_no_other(tmp_path: Path) -> None:
    touch(tmp_path, "a_T1w.nii.gz", "a_t1.nii.gz", "a_flair.nii.gz", "b_t1.nii.gz")
    touch(tmp_path, "c/ses1/c_t1.nii.gz", "c/ses2/c_t1.nii.gz")
    subjects, errors = found(tmp_path)
    assert subjects == {"b": ["t1"]}
    assert [error.expected for error in errors] == [
        "one scan of each modality of a",
        "one scan of each modality of c",
    ]
    assert "a_T1w.nii.gz" in errors[0].found
    assert "a_t1.nii.gz" in errors[0].found


def test_what_was_prepared_among_raw_scans_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a_t1.nii.gz", "out/a/a_t1.nii.gz", "out/a/a_prepare.json")
    assert found(tmp_path) == ({"a": ["t1"]}, [])


def test_a_name_that_says_nothing_needs_the_modality(tmp_path: Path) -> None:
    touch(tmp_path, "scan.nii.gz", "b_t1.nii.gz")
    subjects, (error,) = found(tmp_path)
    assert subjects == {"b": ["t1"]}
    assert "--modality" in error.remedy
    assert found(tmp_path, modality="flair")[0] == {"scan": ["flair"], "b": ["t1"]}
    with pytest.raises(ConfigError, match="one of flair"):
        find_raw([tmp_path], modality="ct")
    touch(tmp_path / "other", "b_adc.nii.gz")
    assert "--modality" in found(tmp_path / "other")[1][0].remedy


def test_an_option_that_would_do_nothing_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "b_t1.nii.gz")
    with pytest.raises(ConfigError, match=r"--modality: .*names that all do, such as b_t1"):
        find_raw([tmp_path], modality="flair")
    assert found(tmp_path, modality="flair", must_use=False)[0] == {"b": ["t1"]}
    with pytest.raises(ConfigError, match="--series: expected DICOM series"):
        find_raw([tmp_path], series="1.2.3")


def test_a_session_of_a_bids_dataset_is_a_subject(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"sub-01/ses-a/anat/sub-01_ses-a_{kind}.nii.gz" for kind in ("T1w", "FLAIR")),
        "sub-02/anat/sub-02_acq-x_T1w.nii.gz",
        *(f"sub-03/anat/sub-03_run-{run}_T1w.nii.gz" for run in (1, 2, 3)),
        "sub-03/anat/sub-03_T2w.nii.gz",
    )
    (tmp_path / "dataset_description.json").write_text('{"BIDSVersion": "1.10.0"}')
    subjects, (error,) = found(tmp_path)
    assert subjects == {
        "sub-01/ses-a/sub-01_ses-a": ["flair", "t1"],
        "sub-02/sub-02": ["t1"],
    }
    assert error.expected == "one scan of each modality of sub-03"
    assert all(f"run-{run}" in error.found for run in (1, 2, 3))


def test_dicom_folders_called_as_modalities_are_one_subject(tmp_path: Path) -> None:
    for name in ("pat/t1", "pat/FLAIR", "plain"):
        write_series(tmp_path / name, np.ones((3, 4, 4)))
    subjects, (error,) = found(tmp_path)
    assert subjects == {"pat": ["flair", "t1"]}
    assert error.where.endswith("plain")
    assert found(tmp_path / "plain", modality="t2")[0] == {"plain": ["t2"]}


def test_a_scout_below_a_folder_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def scout(data: Dataset, number: int) -> None:
        data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    write_series(tmp_path / "pat" / "t1", np.ones((3, 4, 4)))
    write_series(tmp_path / "pat" / "scout", np.ones((3, 4, 4)), change=scout)
    (tmp_path / "DICOMDIR").write_text("an index")
    assert found(tmp_path / "DICOMDIR") == ({"pat": ["t1"]}, [])
    assert "1 left out" in caplog.text
    assert str(tmp_path / "pat" / "scout") in caplog.text


def test_two_subjects_of_one_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "x/a_t1.nii.gz", "y/a_t1.nii.gz")
    with pytest.raises(ConfigError, match="same output name a"):
        find_raw([tmp_path / "x" / "a_t1.nii.gz", tmp_path / "y" / "a_t1.nii.gz"])
