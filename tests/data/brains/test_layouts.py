"""The layouts of scan data sets. Only names matter here, so the files are empty."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from folders import touch
from medrd.config import BrainLayout
from medrd.data.brains.brats import subjects_in
from medrd.data.brains.layouts import find_subjects
from medrd.data.subject import Subject
from medrd.errors import ConfigError, InputError, MissingInputError
from medrd.images.formats import is_scan_name

BRATS = ("flair", "t1", "t1ce", "t2")
BRATS_2023 = ("t2f", "t1n", "t1c", "t2w")


def brats(
    folder: str, name: str, kinds: Iterable[str] = (*BRATS, "seg"), end: str = ".nii.gz"
) -> list[str]:
    return [f"{folder}/{name}_{kind}{end}" for kind in kinds]


def brats_2023(name: str) -> list[str]:
    return [f"{name}/{name}-{kind}.nii.gz" for kind in (*BRATS_2023, "seg")]


def find(root: Path, layout: str = "auto", channels: Sequence[str] = ("flair",)) -> list[Subject]:
    return find_subjects(root, layout=layout, channels=channels)


def names(subjects: Sequence[Subject]) -> list[str]:
    return [subject.id for subject in subjects]


@pytest.mark.parametrize("layout", ["auto", "brats"])
@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_brats_until_2021_in_grade_folders(tmp_path: Path, layout: str, end: str) -> None:
    touch(
        tmp_path,
        *brats("LGG/B", "B", end=end),
        *brats("HGG/C", "C", end=end),
        *brats("HGG/A", "A", end=end),
        "survival_data.csv",
        "HGG/A/._A_flair.nii.gz",
    )

    subjects = find(tmp_path, layout, ("t1ce", "flair", "t1"))

    assert names(subjects) == ["A", "B", "C"]
    first = subjects[0]
    # In the config's order, since channels go into the network in this one.
    assert list(first.images) == ["t1ce", "flair", "t1"]
    assert {k: s.path.name for k, s in first.images.items()} == {
        k: f"A_{k}{end}" for k in ("t1ce", "flair", "t1")
    }
    assert {s.frame for s in first.images.values()} == {None}
    assert first.label is not None
    assert first.label.path == tmp_path / f"HGG/A/A_seg{end}"


@pytest.mark.parametrize("layout", ["auto", "brats2023"])
def test_brats_from_2023_on(tmp_path: Path, layout: str) -> None:
    touch(tmp_path, *brats_2023("BraTS-GLI-00002-000"), *brats_2023("BraTS-GLI-00000-000"))

    subjects = find(tmp_path, layout, ("flair", "t1ce", "t2"))

    assert names(subjects) == ["BraTS-GLI-00000-000", "BraTS-GLI-00002-000"]
    assert [s.path.name[-10:-7] for s in subjects[0].images.values()] == ["t2f", "t1c", "t2w"]
    assert subjects[0].label is not None
    assert subjects[0].label.path.name == "BraTS-GLI-00000-000-seg.nii.gz"


def test_the_layout_named_wins_where_both_are_there(tmp_path: Path) -> None:
    touch(tmp_path, *brats("A", "A"), *brats_2023("B"))
    assert names(find(tmp_path, "brats")) == ["A"]
    assert names(find(tmp_path, "brats2023")) == ["B"]


def test_the_case_of_endings_does_not_matter_and_what_is_left_out_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, *brats("A", "A", ("flair", "seg")), *brats("B", "B", ("FLAIR", "Seg")))
    touch(tmp_path, "C/C.nii.gz", "C/C_mask.nii.gz")
    subjects = find(tmp_path)
    assert [(s.id, s.label is None) for s in subjects] == [("A", False), ("B", False)]
    assert [r.getMessage() for r in caplog.records] == [
        f"1 left out: {tmp_path}/C/C.nii.gz (its name does not fit this layout)"
    ]


def test_upenn_and_ucsf(tmp_path: Path) -> None:
    upenn, ucsf = "UPENN-GBM-00001_11", "UCSF-PDGM-0004"
    touch(tmp_path / "a", *brats(upenn, upenn, ("FLAIR", "T1", "T1GD", "T2")))
    touch(tmp_path / "b", *brats(f"{ucsf}_nifti", ucsf, ("FLAIR", "T1", "T1c", "T2", "ADC")))
    touch(tmp_path / "b", f"{ucsf}_nifti/{ucsf}_tumor_segmentation.nii.gz")
    (first,) = find(tmp_path / "a", channels=BRATS)
    (second,) = find(tmp_path / "b", channels=BRATS)
    assert (first.id, first.images["t1ce"].path.name) == (upenn, f"{upenn}_T1GD.nii.gz")
    assert (second.id, second.images["t1ce"].path.name) == (ucsf, f"{ucsf}_T1c.nii.gz")
    assert second.label is not None


def test_labels_in_a_folder_of_their_own_may_end_as_their_images(tmp_path: Path) -> None:
    touch(tmp_path, "images/a_FLAIR.nii.gz", "masks/a_flair.nii.gz")
    (subject,) = find(tmp_path)
    assert subject.id == "a_FLAIR"
    assert subject.label is not None
    touch(tmp_path / "beside", "b_FLAIR.nii.gz", "b_FLAIR_mask.nii.gz")
    (subject,) = find(tmp_path / "beside")
    assert subject.label is not None


def test_only_the_modalities_asked_for_must_be_there(tmp_path: Path) -> None:
    touch(tmp_path, *brats("A", "A", ("t2",)), *brats("B", "B", ("t2", "seg")))
    subjects = find(tmp_path, "auto", ("t2",))
    assert [(s.id, s.label is None) for s in subjects] == [("A", True), ("B", False)]
    with pytest.raises(MissingInputError, match="a flair image of subject A"):
        find(tmp_path)


def test_unfinished_hidden_folders_are_passed_over_but_not_a_hidden_root(tmp_path: Path) -> None:
    root = tmp_path / ".cache" / "cohort"
    touch(
        root,
        *brats("Phantom_000", "Phantom_000"),
        *brats(".Phantom_003.partial", "Phantom_003", ("flair", "t1")),
        *brats(".trash/HGG/D", "D"),
    )
    assert names(find(root)) == ["Phantom_000"]


def test_linked_folders_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    touch(tmp_path, *brats("store/A", "A"))
    root = tmp_path / "cohort"
    root.mkdir()
    (root / "A").symlink_to(tmp_path / "store" / "A")
    (root / "again").symlink_to(tmp_path / "store" / "A")
    (root / "circle").symlink_to(root)
    assert names(find(root)) == ["A"]


def test_subjects_side_by_side_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    touch(tmp_path, *brats(".", "A", ("flair", "seg")), *brats(".", "B", ("flair", "seg", "t1")))
    subjects = find(tmp_path)
    assert names(subjects) == ["A", "B"]
    for subject in subjects:
        assert subject.images["flair"].path.name == f"{subject.id}_flair.nii.gz"
        assert subject.label is not None
        assert subject.label.path.name == f"{subject.id}_seg.nii.gz"
    assert names(subjects_in(tmp_path)) == ["A", "B"]


def test_labels_in_a_folder_of_their_own_belong_to_the_subjects_of_their_names(
    tmp_path: Path,
) -> None:
    """UPENN-GBM's tree."""
    for id in ("UPENN-GBM-00001_11", "UPENN-GBM-00002_11"):
        touch(tmp_path, *(f"images_structural/{id}/{id}_{k}.nii.gz" for k in ("FLAIR", "T1GD")))
    touch(tmp_path, "images_segm/UPENN-GBM-00001_11_segm.nii.gz")
    first, second = find(tmp_path, channels=("flair", "t1ce"))
    assert first.label is not None
    assert first.label.path.name == "UPENN-GBM-00001_11_segm.nii.gz"
    assert second.label is None
    touch(tmp_path, "images_more/UPENN-GBM-00001_11_segm.nii.gz")
    assert find(tmp_path)[0].label is None


def test_a_modality_twice_is_not_chosen_from_by_chance(tmp_path: Path) -> None:
    touch(tmp_path, "A/A_flair.nii", "A/A_flair.nii.gz")
    with pytest.raises(InputError, match=r"A_flair\.nii and A_flair\.nii\.gz"):
        find(tmp_path)
    with pytest.raises(InputError, match=r"A_flair\.nii and"):
        subjects_in(tmp_path / "A")
    touch(tmp_path, "A/B_flair.nii.gz")
    errors: list[InputError] = []
    assert names(subjects_in(tmp_path / "A", errors)) == ["B"]
    assert [error.where for error in errors] == [str(tmp_path / "A" / "A_flair.nii.gz")]


def test_one_folder_of_either_layout(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *brats("A", "Brats18_A_1"),
        *brats_2023("B"),
        "C/scan.nii.gz",
        "C/x_seg.nii.gz",
        "D/_flair.nii.gz",
    )
    (first,), (second,) = subjects_in(tmp_path / "A"), subjects_in(tmp_path / "B")
    assert (first.id, sorted(first.images)) == ("Brats18_A_1", sorted(BRATS))
    assert (second.id, sorted(second.images)) == ("B", sorted(BRATS))
    assert subjects_in(tmp_path / "C") == []
    assert names(subjects_in(tmp_path / "D")) == ["D"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("X.NII.GZ", True), ("x.Nii", True), ("._x.nii.gz", False), ("x.nii.gz.txt", False)],
)
def test_a_nifti_file_is_known_by_its_ending_in_any_case(name: str, expected: bool) -> None:
    assert is_scan_name(Path(name)) == expected


# --- Medical Segmentation Decathlon ----------------------------------------------------


def msd(root: Path, order: object | None) -> None:
    touch(
        root,
        "imagesTr/BRATS_002.nii.gz",
        "imagesTr/BRATS_001.nii.gz",
        "imagesTr/._BRATS_001.nii.gz",
        "labelsTr/BRATS_001.nii.gz",
        "labelsTr/._BRATS_001.nii.gz",
        "imagesTs/BRATS_485.nii.gz",
    )
    if order is not None:
        (root / "dataset.json").write_text(json.dumps({"modality": order}))


@pytest.mark.parametrize(
    ("order", "flair", "t1ce"),
    [
        (None, 0, 2),
        ({"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, 0, 2),
        ({"0": "T1gd", "1": "T2w", "2": "T1w", "3": "FLAIR"}, 3, 0),
    ],
)
def test_msd_frames_follow_dataset_json(
    tmp_path: Path, order: dict[str, str] | None, flair: int, t1ce: int
) -> None:
    msd(tmp_path, order)

    subjects = find(tmp_path, channels=("flair", "t1ce", "t2"))

    assert names(subjects) == ["BRATS_001", "BRATS_002"]
    image = tmp_path / "imagesTr" / "BRATS_001.nii.gz"
    assert {s.path for s in subjects[0].images.values()} == {image}
    assert subjects[0].images["flair"].frame == flair
    assert subjects[0].images["t1ce"].frame == t1ce
    assert subjects[0].label is not None
    assert subjects[0].label.path == tmp_path / "labelsTr" / "BRATS_001.nii.gz"
    assert subjects[1].label is None


def nnunet(root: Path, table: str, names: Sequence[str], end: str = ".nii.gz") -> None:
    for i, _ in enumerate(names):
        touch(root, f"imagesTr/BRATS_001_{i:04}{end}", f"imagesTr/BRATS_002_{i:04}{end}")
    touch(root, f"labelsTr/BRATS_001{end}", "imagesTs/BRATS_003_0000.nii.gz")
    content = {table: dict(enumerate(names)), "labels": {"background": 0, "tumour": 1}}
    (root / "dataset.json").write_text(json.dumps(content))


@pytest.mark.parametrize("layout", ["auto", "msd"])
@pytest.mark.parametrize("end", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("table", ["channel_names", "modality"])
def test_a_file_per_channel_of_nnunet(tmp_path: Path, table: str, end: str, layout: str) -> None:
    nnunet(tmp_path, table, ["T1-w", "T1Gd", "T2w", "FLAIR"], end)
    first, second = find(tmp_path, layout, ("flair", "t1ce"))
    assert first.id == "BRATS_001"
    assert {channel: source.path.name for channel, source in first.images.items()} == {
        "flair": f"BRATS_001_0003{end}",
        "t1ce": f"BRATS_001_0001{end}",
    }
    assert {source.frame for source in first.images.values()} == {None}
    assert first.label is not None
    assert first.label.path.name == f"BRATS_001{end}"
    assert second.label is None


def test_nnunet_channels_that_are_missing_unknown_or_alone(tmp_path: Path) -> None:
    nnunet(tmp_path / "alone", "channel_names", ["zscore"])
    assert [list(s.images) for s in find(tmp_path / "alone")] == [["flair"]] * 2
    nnunet(tmp_path / "other", "channel_names", ["T1", "CT"])
    with pytest.raises(MissingInputError, match="flair image of subject BRATS_001; found t1, ct"):
        find(tmp_path / "other")
    touch(tmp_path, "other/imagesTr/BRATS_001_0002.nii.gz")
    with pytest.raises(ConfigError, match="channel 2"):
        find(tmp_path / "other", channels=("t1",))
    (tmp_path / "other" / "dataset.json").write_text('{"name": "x", "labels": {}}')
    with pytest.raises(ConfigError, match=r"channel_names.*modality.*found the keys name, labels"):
        find(tmp_path / "other", channels=("t1",))


@pytest.mark.parametrize("order", [["FLAIR"], {"1": "FLAIR"}, {"0": 3}, "FLAIR"])
def test_a_damaged_dataset_json_is_named(tmp_path: Path, order: object) -> None:
    msd(tmp_path, order)
    with pytest.raises(ConfigError, match=r"dataset\.json"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"modality": {"0": "FLAIR", "1": "T1", "1": "T2"}}', "the key '1' twice"),
        ('{"modality": {"0": "FLAIR", "1": "flair"}}', "a channel twice: flair, flair"),
        ('{"modality": {"0": "T1"}, "channel_names": {"0": "FLAIR"}}', "two that differ"),
        ('{"channel_names": {"FLAIR": 0}}', "the table {'FLAIR': 0}"),
        ('{"channel_names": {"0": {"name": "FLAIR"}}}', "whose values are not all names"),
    ],
)
def test_a_dataset_json_that_names_channels_in_two_ways_is_refused(
    tmp_path: Path, content: str, found: str
) -> None:
    touch(tmp_path, "imagesTr/a_0000.nii.gz")
    (tmp_path / "dataset.json").write_text(content, encoding="utf-8-sig")
    with pytest.raises(ConfigError) as caught:
        find(tmp_path)
    assert found in caught.value.found


# --- Plain folders ---------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["auto", "folder"])
@pytest.mark.parametrize("channel", ["flair", "ct"])
def test_images_and_masks_in_folders(tmp_path: Path, layout: str, channel: str) -> None:
    touch(
        tmp_path,
        "images/b.nii.gz",
        "images/a.nii",
        "images/c.nii.gz",
        "images/.d.nii.gz",
        "images/notes.txt",
        "masks/a.nii.gz",
        "masks/b_mask.nii.gz",
    )
    subjects = find(tmp_path, layout, (channel,))
    assert names(subjects) == ["a", "b", "c"]
    assert [list(s.images) for s in subjects] == [[channel]] * 3
    assert [s.label and s.label.path.name for s in subjects] == ["a.nii.gz", "b_mask.nii.gz", None]


def test_a_flat_folder_keeps_masks_and_medrds_own_outputs_apart(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *("a.nii.gz", "a_seg.nii.gz", "b.nii.gz", "b-label.nii.gz"),
        *("a_anomaly.nii.gz", "a_mask.nii.gz"),
    )
    subjects = find(tmp_path)
    assert names(subjects) == ["a", "b"]


def test_a_plain_folder_has_one_channel(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz")
    with pytest.raises(ConfigError, match="one channel"):
        find(tmp_path, channels=("flair", "t1", "t2"))


# --- Errors ----------------------------------------------------------------------------


def test_one_id_twice_names_both_places(tmp_path: Path) -> None:
    touch(tmp_path, *brats("HGG/A", "A"), *brats("LGG/A", "A"))
    with pytest.raises(ConfigError, match=r"A twice: .*HGG.* and .*LGG"):
        find(tmp_path)


def test_an_unknown_modality_names_the_known_ones(tmp_path: Path) -> None:
    touch(tmp_path, *brats("A", "A"))
    with pytest.raises(ConfigError, match="flair, t1, t1ce, t2"):
        find(tmp_path, channels=("t2f",))


@pytest.mark.parametrize("layout", BrainLayout)
def test_no_subject_says_what_was_looked_for(tmp_path: Path, layout: str) -> None:
    touch(tmp_path, "README.txt", "sub/scan.dcm")
    with pytest.raises(ConfigError, match=r"expected .*(nii|NIfTI)"):
        find(tmp_path, layout)


def test_files_of_other_names_are_named(tmp_path: Path) -> None:
    touch(tmp_path, *(f"P{i}/scan/brain_{i}.nii.gz" for i in range(5)))
    with pytest.raises(ConfigError) as caught:
        find(tmp_path)
    assert "5 scans" in caught.value.found
    assert "P0/scan/brain_0.nii.gz" in caught.value.found
    for pattern in ("imagesTr/", "_flair.nii.gz", "-t2f.nii.gz", "images/*.nii.gz", "UPENN"):
        assert pattern in caught.value.expected


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing there"):
        find(tmp_path / "missing")
    touch(tmp_path, "file.nii.gz")
    with pytest.raises(ConfigError, match="a file"):
        find(tmp_path / "file.nii.gz")


def test_the_real_subjects_are_found(brats_root: Path) -> None:
    subjects = find(brats_root, channels=BRATS)
    assert len(subjects) >= 12
    for subject in subjects:
        assert subject.label is not None
        assert all(source.path.is_file() for source in subject.images.values())
        assert subject.images["flair"].path.parent.name == subject.id
