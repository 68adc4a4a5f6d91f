"""The generated set of textures: what makes a defect there, and nothing else."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from medrd.data.pictures.layouts import find_pictures
from medrd.errors import ConfigError, OutputError
from medrd.phantom.texture_defects import DEFECTS, VISIBLE, outline
from medrd.phantom.texture_surfaces import SURFACES
from medrd.phantom.textures import make_picture, make_texture, write_texture_set

SMALL = 64


made = cache(make_picture)


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.png")}


@pytest.mark.parametrize("category", SURFACES)
def test_a_texture_is_a_function_of_its_seed(category: str) -> None:
    first = make_texture(category, [3, 1], size=SMALL)

    assert first.shape == (SMALL, SMALL, 3)
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() <= 1
    assert first.std() > 0.1
    np.testing.assert_array_equal(first, make_texture(category, [3, 1], size=SMALL))
    assert np.abs(first - make_texture(category, [3, 2], size=SMALL)).mean() > 0.05


@pytest.mark.parametrize("category", SURFACES)
@pytest.mark.parametrize("defect", DEFECTS)
def test_the_mask_is_where_the_defect_can_be_seen(category: str, defect: str) -> None:
    for index in range(6):
        flawed = made(category, f"test/{defect}", index)
        difference = np.abs(flawed.picture.astype(int) - flawed.clean).max(axis=-1)
        visible = difference >= VISIBLE

        assert not difference[~flawed.mask].any()
        # An outline, as annotators draw it: in it, any pixel that agrees by chance (a turned
        # thread on a thread) lies next to some that do not.
        assert visible[flawed.mask].mean() > 0.6
        away = ndimage.distance_transform_edt(~visible)[flawed.mask]
        assert np.mean(away <= 2) > 0.9
        assert 20 <= flawed.mask.sum() < 0.2 * flawed.mask.size


def test_an_outline_closes_gaps_and_drops_specks() -> None:
    clean = np.full((40, 40, 3), 100, np.uint8)
    flawed = clean.copy()
    flawed[0:12, 10:22, 1] += VISIBLE  # on the border, seen in one channel
    flawed[4:9, 13:18] = clean[4:9, 13:18]  # as it was
    flawed[30, 30] = 0
    flawed[20:28, 2:12] += VISIBLE - 1

    expected = np.zeros((40, 40), bool)
    expected[0:12, 10:22] = True
    np.testing.assert_array_equal(outline(clean, flawed), expected)


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_leaves_its_surface_alone_and_grows_with_its_strength(defect: str) -> None:
    surface = SURFACES["weave"](np.random.default_rng(0), 128)
    before = surface.copy()

    changes = [
        np.abs(DEFECTS[defect](surface, np.random.default_rng(seed), strength) - surface).sum()
        for strength in (0.0, 1.0)
        for seed in range(5)
    ]

    np.testing.assert_array_equal(surface, before)
    assert 0 < sum(changes[:5]) < sum(changes[5:])


@pytest.mark.parametrize("category", SURFACES)
def test_no_global_statistic_tells_good_from_bad(category: str) -> None:
    good = [made(category, "test/good", i).picture for i in range(30)]
    flawed = [made(category, f"test/{d}", i) for d in DEFECTS for i in range(6)]
    bad = [one.picture for one in flawed]
    truth = [0] * len(good) + [1] * len(bad)
    for name, statistic in {
        "mean": np.mean,
        "brightest": np.max,
        "darkest": np.min,
        "red over blue": lambda p: p[..., 0].mean() - p[..., 2].mean(),
    }.items():
        auroc = roc_auc_score(truth, [float(statistic(p)) for p in [*good, *bad]])
        assert 0.3 <= auroc <= 0.7, name
    # Nor does a threshold on brightness find where the defect is.
    masks = [one.mask for one in flawed]
    bright = np.stack([ndimage.gaussian_filter(p.mean(axis=-1), 3) for p in bad])
    auroc = roc_auc_score(np.stack(masks).ravel()[::5], bright.ravel()[::5])
    assert 0.3 <= auroc <= 0.7


def test_the_set_is_mvtec_s_layout(tmp_path: Path) -> None:
    root = write_texture_set(
        tmp_path / "textures", train=3, test_good=2, test_bad=6, size=SMALL, workers=2
    )

    subjects = find_pictures(root, layout="auto", category="all")
    kinds = Counter((s.category, s.side, s.defect) for s in subjects)
    for category in ("weave", "grain"):
        assert kinds[category, "train", "good"] == 3
        assert kinds[category, "test", "good"] == 2
        # Six bad ones of five kinds, by turns.
        assert sorted(kinds[category, "test", d] for d in DEFECTS) == [1, 1, 1, 1, 2]
    assert len(subjects) == 22
    for subject in (s for s in subjects if s.anomalous):
        (mask,) = (np.asarray(Image.open(path)) for path in subject.masks)
        assert mask.shape == (SMALL, SMALL)
        assert set(np.unique(mask)) == {0, 255}
    picture = np.asarray(Image.open(root / "grain/test/stain/000.png"))
    expected = make_picture("grain", "test/stain", 0, size=SMALL).picture
    np.testing.assert_array_equal(picture, expected)


def test_a_smaller_set_is_a_part_of_a_larger_one(tmp_path: Path) -> None:
    small = write_texture_set(
        tmp_path / "a", categories=["grain"], train=1, test_good=1, test_bad=2, size=SMALL
    )
    large = write_texture_set(
        tmp_path / "b", train=2, test_good=1, test_bad=7, size=SMALL, workers=1
    )

    assert files(small).items() <= files(large).items()
    other = write_texture_set(
        tmp_path / "c", categories=["grain"], train=1, test_good=0, test_bad=0, size=SMALL, seed=1
    )
    assert files(other)["grain/train/good/000.png"] != files(small)["grain/train/good/000.png"]


def test_what_is_there_is_kept_and_what_is_missing_made_again(tmp_path: Path) -> None:
    def write() -> None:
        write_texture_set(tmp_path, categories=["weave"], train=2, test_bad=5, size=SMALL)

    write()
    before = files(tmp_path)
    kept = tmp_path / "weave/train/good/000.png"
    kept.write_bytes(b"someone's own")
    for lost in ("train/good/001.png", "test/wear/000.png", "ground_truth/stain/000_mask.png"):
        (tmp_path / "weave" / lost).unlink()

    write()

    assert kept.read_bytes() == b"someone's own"
    assert files(tmp_path) | {"weave/train/good/000.png": b""} == before | {
        "weave/train/good/000.png": b""
    }


def test_other_pictures_are_never_mixed_with_generated_ones(tmp_path: Path) -> None:
    write_texture_set(tmp_path / "a", train=1, test_good=0, test_bad=0, size=SMALL)
    with pytest.raises(OutputError, match="Choose another folder"):
        write_texture_set(tmp_path / "a", train=1, test_good=0, test_bad=0, size=SMALL, seed=1)

    (tmp_path / "b/grain/train").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"without a readable textures\.json"):
        write_texture_set(tmp_path / "b", train=1, size=SMALL)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"train": 0}, "train"),
        ({"test_bad": -1}, "test_bad"),
        ({"seed": -1}, "seed"),
        ({"workers": 0}, "workers"),
        ({"size": 32}, "size"),
        ({"categories": ["wood"]}, "category"),
        ({"categories": []}, "category"),
    ],
)
def test_settings_out_of_range_are_named(
    tmp_path: Path, options: dict[str, object], where: str
) -> None:
    with pytest.raises(ConfigError) as error:
        write_texture_set(tmp_path / "out", **options)  # type: ignore[arg-type]
    assert error.value.where == where
    assert not (tmp_path / "out").exists()
