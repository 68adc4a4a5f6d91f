"""From given paths to cases: the files and outputs of each, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import BasicTextSRStorage

from dicoms import write_series
from folders import touch
from medrd.config import RecipeConfig
from medrd.data.brains.find import find_scans
from medrd.data.names import named_kind
from medrd.data.subject import Source
from medrd.errors import ConfigError, MissingInputError, WrongKindError
from medrd.images.dicom_series import find_series

ONE = RecipeConfig()
THREE = RecipeConfig(channels=("flair", "t1", "t2"))


def outputs(inputs: list[Path], recipe: RecipeConfig = ONE) -> list[str]:
    cases, errors, _ = find_scans(inputs, recipe)
    assert errors == []
    return sorted(str(case.place / case.subject.id) for case in cases)


def test_a_file_a_subject_and_a_tree_of_both(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "in/x.nii", "in/deep/y.nii.gz", "in/s1/s1_flair.nii.gz")
    touch(tmp_path, "in/s1/s1_t1.nii.gz", "in/s1/s1_seg.nii.gz", "in/notes.txt")
    touch(tmp_path, "in/b/s2/s2-t2f.nii.gz")
    assert outputs([tmp_path / "a.nii.gz"]) == ["a"]
    assert outputs([tmp_path / "in" / "s1"]) == ["s1"]
    assert outputs([tmp_path / "in"]) == ["b/s2", "deep/y", "s1", "x"]


def test_a_scan_in_two_files_is_one_case_whichever_is_given(tmp_path: Path) -> None:
    touch(tmp_path, "a.hdr", "a.img", "b.mgz", "c.nrrd", "d.mha", "e.raw", "f.img", "a_seg.mha")
    (tmp_path / "e.mhd").write_text("DimSize = 1 1 1\nElementDataFile = e.raw\n")
    assert outputs([tmp_path]) == ["a", "b", "c", "d", "e"]
    names = ["a.img", "a.hdr", "e.raw", "e.mhd"]
    assert outputs([tmp_path / name for name in names]) == ["a", "e"]
    assert outputs([tmp_path / "a.img"]) == ["a"]
    cases = find_scans([tmp_path / "a.img"], ONE).cases
    assert cases[0].first_file.name == "a.hdr"
    assert outputs([tmp_path / "d.mha"]) == ["d"]


def test_the_channels_of_the_model_are_picked_in_its_order(tmp_path: Path) -> None:
    touch(tmp_path, *(f"s/s_{m}.nii.gz" for m in ("t2", "t1", "t1ce", "flair", "seg")))
    ((case,), errors, _) = find_scans([tmp_path / "s"], THREE)
    assert errors == []
    assert list(case.subject.images) == ["flair", "t1", "t2"]
    assert case.subject.label is not None
    assert case.subject.label.path.name == "s_seg.nii.gz"


def test_a_subject_without_a_modality_is_an_error_and_the_other_is_a_case(tmp_path: Path) -> None:
    touch(tmp_path, *(f"a/a_{m}.nii.gz" for m in ("flair", "t1", "t2")), "b/b_flair.nii.gz")
    cases, (error,), _ = find_scans([tmp_path], THREE)
    assert [case.subject.id for case in cases] == ["a"]
    assert isinstance(error, MissingInputError)
    assert error.where == str(tmp_path / "b" / "b_flair.nii.gz")


@pytest.mark.parametrize(
    ("names", "recipe", "expected", "found", "remedy"),
    [
        (["b_t1"], ONE, "flair,", "only t1", "with its flair too, or a model of t1."),
        (["b-t1n", "b-t2w"], ONE, "flair,", "only t1 and t2", "or a model of t1 and t2."),
        (["b_flair"], THREE, "flair, t1 and t2,", "only flair", "with its t1 and t2 too, or a"),
        (["b"], THREE, "flair, t1 and t2,", "only b.nii.gz", "Give the folder of a subject"),
    ],
)
def test_what_a_subject_has_instead_of_a_modality_is_said(
    names: list[str], recipe: RecipeConfig, expected: str, found: str, remedy: str, tmp_path: Path
) -> None:
    touch(tmp_path, *(f"b/{name}.nii.gz" for name in names))
    _, (error,), _ = find_scans([tmp_path / "b"], recipe)
    assert error.expected.startswith(f"{expected} which the model was trained on")
    assert error.found == found
    assert remedy in error.remedy


def test_labels_outputs_and_hidden_files_of_a_folder_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "a_mask.nii.gz", "a_seg.nii.gz", "a_anomaly.nii.gz")
    touch(tmp_path, "._a.nii.gz", ".hidden/b.nii.gz")
    assert outputs([tmp_path]) == ["a"]
    # asked for by name it is predicted all the same
    assert outputs([tmp_path / "a_anomaly.nii.gz"]) == ["a_anomaly"]


def test_another_file_of_a_brats_subject_is_refused_and_the_right_one_named(tmp_path: Path) -> None:
    touch(tmp_path, *(f"s/s_{m}.nii.gz" for m in ("flair", "t1", "seg")), "plain/p_t1.nii.gz")
    for kind, said in (("t1", "t1"), ("seg", "label")):
        cases, (error,), _ = find_scans([tmp_path / "s" / f"s_{kind}.nii.gz"], ONE)
        assert cases == []
        assert isinstance(error, WrongKindError)
        assert said in error.found
        assert "s_flair.nii.gz" in error.remedy
    # By itself it may be what the model was trained on, under another channel's name.
    assert outputs([tmp_path / "plain" / "p_t1.nii.gz"]) == ["p_t1"]


def test_a_scan_that_is_given_as_a_file_knows_its_label(tmp_path: Path) -> None:
    touch(tmp_path, "s/s_flair.nii.gz", "s/s_seg.nii.gz", "x.nii.gz", "x_seg.nii.gz", "y.nii.gz")
    touch(tmp_path, "y_mask.nii.gz")  # which may be medrd's own
    given = [tmp_path / "s" / "s_flair.nii.gz", tmp_path / "x.nii.gz", tmp_path / "y.nii.gz"]
    labels = [case.subject.label for case in find_scans(given, ONE)[0]]
    assert [label and label.path.name for label in labels] == ["s_seg.nii.gz", "x_seg.nii.gz", None]


def test_one_bad_folder_spares_its_neighbours(tmp_path: Path) -> None:
    touch(tmp_path, "two/a_flair.nii.gz", "two/a_flair.nii", "good/c_flair.nii.gz")
    cases, errors, _ = find_scans([tmp_path], ONE)
    assert [case.subject.id for case in cases] == ["c"]
    assert [error.where for error in errors] == [str(tmp_path / "two" / "a_flair.nii.gz")]


def test_subjects_that_share_a_folder_are_a_case_each_in_its_place(tmp_path: Path) -> None:
    touch(tmp_path, *(f"in/flat/{s}_{m}.nii.gz" for s in "ab" for m in ("flair", "t1", "seg")))
    touch(tmp_path, "in/own/c_FLAIR.nii.gz", "in/own/d.NII.GZ", "in/e/e_flair.nii.gz")
    assert outputs([tmp_path / "in" / "flat"]) == ["a", "b"]
    # A subject's own folder adds nothing to its name; a folder of several keeps them apart.
    assert outputs([tmp_path / "in"]) == ["c", "e", "flat/a", "flat/b"]


def test_what_is_found_and_not_taken_is_named_with_the_reason(tmp_path: Path) -> None:
    touch(tmp_path, "A_flair.nii.gz", "B_FLAIR.nii.gz", "C.nii.gz", "B_Seg.nii.gz", "D_T1w.nii.gz")
    cases, errors, left_out = find_scans([tmp_path], ONE)
    assert errors == []
    assert [case.subject.id for case in cases] == ["A", "B"]
    assert cases[1].subject.label is not None
    reasons = {other.path.name: other.reason for other in left_out}
    assert reasons.keys() == {"C.nii.gz", "D_T1w.nii.gz"}
    assert "does not end in a modality" in reasons["C.nii.gz"]
    assert "t1 by its name" in reasons["D_T1w.nii.gz"]


def test_of_a_session_in_a_plain_folder_only_the_models_modality_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, *(f"w1/{name}.nii.gz" for name in ("FLAIR", "T1", "CT1", "DTI_FA", "x", "gt")))
    touch(tmp_path, "w2/T1.nii.gz")  # which the guard warns of
    cases, _, left_out = find_scans([tmp_path], ONE)
    assert [f"{case.place}/{case.subject.id}" for case in cases] == ["w1/FLAIR", "w1/x", "w2/T1"]
    reasons = {other.path.name: other.reason for other in left_out}
    assert reasons.keys() == {"T1.nii.gz", "CT1.nii.gz", "DTI_FA.nii.gz"}
    assert "t1ce by its name, beside a flair" in reasons["CT1.nii.gz"]
    assert find_scans([tmp_path], THREE).left_out == []  # which takes the T1 too


@pytest.mark.parametrize("folder", ["masks", "labels"])
def test_labels_in_a_folder_beside_the_images_are_no_scans(tmp_path: Path, folder: str) -> None:
    """The accent is one character in one name, two in the other, as macOS writes it."""
    touch(tmp_path, "images/a\u0301.nii.gz", f"{folder}/\xe1.nii.gz")
    (case,) = find_scans([tmp_path], ONE).cases
    assert case.place == Path("images")
    assert case.subject.label is not None
    assert case.subject.label.path.parent.name == folder


def test_a_series_that_is_not_asked_for_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_series(tmp_path / name, np.ones((2, 4, 4)))
    wanted = find_series(tmp_path / "a")[0].uid
    cases, _, left_out = find_scans([tmp_path], ONE, series=wanted)
    assert [case.subject.id for case in cases] == ["a"]
    assert [other.path for other in left_out] == [tmp_path / "b"]


def test_a_link_that_runs_in_a_circle_is_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.nii.gz")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    assert outputs([tmp_path / "in"]) == ["a"]


@pytest.mark.parametrize(
    "names",
    [("x/a.nii.gz", "y/a.nii.gz"), ("x/a.nii.gz", "x/a.nii.gz")],
)
def test_two_inputs_with_one_output_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(ConfigError, match="same output name a"):
        find_scans([tmp_path / name for name in names], ONE)


def test_two_scans_of_one_name_in_a_folder_fail_and_the_others_are_cases(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.nii.gz", "in/a.nii", "in/b.nii.gz", "in/sub/a.nii.gz")
    for inputs, wanted in (
        ([tmp_path / "in"], ["b", "sub/a"]),
        ([tmp_path / "in" / name for name in ("a.nii", "a.nii.gz", "b.nii.gz")], ["b"]),  # in/*
    ):
        cases, errors, _ = find_scans(inputs, ONE)
        assert sorted(str(case.place / case.subject.id) for case in cases) == wanted
        assert sorted(Path(error.where).name for error in errors) == ["a.nii", "a.nii.gz"]
        assert all("a_anomaly.nii.gz" in error.found for error in errors)
    with pytest.raises(ConfigError, match="same output name"):
        find_scans([tmp_path / "in", tmp_path / "in"], ONE)


def test_a_modality_twice_fails_its_subject_alone(tmp_path: Path) -> None:
    touch(tmp_path, "A_flair.nii.gz", "A_FLAIR.nrrd", "B_flair.nii.gz")
    assert outputs([tmp_path / "B_flair.nii.gz"]) == ["B_flair"]
    (case,), (error,), left_out = find_scans([tmp_path], ONE)
    assert case.subject.id == "B"
    assert "A_FLAIR.nrrd and A_flair.nii.gz" in error.found
    assert left_out == []


def test_labels_beside_images_are_no_scans_without_a_description(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    assert outputs([tmp_path]) == ["imagesTr/a"]


def test_a_folder_of_links_that_lead_nowhere_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "1.dcm").symlink_to(".git/annex/objects/1.dcm")
    _, (error,), _ = find_scans([tmp_path], ONE)
    assert "links to files that are not there" in error.found
    assert "datalad get" in error.remedy


def test_a_scan_must_not_take_the_place_of_the_list_of_errors(tmp_path: Path) -> None:
    touch(tmp_path, "errors.nii.gz", "in/sub/errors.nii.gz")
    with pytest.raises(ConfigError, match="Rename"):
        find_scans([tmp_path / "errors.nii.gz"], ONE)
    assert outputs([tmp_path / "in"]) == ["sub/errors"]


def test_nothing_to_do_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no scan"):
        find_scans([], ONE)
    cases, (error,), _ = find_scans([tmp_path / "empty"], ONE)
    assert cases == []
    assert error.where == str(tmp_path / "empty")


def test_a_frame_belongs_to_every_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz")
    ((case,), _, _) = find_scans([tmp_path], ONE, frame=3)
    assert case.subject.images["flair"].frame == 3


def test_a_series_among_no_dicom_files_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz")
    with pytest.raises(ConfigError, match="--series: expected DICOM series"):
        find_scans([tmp_path], ONE, series="1.2.3")


def test_reports_and_scouts_below_a_folder_are_left_out_and_an_index_is_its_folder(
    tmp_path: Path,
) -> None:
    def report(data: Dataset, number: int) -> None:
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage

    def scout(data: Dataset, number: int) -> None:
        data.SeriesDescription = "3-plane localizer"

    voxels = np.ones((3, 4, 4))
    write_series(tmp_path / "disc" / "head", voxels)
    write_series(tmp_path / "disc" / "sr", voxels, change=report)
    write_series(tmp_path / "disc" / "scout", voxels, change=scout)
    (tmp_path / "disc" / "DICOMDIR").write_text("an index")
    for given in (tmp_path / "disc", tmp_path / "disc" / "DICOMDIR"):
        ((case,), errors, left_out) = find_scans([given], ONE)
        assert (case.subject.id, errors) == ("head", [])
        assert {left.path.name: left.reason.split(";")[0] for left in left_out} == {
            "scout": "a scout",
            "sr": "its DICOM files have no image (reports and the like)",
        }
    # Given as the input itself, the one is a case, and reading the other says what it is.
    assert outputs([tmp_path / "disc" / "scout"]) == ["scout"]
    assert outputs([tmp_path / "disc" / "sr"]) == ["sr"]


def test_a_scan_in_a_folder_of_its_own_name_is_that_scan(tmp_path: Path) -> None:
    touch(tmp_path, "in/S/S_flair.nii/s.nii", "in/S/S_seg.nii/x.nii", "in/P.nii.gz/p.nii")
    # A folder that only has such a name is a folder.
    touch(tmp_path, "in/many.nii/a.nii", "in/many.nii/b.nii", "in/empty.nii/notes.txt")
    cases, errors, left_out = find_scans([tmp_path / "in"], ONE)
    assert (errors, left_out) == ([], [])
    found = {str(case.place / case.subject.id): case for case in cases}
    assert found.keys() == {"S", "P", "many.nii/a", "many.nii/b"}
    assert found["S"].first_file == tmp_path / "in/S/S_flair.nii/s.nii"
    assert found["S"].subject.label == Source(tmp_path / "in/S/S_seg.nii/x.nii")
    given = find_scans([tmp_path / "in/S/S_flair.nii"], ONE).cases
    assert [(case.subject.id, case.first_file.name) for case in given] == [("S_flair", "s.nii")]
    assert given[0].subject.label is not None
    assert named_kind(given[0].first_file) == "flair"


def test_nnunets_channels_are_modalities_and_labels_no_scans(tmp_path: Path) -> None:
    """Without its dataset.json, the T1 would be taken for a FLAIR."""
    for case in ("a", "b"):
        touch(tmp_path, f"imagesTr/{case}_0000.nii.gz", f"imagesTr/{case}_0001.nii.gz")
        touch(tmp_path, f"labelsTr/{case}.nii.gz")
    touch(tmp_path, "imagesTs/c_0001.nii.gz")
    names = '{"channel_names": {"0": "T1", "1": "FLAIR"}}'
    (tmp_path / "dataset.json").write_text(names)
    cases, (error,), _ = find_scans([tmp_path], RecipeConfig(channels=("flair", "t1")))
    found = {str(c.place / c.subject.id): c.subject.paths["flair"].name for c in cases}
    assert found == {"imagesTr/a": "a_0001.nii.gz", "imagesTr/b": "b_0001.nii.gz"}
    assert cases[0].subject.label is not None
    assert "c_0001" in error.where
    assert outputs([tmp_path]) == ["imagesTr/a", "imagesTr/b", "imagesTs/c"]
    (tmp_path / "dataset.json").write_text("{}")
    _, errors, _ = find_scans([tmp_path], ONE)
    assert all("dataset.json" in error.where for error in errors)
    assert errors


def test_scans_in_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    for name in ("a.mnc", "b.mif.gz", "c.BRIK", "d.nii.bz2"):
        (tmp_path / name).touch()
    _, (error,), left_out = find_scans([tmp_path], ONE)
    assert (error.found, error.remedy[:21]) == ("files of other formats", "Convert them to NIfTI")
    assert [other.reason.split()[0] for other in left_out] == [
        ".mnc",
        ".mif.gz",
        ".BRIK",
        ".nii.bz2",
    ]
    (tmp_path / "e.nii").touch()
    cases, errors, left_out = find_scans([tmp_path], ONE)
    assert (len(cases), errors, len(left_out)) == (1, [], 4)


def test_a_damaged_description_of_bids_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_FLAIR.nii.gz")
    (tmp_path / "dataset_description.json").write_text('{"BIDSVersion": "1.8', encoding="utf-8")
    assert len(find_scans([tmp_path], ONE).cases) == 1
    assert "dataset_description.json is not JSON with a BIDSVersion" in caplog.text
