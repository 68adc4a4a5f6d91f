"""A comparison's tables, read back from the Markdown, and its figure, against hand-made cells."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from medrd.comparison.comparison import CellResult, Comparison, Difference, Interval, aggregate
from medrd.comparison.figure import draw_figure, save_figure
from medrd.comparison.published import Published, held_against, load_published, published_of
from medrd.comparison.table import results_document, results_markdown, results_rows
from medrd.errors import ConfigError
from medrd.models.detectors import DETECTORS

Value = float | None
FACTS = {"training_seconds": 10.0, "images_per_s": 4.0, "parameters": 2_500_000}
OTHERS = Published("rd4ad", "MVTec AD", {"image_auroc": 0.985}, "A paper", "another protocol")
ABSENT = Published("patchcore", "MVTec AD", {"pixel_auroc": 0.98}, "A paper", "another protocol")


def cell(
    model: str, seed: int, auroc: Value, *, category: str | None = None, **changes: Any
) -> CellResult:
    """A result on the brain set, or with a category on the industrial one."""
    place = ("brats", "brain") if category is None else ("mvtec", "industrial")
    metrics = {"image_auroc": auroc, "pixel_ap": 0.5, "aupro": 0.4, "pixel_dice_best": 0.3}
    whole = CellResult(model, *place, category, seed, metrics, facts=FACTS)
    return replace(whole, **changes)


def failed(model: str, seed: int, category: str | None = None) -> CellResult:
    return cell(model, seed, None, category=category, metrics=None, error="out of | memory\nat x")


@pytest.fixture
def two() -> Comparison:
    """Two models; a failed brain seed, a failed category, an incomplete one."""
    cells = [
        *(cell("rd4ad", seed, value) for seed, value in enumerate((0.90, 0.92, 0.94))),
        *(cell("rd4ad", s, v, category="tire") for s, v in enumerate((0.9, 0.8))),
        *(cell("rd4ad", s, v, category="leather") for s, v in enumerate((0.7, 0.8))),
        *(cell("stfpm", 0, 0.80), failed("stfpm", 1), cell("stfpm", 2, 0.84)),
        *(cell("stfpm", s, v, category="tire") for s, v in enumerate((0.6, 0.7))),
        cell("stfpm", 0, 0.5, category="leather", complete=False, error="1 of 9 pictures"),
        failed("stfpm", 1, "leather"),
    ]
    return Comparison(
        "first",
        cells,
        {("rd4ad", "brats"): {"image_auroc": Interval(0.88, 0.95)}},
        [
            Difference("brats", "image_auroc", "rd4ad", "stfpm", 9, 0.1, 0.02, 0.18, 0.03),
            Difference("mvtec", "pixel_ap", "rd4ad", "stfpm", 83, -0.01, -0.1, 0.08, 0.0004),
        ],
    )


def four(brain: Sequence[Value], industrial: Sequence[Value]) -> Comparison:
    """Models a to d with one seed each; None is a cell that failed."""
    cells = []
    for model, first, second in zip("abcd", brain, industrial, strict=True):
        for value, category in ((first, None), (second, "tire")):
            made = cell(model, 0, value, category=category)
            cells.append(failed(model, 0, category) if value is None else made)
    return Comparison("four", cells)


def markdown(comparison: Comparison) -> str:
    return results_markdown(comparison, published=[OTHERS, ABSENT])


def read(text: str, heading: str) -> list[dict[str, str]]:
    """The table under a heading, a dict a row; a heading that comes twice gets a 2 (rank2)."""
    section = text.split(f" {heading}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    split = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    header: list[str] = []
    for name in split[0]:
        header.append(name if name not in header else f"{name}2")
    return [dict(zip(header, row, strict=True)) for row in split[2:]]


def document(comparison: Comparison) -> dict[str, Any]:
    """The document after a round trip through strict JSON."""
    found = results_document(comparison, published=[OTHERS, ABSENT])
    back: dict[str, Any] = json.loads(json.dumps(found, allow_nan=False))
    return back


def row(rows: Sequence[Mapping[str, Any]], **wanted: Any) -> Mapping[str, Any]:
    (found,) = [r for r in rows if all(r[key] == value for key, value in wanted.items())]
    return found


def test_seeds_are_averaged_and_a_missing_one_is_told(two: Comparison) -> None:
    table = read(markdown(two), "brats (brain)")
    assert [r["model"] for r in table] == ["rd4ad", "stfpm"]
    assert table[0]["image AUROC"] == "0.920 ± 0.020 [0.880, 0.950]"
    assert table[1]["image AUROC"] == "0.820 ± 0.028 (2 of 3 seeds)"
    assert table[0]["best Dice (oracle)"] == "0.300 ± 0.000"
    # Columns that no cell of the data set fills are left out.
    assert set(table[0]) == {"model", "image AUROC", "pixel AP", "best Dice (oracle)", "AUPRO"}


def test_categories_are_averaged_within_a_seed_and_only_if_all_are_there(two: Comparison) -> None:
    table = read(markdown(two), "mvtec (industrial)")
    auroc = {(r["category"], r["model"]): r["image AUROC"] for r in table}
    assert auroc == {
        ("tire", "rd4ad"): "0.850 ± 0.071",
        ("leather", "rd4ad"): "0.750 ± 0.071",
        ("mean of 2", "rd4ad"): "0.800 ± 0.000",  # 0.8 in either seed
        ("tire", "stfpm"): "0.650 ± 0.071",
        ("leather", "stfpm"): "0.500 (1 of 2 seeds) †",
        ("mean of 2", "stfpm"): "0.550 (1 of 2 seeds) †",
    }


def test_an_incomplete_cell_marks_only_the_numbers_it_is_in(two: Comparison) -> None:
    # Tire's second seed is incomplete, and in no mean, since leather's second seed failed.
    cells = [
        replace(c, complete=c.seed == 0 or c.category != "tire" or c.model != "stfpm")
        for c in (replace(c, complete=True) for c in two.cells)
    ]
    table = read(markdown(replace(two, cells=cells)), "mvtec (industrial)")
    auroc = {r["category"]: r["image AUROC"] for r in table if r["model"] == "stfpm"}
    assert auroc["tire"] == "0.650 ± 0.071 †"
    assert auroc["mean of 2"] == "0.550 (1 of 2 seeds)"


def test_failed_and_incomplete_cells_are_listed_with_their_errors(two: Comparison) -> None:
    text = markdown(two)
    assert "**2 of 14 cells failed**" in text
    failures = read(text, "Failed cells")
    assert [(r["model"], r["data set"], r["category"], r["seed"]) for r in failures] == [
        ("stfpm", "brats", "–", "1"),
        ("stfpm", "mvtec", "leather", "1"),
    ]
    assert failures[0]["error"] == r"out of \| memory at x"
    (incomplete,) = read(text, "Incomplete cells (†)")
    assert (incomplete["category"], incomplete["error"]) == ("leather", "1 of 9 pictures")


def test_a_model_that_failed_altogether_is_shown_and_unranked() -> None:
    comparison = four((0.9, None, 0.7, 0.8), (0.9, 0.8, 0.7, 0.6))
    table = read(markdown(comparison), "image AUROC")
    assert [r["brats (brain)"] for r in table] == ["0.900", "failed", "0.700", "0.800"]
    assert [r["rank"] for r in table] == ["1", "–", "3", "2"]
    assert [r["rank2"] for r in table] == ["1", "2", "3", "4"]
    agreement = read(markdown(comparison), "Agreement of ranks between domains")
    assert row(agreement, metric="image AUROC")["models"] == "3"
    # a, c, d: one pair of three in the other order.
    assert row(agreement, metric="image AUROC")["Kendall's τ-b"] == "0.333"


def test_an_undefined_metric_is_a_dash_and_a_model_never_run_too() -> None:
    cells = [cell("a", 0, None), cell("b", 0, float("nan")), cell("b", 0, 0.5, category="tire")]
    comparison = Comparison("few", [*cells, cell("c", 0, 0.9)])
    assert [r["image AUROC"] for r in read(markdown(comparison), "brats (brain)")] == [
        "–",
        "–",
        "0.900",
    ]
    found = read(markdown(comparison), "mvtec (industrial)")
    assert row(found, model="a", category="tire")["image AUROC"] == "–"


def test_two_models_are_too_few_to_judge_agreement(two: Comparison) -> None:
    for line in read(markdown(two), "Agreement of ranks between domains"):
        assert line["Kendall's τ-b"] == line["Spearman's ρ"] == "not defined"
        assert (line["domains"], line["models"]) == ("brain – industrial", "2")
    assert {a["kendall_tau_b"] for a in document(two)["agreement"]} == {None}


def test_four_models_with_a_tie() -> None:
    comparison = four((0.9, 0.8, 0.8, 0.6), (0.9, 0.8, 0.7, 0.6))
    text = markdown(comparison)
    assert [r["rank"] for r in read(text, "image AUROC")] == ["1", "2.5", "2.5", "4"]
    line = row(read(text, "Agreement of ranks between domains"), metric="image AUROC")
    assert line["Kendall's τ-b"] == "0.913"  # 5 / sqrt(5 × 6)
    assert "With 4 models, even full agreement has p = 0.083" in text
    # All tied in pixel AP: no ranking to agree on.
    tied = row(read(text, "Agreement of ranks between domains"), metric="pixel AP")
    assert tied["Spearman's ρ"] == "not defined"


def test_differences_are_corrected_over_the_table(two: Comparison) -> None:
    first, second = read(markdown(two), "Paired differences")
    assert (first["a − b"], first["95 % interval"]) == ("+0.100", "[+0.020, +0.180]")
    assert (first["p"], first["p (Holm)"]) == ("0.030", "0.030")
    assert (second["metric"], second["p (Holm)"]) == ("pixel AP", "< 0.001")
    assert [d["p_holm"] for d in document(two)["differences"]] == [0.03, 0.0008]


def test_speed_and_size_are_means_of_runs_that_finished(two: Comparison) -> None:
    slow = {"training_seconds": 40.0}
    changed = [replace(two.cells[0], facts=slow), replace(two.cells[1], facts=slow, metrics=None)]
    cells = [*changed, *two.cells[2:]]
    table = read(markdown(replace(two, cells=cells)), "Speed and size")
    line = row(table, model="rd4ad", **{"data set": "brats"})
    assert line["training, s"] == "25"  # of 40 and 10; the third failed
    assert (line["parameters, M"], line["model, MiB"]) == ("2.5", "–")


def test_published_figures_stay_apart(two: Comparison) -> None:
    text = markdown(two)
    ours, theirs = text.split("## Published results, under other protocols")
    assert "0.985" not in ours
    assert read(f"# x\n{theirs}", "x")[0]["image AUROC"] == "0.985"
    assert "- [1] A paper: another protocol." in theirs
    assert "patchcore" not in text  # no model of ours
    [held] = document(two)["published"]
    assert (held["model"], held["our_row"]) == ("rd4ad", "rd4ad on mvtec")
    assert read(f"# x\n{theirs}", "x")[0]["our row"] == "rd4ad on mvtec"
    assert "Published" not in results_markdown(two, published=[])


def test_rows_have_every_cell_and_go_through_csv(two: Comparison) -> None:
    rows = results_rows(two)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    stream.seek(0)
    back = list(csv.DictReader(stream))
    assert len(back) == len(two.cells)
    first = row(back, model="stfpm", data_set="mvtec", category="leather", seed="0")
    assert (first["status"], first["image_auroc"], first["aupro_rd4ad"]) == (
        "incomplete",
        "0.5",
        "",
    )
    lost = row(back, model="stfpm", data_set="brats", seed="1")
    assert (lost["status"], lost["image_auroc"]) == ("failed", "")
    assert lost["error"].startswith("out of")


def test_the_document_holds_what_the_page_shows(two: Comparison) -> None:
    found = document(two)
    whole = row(found["aggregates"], model="rd4ad", data_set="brats")["metrics"]["image_auroc"]
    assert whole["mean"] == pytest.approx(0.92)
    assert whole["spread"] == pytest.approx(0.02)
    assert (whole["n"], whole["planned"]) == (3, 3)
    assert whole["interval"] == {"low": 0.88, "high": 0.95}
    mean = row(found["aggregates"], model="stfpm", data_set="mvtec", category=None)
    assert mean["metrics"]["image_auroc"]["n"] == 1
    assert mean["metrics"]["image_auroc"]["complete"] is False
    assert [f["model"] for f in found["failed"]] == ["stfpm", "stfpm"]
    brain = row(found["ranks"], metric="image_auroc", data_set="brats")
    assert brain["ranks"] == {"rd4ad": 1, "stfpm": 2}


def test_contradictory_cells_are_refused() -> None:
    one = cell("a", 0, 0.5)
    with pytest.raises(ValueError, match="twice"):
        Comparison("x", [one, one])
    with pytest.raises(ValueError, match="two domains"):
        Comparison("x", [one, replace(one, seed=1, domain="industrial")])
    with pytest.raises(ValueError, match="with and without a category"):
        Comparison("x", [one, replace(one, category="tire")])


# --- The figure ---


def texts(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def dots(figure: Figure, panel: int) -> list[tuple[float, float]]:
    """(value, row) of the large dots."""
    lines = [line for line in figure.axes[panel].lines if line.get_markersize() == 5]
    found = [(line.get_xdata(), line.get_ydata()) for line in lines if line.get_marker() == "o"]
    return [(round(float(x[0]), 9), float(y[0])) for x, y in found]  # type: ignore[index, arg-type]


def test_the_figure_has_the_tables_numbers(two: Comparison) -> None:
    figure = draw_figure(two)
    assert len(figure.axes) == 6  # three metrics, two data sets
    assert dots(figure, 0) == [(0.92, 0), (0.82, 1)]
    assert dots(figure, 1) == [(0.8, 0), (0.55, 1)]
    assert {"0.920", "0.820", "2 of 3 seeds", "brats (brain)"} <= set(texts(figure, 0))
    assert {"0.550 †", "1 of 2 seeds", "mvtec (industrial)"} <= set(texts(figure, 1))


def test_panels_of_a_metric_share_an_axis_and_a_cut_is_marked(two: Comparison) -> None:
    figure = draw_figure(two)
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim() == (0.49, 1.01)
    assert "//" in texts(figure, 0)
    assert figure.axes[2].get_xlim() == figure.axes[3].get_xlim() == (-0.02, 1.02)
    # One value below chance in one panel, and both show the whole axis.
    low = draw_figure(four((0.9, 0.8, 0.7, 0.6), (0.9, 0.8, 0.7, 0.4)))
    assert low.axes[0].get_xlim() == low.axes[1].get_xlim() == (-0.02, 1.02)
    assert "//" not in texts(low, 0)


def test_what_failed_is_said_in_its_place() -> None:
    figure = draw_figure(four((0.9, None, 0.7, 0.6), (0.9, 0.8, 0.7, 0.6)))
    (label,) = [text for text in figure.axes[0].texts if text.get_text() == "failed"]
    assert isinstance(label, Annotation)
    assert label.xy[1] == 1  # the second line of the panel
    assert [y for _, y in dots(figure, 0)] == [0, 2, 3]
    assert "failed" not in texts(figure, 1)


def test_the_file_is_whole_and_the_same_twice(two: Comparison, tmp_path: Path) -> None:
    long = [replace(c, model=f"{c.model}_with_quite_a_long_name_of_a_model") for c in two.cells]
    comparison = Comparison("long", long)
    first, second = tmp_path / "new" / "a.png", tmp_path / "b.png"
    save_figure(comparison, first)
    save_figure(comparison, second)
    assert first.read_bytes() == second.read_bytes()
    assert matplotlib.image.imread(first).std() > 0.05
    assert [path.name for path in first.parent.iterdir()] == ["a.png"]


# --- Published figures ---


def test_the_published_list_is_sound() -> None:
    figures = load_published()
    bmad = [f for f in figures if f.model == "rd4ad" and f.data_set.startswith("BMAD")]
    assert [(f.values["image_auroc"], f.spread["pro"]) for f in bmad] == [(0.8945, 0.0023)]
    keys = [(f.model, f.data_set, f.source, f.protocol) for f in figures]
    assert len(set(keys)) == len(keys)


def test_which_published_methods_a_row_is() -> None:
    def named(model: str) -> Published:
        return replace(OTHERS, model=model)

    figures = [named("rd4ad"), named("rd"), named("rd++"), named("sk_rd4ad")]
    assert [f.model for f in published_of(figures, ["RD4AD_wrn50"])] == ["rd4ad"]
    assert [f.model for f in published_of(figures, ["rd++ 256"])] == ["rd++"]
    assert published_of(figures, ["unknown", "rd4ads"]) == []
    # All methods but one go by the names of the config's models.
    assert {f.model for f in load_published()} - set(DETECTORS) == {"efficientad"}


def test_which_row_a_published_result_is_held_against() -> None:
    figure = replace(OTHERS, model="rd4ad", data_set="MVTec AD, mean of 15 categories")
    rows = ["rd4ad_pixel", "RD4AD", "stfpm"]
    assert held_against(figure, rows, ["brats", "mvtec_ad"]) == "RD4AD on mvtec_ad"
    assert held_against(figure, rows, ["mvtec_loco", "tire"]) == ""
    assert held_against(figure, ["rd4ad_pixel"], ["mvtec_ad"]) == ""


GOOD = "{model: a, data_set: b, source: c, protocol: d, values: {image_auroc: 0.9}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "a readable YAML file"),
        ("a: b", "a list of published results"),
        ("- just text", r"entry 1: expected a mapping"),
        (f"- {GOOD}\n- {GOOD.replace('source: c', 'source: 7')}", r"entry 2, source"),
        (f"- {GOOD.replace('protocol: d, ', '')}", r"entry 1, protocol: expected a text"),
        (f"- {GOOD.replace('0.9', '90.2')}", r"image_auroc: expected a fraction .* 90\.2"),
        (f"- {GOOD.replace('0.9', 'yes')}", "fraction"),
        (f"- {GOOD.replace('0.9', '.nan')}", "fraction"),
        (f"- {GOOD.replace('image_auroc', 'aupro')}", "keys among"),
        (f"- {GOOD.replace('{image_auroc: 0.9}', '{}')}", "at least one number"),
        (f"- {GOOD.replace('data_set', 'dataset')}", "found 'dataset'"),
        (f"- {GOOD[:-1]}, spread: {{pro: 0.1}}}}", "spread: expected keys among image_auroc"),
    ],
)
def test_what_is_wrong_with_a_published_list(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "published.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_published(path)


def test_planned_seeds_are_those_of_the_model() -> None:
    # A baseline without training may well have one seed where the others have three.
    cells = [cell("intensity", 0, 0.9), *(cell("rd4ad", seed, 0.8) for seed in range(3))]
    comparison = Comparison("x", cells)
    assert aggregate(comparison, "intensity", "brats", "image_auroc").shortfall is None
