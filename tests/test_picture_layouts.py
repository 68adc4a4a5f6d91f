"""Where data sets keep their pictures. Only names matter here, so the files are empty."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from medrd.data.picture_layouts import PictureSubject, find_pictures
from medrd.errors import ConfigError, MissingInputError

MVTEC = (
    "train/good/000.png",
    "train/good/001.png",
    "test/good/000.png",
    "test/cut/000.png",
    "test/cut/001.png",
    "test/hole/000.png",
    "ground_truth/cut/000_mask.png",
    "ground_truth/cut/001_mask.png",
    "ground_truth/hole/000_mask.png",
)
MVTEC_2 = (
    "train/good/000_regular.png",
    "validation/good/000_regular.png",
    "test_public/good/000_regular.png",
    "test_public/bad/000_overexposed.png",
    "test_public/ground_truth/bad/000_overexposed_mask.png",
    "test_private/000_regular.png",
    "test_private_mixed/000.png",
)
LOCO = (
    "train/good/000.png",
    "validation/good/000.png",
    "test/good/000.png",
    "test/logical_anomalies/000.png",
    "test/structural_anomalies/000.png",
    "ground_truth/logical_anomalies/000/000.png",
    "ground_truth/logical_anomalies/000/001.png",
    "ground_truth/structural_anomalies/000/000.png",
    "defects_config.json",
)
MVTEC_3D = (
    "calibration/camera_parameters.json",
    "train/good/rgb/000.png",
    "train/good/xyz/000.tiff",
    "validation/good/rgb/000.png",
    "validation/good/xyz/000.tiff",
    "test/good/rgb/000.png",
    "test/good/gt/000.png",
    "test/good/xyz/000.tiff",
    "test/crack/rgb/000.png",
    "test/crack/gt/000.png",
    "test/crack/xyz/000.tiff",
)
FOLDER = (
    "normal/a.jpg",
    "normal/day2/a.jpg",
    "abnormal/x.png",
    "abnormal/crack/y.png",
    "masks/x.png",
    "masks/crack/y_mask.bmp",
)
VISA_ROWS = (
    "candle,train,normal,candle/Data/Images/Normal/0000.JPG,",
    "candle,test,normal,candle/Data/Images/Normal/0001.JPG,",
    "candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png",
    "pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,",
    "pcb1,test,anomaly,pcb1/Data/Images/Anomaly/000.JPG,pcb1/Data/Masks/Anomaly/000.png",
)


def touch(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def visa(root: Path, rows: Sequence[str] = VISA_ROWS) -> Path:
    for row in rows:
        touch(root, [path for path in row.split(",")[3:] if path])
    (root / "split_csv").mkdir()
    lines = ["object,split,label,image,mask", *rows]
    (root / "split_csv/1cls.csv").write_text("\n".join(lines) + "\n")
    return root


def find(
    root: Path, layout: str = "auto", category: str | Sequence[str] = "all"
) -> list[PictureSubject]:
    return find_pictures(root, layout=layout, category=category)


def rows(root: Path, subjects: Iterable[PictureSubject]) -> list[tuple[object, ...]]:
    """Id, side, defect, picture and masks; paths relative to the root."""
    return [
        (
            s.id,
            s.side,
            s.defect,
            s.images["picture"].path.relative_to(root).as_posix(),
            *(mask.relative_to(root).as_posix() for mask in s.masks),
        )
        for s in subjects
    ]


def without(names: Iterable[str], *starts: str) -> list[str]:
    return [name for name in names if not name.startswith(starts)]


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


# --- What is missing ---


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


def test_a_root_or_a_layout_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing there"):
        find(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"data\.layout"):
        find(tmp_path, "mvtek")


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


# --- Real pictures ---


def test_the_real_tires() -> None:
    root = Path(__file__).parents[1] / "../shared/data/mvtec_like"
    if not (root / "tire").is_dir():
        pytest.skip("no pictures in ../shared/data/mvtec_like beside the repository")

    tires = find(root, category="tire")

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
