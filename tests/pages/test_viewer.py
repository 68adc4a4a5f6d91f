"""A scan's page in a real browser: it loads nothing from elsewhere, and its controls work."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from chromium import Looked, look_at, open_browser
from medrd.pages.index_page import index_page
from medrd.pages.listing import Entry
from medrd.pages.page import write_page
from scan_pages import (
    AFFINE,
    FIRST,
    SECOND,
    SUBJECT,
    THRESHOLD,
    make_page,
    make_record,
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as found:
        yield found


@pytest.fixture(scope="module")
def shared(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Looked:
    """One page for all tests of this module: opening it costs the most."""
    looked = look_at(browser, make_page(tmp_path_factory.mktemp("page") / "scan.html"))
    looked.page.wait_for_selector("html[data-ready]", state="attached")
    return looked


@pytest.fixture
def seen(shared: Looked) -> Iterator[Looked]:
    """The page as it was when it opened."""
    yield shared
    shared.page.evaluate(
        """() => {
            for (const [id, value] of [["threshold", 1], ["opacity", 0.7]]) {
                document.getElementById(id).value = value;
                document.getElementById(id).dispatchEvent(new Event("input"));
            }
            document.getElementsByName("convention")[0].click();
            document.querySelector("#findings tbody tr").click();
        }"""
    )
    settle(shared)


def settle(looked: Looked) -> None:
    """Until what was asked for is drawn."""
    looked.page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


def set_slider(looked: Looked, name: str, value: float) -> None:
    looked.page.locator(f"#{name}").fill(str(value))
    settle(looked)


def hot(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels in the upper half of the colour map: orange and yellow, with the scan beneath."""
    red, _, blue = (picture[..., i].astype(int) for i in range(3))
    return red - blue > 90


def lime(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of the label's outline."""
    red, green, blue = (picture[..., i].astype(int) for i in range(3))
    return (green > 200) & (red < 120) & (blue < 120)


def is_framed(inner: tuple[slice, slice], outline: NDArray[np.bool_]) -> bool:
    """Whether there is outline on all four sides of a box, not further off than half its edge."""
    rows, columns = inner
    by_row, by_column = (side.stop - side.start for side in inner)
    top, left = max(0, rows.start - by_row // 2), max(0, columns.start - by_column // 2)
    window = outline[top : rows.stop + by_row // 2, left : columns.stop + by_column // 2]
    if not window.any():
        return False
    found_rows, found_columns = (np.flatnonzero(window.any(axis)) for axis in (1, 0))
    return bool(
        found_rows[0] + top <= rows.start
        and found_rows[-1] + top >= rows.stop - 1
        and found_columns[0] + left <= columns.start
        and found_columns[-1] + left >= columns.stop - 1
    )


def test_it_opens_without_a_word_and_asks_for_nothing(shared: Looked) -> None:
    assert shared.complaints == []
    assert [url.split(":")[0] for url in shared.requests if not url.startswith("data:")] == ["file"]
    assert shared.page.locator("h1").inner_text() == SUBJECT
    assert "a </script> warning" in shared.page.locator(".warning").inner_text()
    assert "Research use only" in shared.page.locator(".notice").inner_text()


def test_the_planes_are_not_blank_and_show_the_map_and_the_label(seen: Looked) -> None:
    picture = seen.pixels("#view")
    assert picture.std() > 20
    assert hot(picture).sum() > 500
    outline = lime(picture)
    found, _ = ndimage.label(ndimage.binary_closing(hot(picture), iterations=4))
    boxes = [box for box in ndimage.find_objects(found) if hot(picture)[box].sum() > 100]
    assert len(boxes) == 3  # the first finding, in each plane
    assert all(is_framed(box, outline) for box in boxes)
    set_slider(seen, "opacity", 0)
    assert hot(seen.pixels("#view")).sum() < 50
    seen.page.locator("#show-truth").uncheck()
    settle(seen)
    assert lime(seen.pixels("#view")).sum() < 10
    seen.page.locator("#show-truth").check()


def test_a_slider_changes_the_slice(seen: Looked) -> None:
    before, place = seen.pixels("#view"), seen.page.locator("#slice-z-value").inner_text()
    set_slider(seen, "slice-z", 4)
    assert seen.page.locator("#slice-z-value").inner_text() != place
    after = seen.pixels("#view")
    assert (np.abs(before.astype(int) - after).max(-1) > 20).mean() > 0.02


def test_a_row_jumps_to_its_finding(seen: Looked) -> None:
    rows = seen.page.locator("#findings tbody tr")
    for number, (at, peak) in enumerate(((FIRST, 0.7), (SECOND, 0.5))):
        rows.nth(number).click()
        settle(seen)
        world = (AFFINE @ [*at, 1])[:3]
        for axis, low, high, mm in zip("xyz", "LPI", "RAS", world, strict=True):
            expected = f"{high if mm >= 0 else low} {abs(mm):.1f} mm"
            assert seen.page.locator(f"#slice-{axis}-value").inner_text() == expected
        score = float(seen.page.locator("#readout").inner_text().split()[1])
        assert score == pytest.approx(peak / THRESHOLD, abs=0.01)
    rows.nth(0).focus()
    seen.page.keyboard.press("Enter")
    assert rows.nth(0).get_attribute("aria-selected") == "true"


def test_the_threshold_hides_and_never_recolours(seen: Looked) -> None:
    """The first finding is at 1.75, the second at 1.25 of the threshold."""
    first = hot(seen.pixels("#view")).sum()
    colour = np.median(seen.pixels("#view")[hot(seen.pixels("#view"))], axis=0)
    set_slider(seen, "threshold", 1.5)
    picture = seen.pixels("#view")
    assert hot(picture).sum() == pytest.approx(first, rel=0.1)
    assert np.abs(np.median(picture[hot(picture)], axis=0) - colour).max() < 8
    seen.page.locator("#findings tbody tr").nth(1).click()
    settle(seen)
    assert hot(seen.pixels("#view")).sum() < 0.2 * first
    set_slider(seen, "threshold", 2)
    seen.page.locator("#findings tbody tr").nth(0).click()
    settle(seen)
    assert hot(seen.pixels("#view")).sum() < first


def test_the_switch_puts_left_on_the_other_side(seen: Looked) -> None:
    """The first finding is on the patient's right: left in radiological convention."""

    def column() -> float:
        planes = seen.page.evaluate(
            "() => medrd.nv.screenSlices.map((s) => [s.axCorSag, ...s.leftTopWidthHeight])"
        )
        _, left, top, width, height = next(plane for plane in planes if plane[0] == 0)
        scale = seen.page.evaluate("() => medrd.nv.canvas.width / medrd.nv.canvas.clientWidth")
        part = [round(v / scale) for v in (top, top + height, left, left + width)]
        axial = seen.pixels("#canvas")[part[0] : part[1], part[2] : part[3]]
        return float(np.nonzero(hot(axial))[1].mean() / axial.shape[1])

    assert column() < 0.45
    seen.page.get_by_label("neurological").check()
    settle(seen)
    assert column() > 0.55


@pytest.mark.parametrize("size", [(1600, 900), (390, 800)])
def test_nothing_sticks_out_of_a_wide_or_narrow_window(
    shared: Looked, size: tuple[int, int]
) -> None:
    shared.page.set_viewport_size({"width": size[0], "height": size[1]})
    settle(shared)
    width = shared.page.evaluate("() => document.documentElement.scrollWidth")
    view = shared.page.locator("#view").bounding_box()
    shared.page.set_viewport_size({"width": 1280, "height": 800})
    settle(shared)
    assert width <= size[0]
    assert view["width"] >= min(0.6 * size[0], 350)
    assert view["height"] >= 330


def test_without_webgl_the_page_says_so(browser: Any, tmp_path: Path) -> None:
    path = make_page(tmp_path / "scan.html")
    text = path.read_text(encoding="utf-8").replace(
        "<body>", "<body><script>HTMLCanvasElement.prototype.getContext = () => null</script>"
    )
    path.write_text(text, encoding="utf-8")
    looked = look_at(browser, path)
    looked.page.wait_for_function(
        "document.getElementById('message').textContent.includes('WebGL')"
    )


def test_the_viewer_is_the_one_whose_hash_is_written_beside_it() -> None:
    folder = files("medrd.pages") / "static" / "niivue"
    described = re.search(
        r"file, sha256 \| `(\w+)`", (folder / "README.md").read_text(encoding="utf-8")
    )
    assert described is not None
    found = hashlib.sha256((folder / "niivue.umd.js").read_bytes()).hexdigest()
    assert found == described[1]
    assert "Redistributions in binary form" in (folder / "LICENSE.txt").read_text(encoding="utf-8")


def test_a_heading_sorts_the_index(browser: Any, tmp_path: Path) -> None:
    scores = {"b": 10.0, "a": 9.0, "c": 100.0}
    entries = [
        Entry(make_record(subject=name, scan_score=score), f"{name}.html", dice=dice)
        for (name, score), dice in zip(scores.items(), (0.5, None, 0.25), strict=True)
    ]
    write_page(tmp_path / "report.html", index_page(entries, title="maps", failed=[]))
    looked = look_at(browser, tmp_path / "report.html")

    def names() -> str:
        return "".join(looked.page.locator("#index tbody tr td:first-child").all_inner_texts())

    for heading, once, twice in (("score", "cba", "abc"), ("name", "abc", "cba")):
        for expected in (once, twice):
            looked.page.get_by_role("button", name=heading, exact=True).click()
            assert names() == expected
    looked.page.get_by_role("button", name="Dice").click()
    assert names() == "bca"  # what has none comes last
    assert looked.complaints == []
    assert len(looked.requests) == 1
