"""The layouts of picture data sets, and the category of each picture."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

from medrd.errors import ConfigError
from picture_trees import FOLDER, LOCO, MVTEC, MVTEC_2, MVTEC_3D, find, rows, touch, visa
from real_data import real_data


@pytest.mark.parametrize("layout", ["auto", "mvtec"])
def test_mvtec_ad(tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path / "bottle", MVTEC)
    touch(tmp_path, ["readme.txt", "bottle/test/good/._000.png", "bottle/test/cut/Thumbs.db"])

    subjects = find(tmp_path, layout)

    assert rows(tmp_path / "bottle", subjects) == [
        ("bottle/test/cut/000", "test", "cut", "test/cut/000.png", "ground_truth/cut/000_mask.png"),
        ("bottle/test/cut/001", "test", "cut", "test/cut/001.png", "ground_truth/cut/001_mask.png"),
        ("bottle/test/good/000", "test", "good", "test/good/000.png"),
        (
            "bottle/test/hole/000",
            "test",
            "hole",
            "test/hole/000.png",
            "ground_truth/hole/000_mask.png",
        ),
        ("bottle/train/good/000", "train", "good", "train/good/000.png"),
        ("bottle/train/good/001", "train", "good", "train/good/001.png"),
    ]
    assert [s.anomalous for s in subjects] == [True, True, False, True, False, False]
    assert {(s.category, s.label) for s in subjects} == {("bottle", None)}
    assert caplog.text == ""


def test_mvtec_ad_2(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="medrd.data")
    can = touch(tmp_path / "can", MVTEC_2)

    assert rows(can, find(tmp_path)) == [
        (
            "can/test_public/bad/000_overexposed",
            "test",
            "bad",
            "test_public/bad/000_overexposed.png",
            "test_public/ground_truth/bad/000_overexposed_mask.png",
        ),
        (
            "can/test_public/good/000_regular",
            "test",
            "good",
            "test_public/good/000_regular.png",
        ),
        ("can/train/good/000_regular", "train", "good", "train/good/000_regular.png"),
        (
            "can/validation/good/000_regular",
            "calibration",
            "good",
            "validation/good/000_regular.png",
        ),
    ]
    assert "test_private, test_private_mixed" in caplog.text


@pytest.mark.parametrize("layout", ["auto", "mvtec_loco"])
def test_loco_has_a_folder_of_masks_a_picture(tmp_path: Path, layout: str) -> None:
    touch(tmp_path / "pushpins", LOCO)

    subjects = {s.id: s for s in find(tmp_path, layout)}

    assert {id.removeprefix("pushpins/"): (s.side, s.defect) for id, s in subjects.items()} == {
        "test/good/000": ("test", "good"),
        "test/logical_anomalies/000": ("test", "logical_anomalies"),
        "test/structural_anomalies/000": ("test", "structural_anomalies"),
        "train/good/000": ("train", "good"),
        "validation/good/000": ("calibration", "good"),
    }
    truth = tmp_path / "pushpins/ground_truth/logical_anomalies/000"
    logical = subjects["pushpins/test/logical_anomalies/000"]
    assert logical.masks == (truth / "000.png", truth / "001.png")


@pytest.mark.parametrize("layout", ["auto", "mvtec_3d"])
def test_mvtec_3d_takes_colour_and_leaves_positions(
    tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture
) -> None:
    tire = touch(tmp_path / "tire", MVTEC_3D)

    assert rows(tire, find(tmp_path, layout)) == [
        ("tire/test/crack/000", "test", "crack", "test/crack/rgb/000.png", "test/crack/gt/000.png"),
        # Its mask, which is empty, is left alone: what is normal is what lies in good.
        ("tire/test/good/000", "test", "good", "test/good/rgb/000.png"),
        ("tire/train/good/000", "train", "good", "train/good/rgb/000.png"),
        ("tire/validation/good/000", "calibration", "good", "validation/good/rgb/000.png"),
    ]
    assert caplog.text == ""


@pytest.mark.parametrize("layout", ["auto", "visa"])
def test_visa(tmp_path: Path, layout: str) -> None:
    visa(tmp_path)

    assert rows(tmp_path / "candle/Data", find(tmp_path, layout, "candle")) == [
        (
            "candle/Data/Images/Anomaly/000",
            "test",
            "anomaly",
            "Images/Anomaly/000.JPG",
            "Masks/Anomaly/000.png",
        ),
        ("candle/Data/Images/Normal/0000", "train", "good", "Images/Normal/0000.JPG"),
        ("candle/Data/Images/Normal/0001", "test", "good", "Images/Normal/0001.JPG"),
    ]
    assert Counter(s.category for s in find(tmp_path, layout)) == {"candle": 3, "pcb1": 2}
    # A category's own folder finds the table beside itself.
    assert find(tmp_path / "pcb1", layout) == find(tmp_path, layout, "pcb1")


@pytest.mark.parametrize("layout", ["auto", "folder"])
def test_a_plain_folder(tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture) -> None:
    mine = touch(tmp_path / "mine", FOLDER)

    assert rows(mine, find(mine, layout)) == [
        (
            "mine/abnormal/crack/y",
            "test",
            "crack",
            "abnormal/crack/y.png",
            "masks/crack/y_mask.bmp",
        ),
        ("mine/abnormal/x", "test", "abnormal", "abnormal/x.png", "masks/x.png"),
        ("mine/normal/a", "any", "good", "normal/a.jpg"),
        ("mine/normal/day2/a", "any", "good", "normal/day2/a.jpg"),
    ]
    assert caplog.text == ""


def test_a_defect_cannot_be_called_what_normal_is(tmp_path: Path) -> None:
    touch(tmp_path, ["normal/a.png", "abnormal/good/b.png"])

    with pytest.raises(ConfigError, match="a folder named good"):
        find(tmp_path)


# --- Categories ---


def test_ids_are_the_same_from_the_category_s_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "bottle", MVTEC)
    touch(tmp_path / "cable", MVTEC)

    from_above = find(tmp_path, category="bottle")
    assert find(tmp_path / "bottle") == from_above
    assert find(tmp_path / "bottle", category="bottle") == from_above
    # Ids go into the split, so they must not depend on how the folder is spelt.
    monkeypatch.chdir(tmp_path / "bottle")
    assert [s.id for s in find(Path())] == [s.id for s in from_above]


def test_several_categories(tmp_path: Path) -> None:
    for name in ("bottle", "cable", "capsule"):
        touch(tmp_path / name, MVTEC)

    both = find(tmp_path, category=("capsule", "bottle", "capsule"))

    assert Counter(s.category for s in both) == {"bottle": 6, "capsule": 6}
    assert [s.id for s in both] == sorted(s.id for s in both)
    assert len({s.id for s in find(tmp_path)}) == 18


@pytest.mark.parametrize("make", [lambda root: touch(root / "candle", MVTEC), visa])
def test_an_unknown_category_names_the_nearest(tmp_path: Path, make: object) -> None:
    make(tmp_path)  # type: ignore[operator]

    with pytest.raises(ConfigError, match="Did you mean candle") as error:
        find(tmp_path, category="candel")
    assert error.value.where == "data.category"


def test_two_layouts_at_once_are_refused_until_one_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "bottle", MVTEC)
    touch(tmp_path / "tire", MVTEC_3D)

    with pytest.raises(ConfigError, match=r"bottle \(mvtec\), tire \(mvtec_3d\)"):
        find(tmp_path)
    assert {s.category for s in find(tmp_path, category="tire")} == {"tire"}


# --- Real pictures ---


def test_the_real_tires() -> None:
    tires = find(real_data("mvtec_like/tire").parent, category="tire")

    assert Counter((s.side, s.defect) for s in tires) == {
        ("train", "good"): 210,
        ("test", "good"): 25,
        ("test", "combined"): 5,
        ("test", "contamination"): 28,
        ("test", "cut"): 27,
        ("test", "hole"): 27,
    }
    assert len({mask for s in tires for mask in s.masks}) == 87
    assert {len(s.masks) for s in tires if s.anomalous} == {1}
