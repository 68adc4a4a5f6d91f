"""Missing and superfluous files in picture data sets: all are reported, none is ignored."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from medrd.errors import ConfigError, MissingInputError
from picture_trees import (
    FOLDER,
    LOCO,
    MVTEC,
    MVTEC_2,
    MVTEC_3D,
    VISA_ROWS,
    find,
    touch,
    visa,
    without,
)


@pytest.mark.parametrize(
    ("names", "layout", "missing"),
    [
        (without(MVTEC, "train"), "auto", "a folder train/good;"),
        (without(MVTEC, "test"), "auto", "a folder test;"),
        ([*without(MVTEC, "test/cut"), "test/cut/notes.txt"], "auto", "pictures in test/cut;"),
        (without(MVTEC_2, "validation"), "auto", "a folder validation/good;"),
        (without(LOCO, "validation"), "auto", "a folder validation/good;"),
        (without(MVTEC_3D, "train/good/rgb"), "auto", "a folder train/good/rgb;"),
        (MVTEC_3D, "mvtec", "pictures in train/good;"),
        (MVTEC, "mvtec_loco", "a folder validation/good;"),
        (MVTEC, "visa", "split_csv/1cls.csv;"),
        (MVTEC, "folder", "normal and abnormal"),
        (without(FOLDER, "normal"), "auto", "a folder normal;"),
        (["pictures/000.png"], "auto", "train/good"),
        (["Data/Images/Normal/000.JPG"], "auto", "split_csv/1cls.csv;"),
    ],
)
def test_an_incomplete_tree_says_what_is_missing(
    tmp_path: Path, names: Sequence[str], layout: str, missing: str
) -> None:
    touch(tmp_path / "bottle", names)

    with pytest.raises(ConfigError) as error:
        find(tmp_path, layout)
    assert missing in str(error.value)


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing there"):
        find(tmp_path / "none")


@pytest.mark.parametrize(
    ("names", "lost", "picture", "expected"),
    [
        (MVTEC, "ground_truth/cut/001", "test/cut/001.png", "ground_truth/cut/001_mask.png"),
        (MVTEC, "ground_truth/cut", "test/cut/000.png", "ground_truth/cut/000_mask.png"),
        (
            LOCO,
            "ground_truth/logical",
            "test/logical_anomalies/000.png",
            "ground_truth/logical_anomalies/000/000.png",
        ),
        (MVTEC_3D, "test/crack/gt", "test/crack/rgb/000.png", "test/crack/gt/000.png"),
        (FOLDER, "masks/x", "abnormal/x.png", "masks/x_mask.png"),
    ],
)
def test_a_mask_that_is_lost_is_named_and_stands_where_it_should_be(
    tmp_path: Path,
    names: Sequence[str],
    lost: str,
    picture: str,
    expected: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """So that reading the picture to test on fails by that name."""
    part = touch(tmp_path / "part", without(names, lost))

    [bare] = [s for s in find(tmp_path) if s.images["picture"].path == part / picture]
    assert bare.masks == (part / expected,)
    assert not bare.masks[0].exists()
    assert f"missing: {part / expected}" in caplog.text


@pytest.mark.parametrize(
    ("names", "truth"),
    [(MVTEC, "ground_truth"), (LOCO, "ground_truth"), (FOLDER, "masks")],
)
def test_without_any_masks_labels_still_come_from_the_folders(
    tmp_path: Path, names: Sequence[str], truth: str, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path / "part", names)
    labelled = {s.id: s.anomalous for s in find(tmp_path)}
    touch(tmp_path / "bare/part", without(names, truth))

    bare = find(tmp_path / "bare")

    assert {s.id: s.anomalous for s in bare} == labelled
    assert {s.masks for s in bare} == {()}
    assert "only image-level" in caplog.text


def test_masks_are_expected_in_all_categories_or_none(tmp_path: Path) -> None:
    touch(tmp_path / "bottle", MVTEC)
    touch(tmp_path / "cable", without(MVTEC, "ground_truth"))

    bad = [s for s in find(tmp_path, category="cable") if s.anomalous]
    assert bad
    assert all(len(s.masks) == 1 and not s.masks[0].exists() for s in bad)


@pytest.mark.parametrize(
    ("names", "orphan"),
    [
        (MVTEC, "ground_truth/hole/009_mask.png"),
        (MVTEC, "ground_truth/gone/000_mask.png"),
        (MVTEC_2, "test_public/ground_truth/bad/009_mask.png"),
        (LOCO, "ground_truth/logical_anomalies/009/000.png"),
        (MVTEC_3D, "test/crack/gt/009.png"),
        (FOLDER, "masks/crack/z.png"),
    ],
)
def test_masks_of_no_picture_are_named(
    tmp_path: Path, names: Sequence[str], orphan: str, caplog: pytest.LogCaptureFixture
) -> None:
    part = touch(tmp_path / "part", names)
    before = find(tmp_path)
    touch(part, [orphan])

    assert find(tmp_path) == before
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        f"Masks that belong to no picture: {part / orphan}"
    ]


def test_endings_in_capitals_count_and_names_must_be_unique(tmp_path: Path) -> None:
    part = touch(tmp_path / "part", MVTEC)
    touch(part, ["train/good/002.JPG", "train/good/003.Tiff", "train/good/notes.txt"])
    stems = [s.id[-3:] for s in find(tmp_path) if s.side == "train"]
    assert stems == ["000", "001", "002", "003"]

    touch(part, ["train/good/000.jpg"])
    with pytest.raises(ConfigError, match=r"000\.jpg and 000\.png"):
        find(tmp_path)


# --- VisA's table ---


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ("candle,test,normal,candle/gone.JPG,", MissingInputError, r"line 7 \(candle/gone.JPG\)"),
        ("candle,test,anomaly,candle/a.JPG,", MissingInputError, "its mask in the column mask"),
        ("candle,test,broken,candle/a.JPG,", ConfigError, "'broken' in line 7"),
        ("candle,val,normal,candle/a.JPG,", ConfigError, "'val' in line 7"),
        ("candle,train,anomaly,candle/a.JPG,", ConfigError, "an anomaly in line 7"),
        (VISA_ROWS[0].replace("train", "test"), ConfigError, "0000 again in line 7"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, kind: type[Exception], message: str) -> None:
    touch(tmp_path, ["candle/a.JPG"])
    visa(tmp_path)
    with (tmp_path / "split_csv/1cls.csv").open("a") as file:
        file.write(row + "\n")

    with pytest.raises(kind, match=message):
        find(tmp_path)


def test_visa_s_table_without_a_column(tmp_path: Path) -> None:
    visa(tmp_path)
    (tmp_path / "split_csv/1cls.csv").write_text("object,split,image,mask\n")

    with pytest.raises(ConfigError, match="no label"):
        find(tmp_path)


def test_visa_without_its_masks_and_with_one_too_many(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    visa(tmp_path)
    touch(tmp_path, ["pcb1/Data/Masks/Anomaly/999.png"])
    assert len(find(tmp_path)) == 5
    assert "pcb1/Data/Masks/Anomaly/999.png" in caplog.text

    for mask in tmp_path.glob("*/Data/Masks/Anomaly/*"):
        mask.unlink()
    bare = find(tmp_path)
    assert sum(s.anomalous for s in bare) == 2
    assert {s.masks for s in bare} == {()}
