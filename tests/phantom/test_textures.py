"""The generated set of textures and its defects."""

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
from medrd.errors import OutputError
from medrd.phantom.textures import DEFECTS, SURFACES, make_picture, write_texture_set

SMALL = 64


made = cache(make_picture)


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.png")}


@pytest.mark.parametrize("category", SURFACES)
def test_a_picture_is_a_function_of_its_place_and_seed(category: str) -> None:
    def picture(index: int, seed: int = 0) -> np.ndarray:
        return make_picture(category, "train/good", index, seed=seed, size=SMALL)[0].astype(float)

    first = picture(3)
    assert first.shape == (SMALL, SMALL, 3)
    assert first.std() > 0.1 * 255
    np.testing.assert_array_equal(first, picture(3))
    for other in (picture(4), picture(3, seed=1)):
        assert np.abs(first - other).mean() > 0.05 * 255


@pytest.mark.parametrize("category", SURFACES)
@pytest.mark.parametrize("defect", DEFECTS)
def test_the_mask_outlines_a_defect_of_some_size(category: str, defect: str) -> None:
    for index in range(6):
        mask = made(category, f"test/{defect}", index)[1]
        assert set(np.unique(mask)) == {0, 255}
        inside = mask > 0
        assert 20 <= inside.sum() < 0.2 * inside.size
        # One piece, or all but: an annotator's outline has no pinholes.
        assert np.bincount(ndimage.label(inside)[0][inside]).max() > 0.8 * inside.sum()


@pytest.mark.parametrize("category", SURFACES)
def test_no_global_statistic_tells_good_from_bad(category: str) -> None:
    good = [made(category, "test/good", i)[0] for i in range(30)]
    flawed = [made(category, f"test/{d}", i) for d in DEFECTS for i in range(10)]
    bad = [picture for picture, _ in flawed]
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
    masks = np.stack([mask > 0 for _, mask in flawed])
    bright = np.stack([ndimage.gaussian_filter(p.mean(axis=-1), 3) for p in bad])
    assert 0.3 <= roc_auc_score(masks.ravel()[::5], bright.ravel()[::5]) <= 0.7


def test_the_set_is_mvtec_s_layout(tmp_path: Path) -> None:
    root = write_texture_set(tmp_path / "set", train=3, test_good=2, test_bad=4, size=SMALL)

    subjects = find_pictures(root, layout="auto", category="all")
    kinds = Counter((s.category, s.side, s.defect) for s in subjects)
    for category in ("weave", "grain"):
        assert kinds[category, "train", "good"] == 3
        assert kinds[category, "test", "good"] == 2
        # Four bad ones of three kinds, by turns.
        assert [kinds[category, "test", d] for d in DEFECTS] == [2, 1, 1]
    assert len(subjects) == 18
    for subject in (s for s in subjects if s.anomalous):
        (mask,) = (np.asarray(Image.open(path)) for path in subject.masks)
        assert mask.shape == (SMALL, SMALL)
        assert set(np.unique(mask)) == {0, 255}
    picture = np.asarray(Image.open(root / "grain/test/stain/000.png"))
    np.testing.assert_array_equal(picture, make_picture("grain", "test/stain", 0, size=SMALL)[0])


def test_a_set_is_written_once_and_never_mixed_with_another(tmp_path: Path) -> None:
    def write(seed: int) -> None:
        write_texture_set(
            tmp_path, categories=["weave"], train=2, test_good=1, test_bad=3, size=SMALL, seed=seed
        )

    write(seed=0)
    whole = files(tmp_path)
    (tmp_path / "weave/train/good/000.png").write_bytes(b"someone's own")
    write(seed=0)
    assert (tmp_path / "weave/train/good/000.png").read_bytes() == b"someone's own"
    with pytest.raises(OutputError, match="Use another folder"):
        write(seed=1)

    (tmp_path / "textures.json").unlink()  # as if the first call had been interrupted
    write(seed=0)
    assert files(tmp_path) == whole
