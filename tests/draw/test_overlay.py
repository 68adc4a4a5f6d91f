"""Overlays with a fixed scale, and tables."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from medrd.draw.heat import save_figure
from medrd.draw.overlay import draw_overlay
from medrd.draw.picture_overlay import draw_picture_overlay
from medrd.run.table import cell, markdown_table, metrics_table, spread_cell

RAS = np.diag([3.0, 3.0, 3.0, 1.0])
THRESHOLD = 1.0


def brain() -> NDArray[np.float32]:
    """A shaded ellipsoid off the centre of its field."""
    grid = np.stack(np.meshgrid(*map(np.arange, (50, 60, 40)), indexing="ij"), -1)
    inside = (((grid - [30, 35, 22]) / [16, 20, 14]) ** 2).sum(-1) < 1
    return (inside * (100 + 4 * grid[..., 1])).astype(np.float32)


def block(score: float, at: tuple[int, int, int], side: int = 8) -> NDArray[np.float32]:
    """A cube of one score, a little higher at its middle, so that the planes go through that."""
    heat = np.zeros((50, 60, 40), np.float32)
    heat[tuple(slice(i - side // 2, i + side // 2) for i in at)] = score
    heat[at] *= 1.01
    return heat


def draw(
    path: Path,
    heat: NDArray[np.float32],
    *,
    image: NDArray[np.float32] | None = None,
    affine: NDArray[np.float64] = RAS,
    threshold: float | None = THRESHOLD,
    label: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """The picture as (rows, columns, 3) in [0, 1]."""
    scan = brain() if image is None else image
    figure = draw_overlay(
        image=scan,
        score_map=heat,
        affine=affine,
        threshold=threshold,
        title="a scan",
        label=label,
    )
    save_figure(figure, path)
    return np.asarray(matplotlib.image.imread(path))[..., :3]


def coloured(picture: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels of the heat map, the colour bar at the right left aside."""
    found = (picture.max(-1) - picture.min(-1)) > 0.2
    found[:, int(0.85 * found.shape[1]) :] = False
    return found


CENTRE = (30, 35, 22)


def test_a_picture_is_written_and_shows_scan_and_heat(tmp_path: Path) -> None:
    picture = draw(tmp_path / "deep" / "a.png", block(1.5, CENTRE))
    assert picture.shape[0] > 400
    assert picture.std() > 0.1
    assert coloured(picture).sum() > 1000
    assert not coloured(picture)[: picture.shape[0] // 3].any()  # the upper row is the scan alone


def test_equal_scores_have_equal_colours_whatever_else_is_in_the_scan(tmp_path: Path) -> None:
    """The threshold sets the scale; a hotter spot elsewhere must not dim this one."""
    alone = draw(tmp_path / "a.png", block(1.5, CENTRE))
    hotter = np.maximum(block(1.5, CENTRE), block(9, (30, 48, 22), side=4))
    beside = draw(tmp_path / "b.png", hotter)
    changed = np.abs(alone - beside).max(-1) > 0
    assert 0 < changed.mean() < 0.02  # the other spot, in two planes
    here = coloured(alone)
    assert (changed & here).sum() < 0.02 * here.sum()
    assert not np.array_equal(alone, draw(tmp_path / "c.png", block(1.9, CENTRE)))


def test_a_healthy_scan_stays_dark(tmp_path: Path) -> None:
    faint = draw(tmp_path / "a.png", block(0.3, CENTRE))
    assert not coloured(faint).any()
    own_scale = draw(tmp_path / "b.png", block(0.3, CENTRE), threshold=None)
    assert coloured(own_scale).any()


def test_the_lesion_is_outlined_where_there_is_a_label(tmp_path: Path) -> None:
    def lime(picture: NDArray[np.float32]) -> int:
        return int(
            ((picture[..., 1] > 0.7) & (picture[..., 0] < 0.5) & (picture[..., 2] < 0.5)).sum()
        )

    heat = block(1.5, CENTRE)
    assert lime(draw(tmp_path / "a.png", heat)) == 0
    with_label = draw(tmp_path / "b.png", heat, label=block(1, CENTRE, side=12) > 0)
    assert lime(with_label) > 200


def test_the_same_brain_in_another_orientation_is_the_same_picture(tmp_path: Path) -> None:
    heat = block(1.5, (24, 40, 20))
    expected = draw(tmp_path / "a.png", heat)
    affine = RAS @ np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = [49 * 3, 59 * 3, 0]
    arrays = [np.ascontiguousarray(a[::-1, ::-1]) for a in (heat, brain())]
    found = draw(tmp_path / "b.png", arrays[0], image=arrays[1], affine=affine)
    assert np.array_equal(found, expected)


def test_the_patients_left_is_on_the_right(tmp_path: Path) -> None:
    """x runs to the right in RAS+, so a low x is the patient's left."""
    left = coloured(draw(tmp_path / "a.png", block(1.5, (19, 35, 22))))
    right = coloured(draw(tmp_path / "b.png", block(1.5, (41, 35, 22))))
    axial = slice(0, left.shape[1] // 4)  # the first of three panels and the bar
    columns = [np.flatnonzero(x[:, axial].any(axis=0)).mean() for x in (left, right)]
    assert columns[0] > columns[1] + 20


@pytest.mark.parametrize("heat", [0.0, -1.0])
@pytest.mark.parametrize("threshold", [None, THRESHOLD])
def test_a_map_without_a_peak_is_drawn_all_the_same(
    tmp_path: Path, heat: float, threshold: float | None
) -> None:
    flat = np.where(brain() > 0, heat, 0).astype(np.float32)
    picture = draw(tmp_path / "a.png", flat, threshold=threshold)
    assert picture.std() > 0.1  # the scan is there


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_of_one_slice_is_drawn(tmp_path: Path, axis: int) -> None:
    one = [slice(None)] * 3
    one[axis] = slice(CENTRE[axis], CENTRE[axis] + 1)
    heat, image = block(1.5, CENTRE)[tuple(one)], brain()[tuple(one)]
    picture = draw(tmp_path / "a.png", heat, image=image, label=heat > 0)
    assert coloured(picture).any()


def test_the_same_map_gives_the_same_file(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", block(1.5, CENTRE))
    draw(tmp_path / "b.png", block(1.5, CENTRE))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_spacing_gives_the_planes_their_shape(tmp_path: Path) -> None:
    """Voxels three times as tall: the coronal panel must not be squashed."""
    heat, affine = block(1.5, CENTRE), np.diag([1.0, 1.0, 3.0, 1.0])
    assert nib.aff2axcodes(affine) == ("R", "A", "S")
    found = coloured(draw(tmp_path / "a.png", heat, affine=affine))
    middle = found[:, int(0.4 * found.shape[1]) : int(0.7 * found.shape[1])]  # the coronal panel
    rows, columns = np.flatnonzero(middle.any(1)), np.flatnonzero(middle.any(0))
    tall = (np.ptp(rows) + 1) / (np.ptp(columns) + 1)
    assert tall > 2


# --- Overlays of pictures ---


def draw_picture(
    path: Path,
    heat: NDArray[np.float32],
    *,
    channels: int = 1,
    threshold: float | None = THRESHOLD,
    label: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Render the overlay of a grey picture as (rows, columns, 3) in [0, 1]."""
    figure = draw_picture_overlay(
        image=np.full((*heat.shape, channels), 0.4, np.float32),
        score_map=heat,
        threshold=threshold,
        title="a picture",
        label=label,
    )
    save_figure(figure, path)
    return np.asarray(matplotlib.image.imread(path))[..., :3]


def spot(score: float, at: tuple[int, int], side: int = 30) -> NDArray[np.float32]:
    heat = np.zeros((120, 200), np.float32)
    heat[tuple(slice(i - side // 2, i + side // 2) for i in at)] = score
    return heat


def test_heat_lies_in_its_place_on_the_right_picture_alone(tmp_path: Path) -> None:
    """Right of and below the middle: 3/4 of the width, 2/3 of the height."""
    found = coloured(draw_picture(tmp_path / "a.png", spot(1.5, (80, 150))))
    left, right = np.array_split(found[:, : int(0.93 * found.shape[1])], 2, axis=1)
    assert not left.any()
    assert right.sum() > 1000
    assert np.flatnonzero(right.any(axis=1)).mean() > 0.6 * len(right)
    assert np.flatnonzero(right.any(axis=0)).mean() > 0.65 * right.shape[1]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_coloured_by_the_threshold_never_by_itself(
    tmp_path: Path, channels: int
) -> None:
    faint = draw_picture(tmp_path / "a.png", spot(0.3, (60, 60)), channels=channels)
    assert not coloured(faint).any()
    own_scale = draw_picture(
        tmp_path / "b.png", spot(0.3, (60, 60)), channels=channels, threshold=None
    )
    assert coloured(own_scale).any()
    alone = draw_picture(tmp_path / "c.png", spot(1.5, (60, 60)), channels=channels)
    hotter = np.maximum(spot(1.5, (60, 60)), spot(9, (60, 150), side=10))
    beside = draw_picture(tmp_path / "d.png", hotter, channels=channels)
    changed = np.abs(alone - beside).max(-1) > 0
    assert changed.any()
    assert not changed[coloured(alone)].any()


def test_a_small_finding_in_a_large_picture_is_seen_in_its_place(tmp_path: Path) -> None:
    """15 pixels of 3,001, whose sides are no multiples of what they are shrunk by."""
    heat = np.zeros((2500, 3001), np.float32)
    heat[1875:1890, 2250:2265] = 1.9
    picture = draw_picture(tmp_path / "a.png", heat)
    without = draw_picture(tmp_path / "b.png", 0 * heat)
    # Of so few pixels there is little more to see than the line around them.
    rows, columns = np.nonzero(np.abs(picture - without).max(-1) > 0.2)
    assert 4 <= rows.size <= 100
    grey = np.abs(picture - 0.4).max(-1) < 0.02
    grey_rows = np.flatnonzero(grey.mean(axis=1) > 0.5)  # not those of letters
    grey_columns = np.flatnonzero(grey.mean(axis=0) > 0.5)
    right = grey_columns[int(np.diff(grey_columns).argmax()) + 1 :]
    for found, side, place in ((rows, grey_rows, 1882 / 2500), (columns, right, 2257 / 3001)):
        assert (found.mean() - side.min()) / np.ptp(side) == pytest.approx(place, abs=0.005)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (300, 4)])
def test_pictures_of_any_shape_are_drawn(tmp_path: Path, shape: tuple[int, int]) -> None:
    heat = np.full(shape, 1.5, np.float32)
    hot = draw_picture(tmp_path / "a.png", heat, label=heat > 0)
    cold = draw_picture(tmp_path / "b.png", 0 * heat)
    assert (np.abs(hot - cold).max(-1) > 0.2).sum() > 100


# --- Tables ---


def test_cells() -> None:
    assert cell(0.12345) == "0.123"
    assert cell(1) == "1.000"
    assert cell(0) == "0.000"
    assert cell(None) == "–"
    assert spread_cell([0.5]) == "0.500"
    assert spread_cell([0.4, 0.6]) == "0.500 ± 0.141"  # sample deviation: n - 1
    assert spread_cell([0.4, None]) == spread_cell([]) == "–"


def test_a_table_is_aligned_markdown() -> None:
    table = markdown_table(["model", "n"], [["a", "1"], ["longer", "200"]])
    assert table.splitlines() == [
        "| model  |   n |",
        "| ------ | --: |",
        "| a      |   1 |",
        "| longer | 200 |",
    ]


def test_metrics_stand_beside_the_baseline(tmp_path: Path) -> None:
    content = {
        "image_auroc": 0.9,
        "pixel_auroc": 0.7,
        "pixel_dice": None,
        "baseline": {"intensity": {"image_auroc": 0.8}},
        "protocol": {"model": "rd4ad"},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    head, _, model, baseline = metrics_table(tmp_path / "metrics.json").splitlines()
    assert head.split("|")[2].strip() == "image AUROC"
    assert [line.split("|")[1].strip() for line in (model, baseline)] == ["rd4ad", "intensity"]
    assert [line.split("|")[2].strip() for line in (model, baseline)] == ["0.900", "0.800"]
    assert baseline.count("–") == 1  # a column of which neither has a value is left out
    assert "Dice" not in head
    assert len({len(line) for line in (head, model, baseline)}) == 1
