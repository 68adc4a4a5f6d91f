"""The content of pages: volumes small enough and still correct, sortable rows, escaped values."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from medrd.errors import OutputError
from medrd.pages.embed import EmbeddedScan, embed_scan
from medrd.pages.index_page import index_page
from medrd.pages.listing import Entry
from medrd.pages.page import write_page
from scan_pages import AFFINE, SHAPE, THRESHOLD, make_arrays, make_page, make_record


def opened(content: bytes) -> Any:
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def in_mm(shown: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean place of what is shown."""
    return affine[:3, :3] @ np.argwhere(shown).mean(axis=0) + affine[:3, 3]


def embed(factor: int) -> EmbeddedScan:
    """The synthetic scan, shrunk by at least this factor."""
    image, heat, truth = make_arrays()
    whole = embed_scan(image, heat, AFFINE, unit=THRESHOLD, truth=truth)
    if factor == 1:
        return whole
    return embed_scan(image, heat, AFFINE, unit=THRESHOLD, truth=truth, max_bytes=whole.size // 3)


@pytest.mark.parametrize("factor", [1, 2])
def test_places_stay_where_they_are(factor: int) -> None:
    image, heat, truth = make_arrays()
    small = embed(factor)
    assert (small.factor == 1) == (factor == 1)
    assert len(small.notes) == factor  # that it is shrunk is said
    for given, content in ((image, small.image), (heat, small.heat), (truth, small.truth)):
        assert content is not None
        found = opened(content)
        assert all(a < b for a, b in zip(found.shape, SHAPE, strict=True))
        expected = in_mm(given > 0, AFFINE)
        assert in_mm(np.asarray(found.dataobj.get_unscaled()) > 0, found.affine) == pytest.approx(
            expected,
            abs=2.0 if factor > 1 else 1e-3,  # half a block
        )


def test_the_scan_keeps_its_values_and_the_map_its_threshold() -> None:
    image, heat, _ = make_arrays()
    rng = np.random.default_rng(0)
    near = (THRESHOLD * (1 + rng.normal(0, 1e-3, SHAPE))).astype(np.float32)
    near.flat[::7] = np.float32(THRESHOLD)
    near[image == 0] = 0
    small = embed_scan(image, near, AFFINE, unit=THRESHOLD)
    box = tuple(slice(max(0, a - 4), b + 5) for a, b in zip(*extent(image != 0), strict=True))
    shown = np.asarray(opened(small.heat).dataobj)
    assert np.array_equal(shown >= 1, near[box] >= np.float32(THRESHOLD))
    exact = embed_scan(image, heat, AFFINE, unit=THRESHOLD)
    error = np.asarray(opened(exact.heat).dataobj) - heat[box] / THRESHOLD
    assert -1 / 128 - 1e-6 <= error.min() <= error.max() <= 1e-6
    grey = np.asarray(opened(exact.image).dataobj)
    brain = image[box] != 0
    low, high = exact.window
    within = brain & (image[box] >= low) & (image[box] <= high)
    assert np.abs(grey - image[box])[within].max() <= (high - low) / 150


def extent(shown: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    places = np.argwhere(shown)
    return places.min(axis=0), places.max(axis=0)


def test_a_small_finding_is_not_lost_when_the_scan_is_shrunk() -> None:
    image, heat, _ = make_arrays()
    heat[:] = 0
    heat[15, 20, 14] = 1.9 * THRESHOLD
    small = embed_scan(image, heat, AFFINE, unit=THRESHOLD, max_bytes=1000)
    assert small.factor > 1
    assert np.asarray(opened(small.heat).dataobj).max() == pytest.approx(1.9, abs=0.01)


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0])
def test_a_scan_without_contrast_or_brain_is_embedded(value: float) -> None:
    flat = np.full(SHAPE, value, np.float32)
    small = embed_scan(flat, np.zeros(SHAPE, np.float32), AFFINE, unit=1.0)
    assert opened(small.image).shape == SHAPE
    assert small.window[1] > small.window[0]


def test_a_page_of_a_large_scan_stays_under_15_mb(tmp_path: Path) -> None:
    """Noise, which nothing compresses: worse than any scan."""
    rng = np.random.default_rng(0)
    image = rng.integers(1, 4000, (208, 208, 208)).astype(np.float32)
    heat = rng.random((208, 208, 208), np.float32)
    small = embed_scan(image, heat, AFFINE, unit=0.5)
    viewer = make_page(tmp_path / "a.html").stat().st_size
    assert small.factor == 2
    assert viewer + small.size * 4 / 3 + 1e6 < 15e6  # a million for the still picture


def test_a_page_holds_no_address_and_no_markup_of_the_users(tmp_path: Path) -> None:
    text = make_page(tmp_path / "a.html", subject="<script>alert(1)</script>").read_text(
        encoding="utf-8"
    )
    assert "<script>alert(1)" not in text
    assert not re.search(r"(src|href)=\"(?!data:)[^\"]*\"", text)
    assert "default-src 'none'" in text


def test_only_own_pages_are_replaced(tmp_path: Path) -> None:
    path = make_page(tmp_path / "report.html")
    make_page(path)
    path.write_text("<p>my own notes</p>")
    with pytest.raises(OutputError, match="did not write"):
        make_page(path)
    assert path.read_text(encoding="utf-8") == "<p>my own notes</p>"


def test_an_index_has_a_row_a_scan_and_says_what_is_not_there(tmp_path: Path) -> None:
    entries = [
        Entry(make_record(subject=name, scan_score=score, p_value=None), f"{name}.html")
        for name, score in (("a", 0.5), ("b", 0.75))
    ]
    page = index_page(entries, title="maps", failed=["c.nii.gz: expected a scan; found none."])
    assert [page.count(f'href="{name}.html"') for name in "ab"] == [1, 1]
    assert "c.nii.gz: expected a scan" in page
    assert "Dice" not in page  # a column of which no row has a value
    assert "p-value" not in page
    write_page(tmp_path / "index.html", page)
    assert "nothing to show" in index_page([], title="maps", failed=["x"])


@pytest.mark.parametrize("p_value", [None, 0.4])
def test_a_percentile_says_what_calibration_scans_score_by(
    tmp_path: Path, p_value: float | None
) -> None:
    """Calibration scans with lesions give no p-value and are scored by their healthy slices."""
    changes: dict[str, Any] = {"p_value": p_value, "healthy_scans": 1, "healthy_percentile": 100.0}
    page = make_page(tmp_path / "a.html", **changes).read_text(encoding="utf-8")
    index = index_page([Entry(make_record(**changes), "a.html")], title="maps", failed=[])
    assert "higher than 100 % of 1 calibration scan" in page
    assert ("(scored by its healthy slices only)" in page) == (p_value is None)
    assert ("by their healthy slices" in index) == (p_value is None)


@pytest.mark.parametrize(("p_value", "lowest"), [(0.2, True), (0.4, False)])
def test_a_p_value_says_if_it_cannot_be_lower(tmp_path: Path, p_value: float, lowest: bool) -> None:
    page = make_page(tmp_path / "a.html", p_value=p_value).read_text(encoding="utf-8")
    assert (f"{p_value} (it cannot be lower with 4)" in page) == lowest


def test_an_index_says_whom_a_built_in_model_was_calibrated_on() -> None:
    model = {"name": "outline", "hash": "0" * 64, "calibrated_on": "simulated people"}
    entries = [Entry(make_record(model=model, notice="It misses lesions."), "a.html")]
    page = index_page(entries, title="maps", failed=[])
    assert "p-values are among simulated people" in page
    assert "It misses lesions." in page


@pytest.mark.parametrize("with_brain", [None, 20, 27])
def test_a_page_says_how_many_slices_with_brain_have_no_score(
    tmp_path: Path, with_brain: int | None
) -> None:
    changes: dict[str, Any] = {"slices_with_brain": with_brain, "min_brain_mm2": 3000.0}
    page = make_page(tmp_path / "a.html", **changes).read_text(encoding="utf-8")
    said = "20 of 32; 7 with brain were not scored (less than 3000 mm² of brain)"
    assert (said in page) == (with_brain == 27)
    assert ("not scored" in page) == (with_brain == 27)
