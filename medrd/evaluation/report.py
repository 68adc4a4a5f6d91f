"""``medrd report`` on a training run or an evaluation: loss, metrics, curves, cases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medrd.data.output_names import PAGES_NAME, REPORT_NAME
from medrd.draw.line_chart import Line, line_chart
from medrd.errors import FileFormatError, InputError
from medrd.evaluation.outputs import CASES_NAME, FROC_NAME, load_units
from medrd.metrics.curves import Curve, image_curves, pixel_curves
from medrd.pages.page import link_to, write_page
from medrd.pages.run_page import Cell, Picture, Section, Table, metrics_rows, run_page
from medrd.prediction.report import HtmlReport, find_records, report_predictions
from medrd.run.record import Record

_PAGE_CURVES = 12
"""Largest number of categories in one chart: more lines cannot be told apart."""


def is_run(folder: Path) -> bool:
    """True if ``medrd train`` wrote this folder."""
    # Training writes metrics.jsonl from the first epoch on, and run.json at its end; models
    # without epochs only have the latter.
    names = ("metrics.jsonl", "run.json")
    return (folder / "config.yaml").is_file() and any((folder / n).is_file() for n in names)


def is_evaluation(folder: Path) -> bool:
    """True if ``medrd evaluate`` wrote this folder."""
    return (folder / "metrics.json").is_file()


def report_run(folder: Path) -> HtmlReport:
    """Write ``report.html`` for a run, including its evaluation if there is one.

    Raises
    ------
    FileFormatError
        A file is not in the format that medrd writes.
    """
    evaluation = folder if is_evaluation(folder) else folder / "evaluation"
    sections: list[Section] = []
    warnings: list[str] = []
    errors: list[InputError] = []
    title = folder.resolve().name
    try:
        if is_evaluation(evaluation):
            sections, warnings, errors = _evaluation(evaluation, base=folder)
            protocol = _read(evaluation / "metrics.json")["protocol"]
            title = f"{protocol['model']} on {protocol['data_set']}"
        if is_run(folder):
            sections += _training(folder)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise FileFormatError(
            folder,
            expected="the files that medrd train or medrd evaluate wrote",
            found=f"{type(error).__name__}: {error}",
            remedy="Run it again with this version of medrd.",
        ) from error
    path = folder / REPORT_NAME
    write_page(path, run_page(title, sections, warnings=warnings))
    return HtmlReport(path, pages=1, errors=errors)


def _training(folder: Path) -> list[Section]:
    log = folder / "metrics.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    epochs = [json.loads(line) for line in lines]
    run, model = (_read(folder / name) for name in ("run.json", "model/model.json"))
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    sections = []
    if epochs:
        numbers = [epoch["epoch"] for epoch in epochs]
        names = list(epochs[-1]["losses"])
        charts = [Line(name, numbers, [e["losses"][name] for e in epochs]) for name in names]
        loss = line_chart(charts, x_label="epoch", y_label="loss", y_range=None)
        sections.append(Section("Training", pictures=[Picture("Loss by epoch", loss)]))
    if run:
        kept = {k: v for k, v in run.items() if k != "versions"} | run["versions"]
        sections.append(Section("How it was trained", facts=_facts(kept), folded=True))
    if model and model["calibration"]:
        sections.append(_calibration(model["calibration"]))
    sections.append(Section("Config", text=config, folded=True))
    return sections


def _calibration(calibration: dict[str, Any]) -> Section:
    rates, left_out = calibration["held_fpr_by_scan"], calibration["left_out_fpr_by_scan"]
    share = f"{calibration['held_fpr']:.4f} (target {calibration['target_fpr']:g})"
    counts = (f"{calibration[key]} {key}" for key in ("scans", "slices", "voxels"))
    facts = [
        ("threshold", f"{calibration['threshold']:.6g}"),
        ("healthy share at or above it", share),
        ("range over scans", f"{min(rates):.4f} to {max(rates):.4f}"),
        ("calibrated on", ", ".join(counts)),
    ]
    if left_out:
        facts.append(
            ("range over scans left out in turn", f"{min(left_out):.4f} to {max(left_out):.4f}")
        )
    return Section("Calibration", facts=facts)


def _evaluation(folder: Path, *, base: Path) -> tuple[list[Section], list[str], list[InputError]]:
    """The page's sections and warnings, and errors for cases that could not be shown.

    ``base`` is the folder of the page.
    """
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    subjects = _read(folder / "subjects.json") or []
    counts = metrics["counts"]
    warnings = []
    if not metrics.get("complete", True):
        warnings.append(
            f"{counts['subjects_failed']} test inputs failed and were left out of all numbers."
        )
    note = (
        f"{counts['subjects']} subjects, {counts['images']} images, "
        f"{counts['images_with_lesion']} of them with a lesion or defect."
    )
    if metrics.get("intervals"):
        note += " Brackets hold 95 % bootstrap intervals over subjects."
    sections = [
        Section("Metrics", table=metrics_rows(metrics), note=note),
        Section("Curves", pictures=[*_curves(folder), *_froc(folder)]),
    ]
    cases = folder / CASES_NAME
    records = find_records(cases) if cases.is_dir() else []
    errors: list[InputError] = []
    if records:
        errors = report_predictions(cases, records).errors
        sections.append(_cases(cases, records, subjects, base=base))
    if subjects:
        sections.append(Section("Subjects", table=_table(subjects), folded=True))
    sections.append(Section("Protocol", facts=_facts(metrics["protocol"]), folded=True))
    warnings += [f"A case could not be shown again: {error}" for error in errors]
    return sections, warnings, errors


def _curves(folder: Path) -> list[Picture]:
    paths = sorted((folder / "units").glob("*.npz"))[:_PAGE_CURVES]
    units = {path.stem: load_units(path) for path in paths}
    if not units:
        return []
    pixel = {name: pixel_curves(group) for name, group in units.items()}
    image = {name: image_curves([group]) for name, group in units.items()}
    false, true = "false positive rate", "true positive rate"
    return [
        *_chart(image, "roc", "Images: ROC", false, true),
        *_chart(image, "pr", "Images: precision and recall", "recall", "precision"),
        *_chart(pixel, "roc", "Voxels or pixels: ROC", false, true),
        *_chart(pixel, "pr", "Voxels or pixels: precision and recall", "recall", "precision"),
        *_chart(pixel, "pro", "Per-region overlap (AUPRO's curve)", false, "overlap"),
    ]


def _chart(
    curves: dict[str, dict[str, Curve]], kind: str, caption: str, x_label: str, y_label: str
) -> list[Picture]:
    """A chart with a line per category; none if no category has such a curve."""
    lines = [Line(n, c[kind].x, c[kind].y) for n, c in curves.items() if kind in c]
    if not lines:
        return []
    chart = line_chart(
        lines,
        x_label=x_label,
        y_label=y_label,
        x_range=(0, 0.3 if kind == "pro" else 1),
        chance=None if kind == "pr" else ((0, 0), (1, 1)),
    )
    return [Picture(caption, chart)]


def _froc(folder: Path) -> list[Picture]:
    points = _read(folder / FROC_NAME)
    if not points:
        return []
    rates = [point["false_positives_per_scan"] for point in points]
    sensitivities = [point["lesion_sensitivity"] for point in points]
    calibrated = [point["factor"] for point in points].index(1.0)
    chart = line_chart(
        [Line("", rates, sensitivities, dots=True, marked=calibrated)],
        x_label="false positives per scan",
        y_label="share of lesions found",
        x_range=(0, max(max(rates) * 1.05, 1)),
    )
    factors = f"{points[0]['factor']:g} to {points[-1]['factor']:g}"
    return [
        Picture(
            f"FROC: connected lesions and findings at {factors} times the calibrated threshold "
            "(large dot). As the threshold falls, findings merge, so the line may turn back.",
            chart,
        )
    ]


def _cases(
    cases: Path, records: Sequence[Path], subjects: Sequence[dict[str, Any]], *, base: Path
) -> Section:
    """The figures of the cases, from the best to the worst."""
    rows = {row["subject"]: row for row in subjects}
    pictures = []
    for path in records:
        record = Record.read(path)
        if record is None or "picture" not in record.outputs:
            continue
        row = rows.get(record.subject, {})
        dice = row.get("dice")
        value = f"score {row['scan_score']:.4g}" if dice is None else f"Dice {dice:.3f}"
        place = path.relative_to(cases).with_suffix(".html")
        page = cases / REPORT_NAME if len(records) == 1 else cases / PAGES_NAME / place
        pictures.append(
            (
                dice if dice is not None else row["scan_score"],
                Picture(
                    f"{record.subject}: {value}",
                    (path.parent / record.outputs["picture"].file).read_bytes(),
                    href=link_to(page.relative_to(base)) if page.is_file() else None,
                ),
            )
        )
    pictures.sort(key=lambda pair: -pair[0])
    return Section(
        "Best and worst cases",
        pictures=[picture for _, picture in pictures],
        note="Ordered by Dice at the calibrated threshold, or else by score. Click a case to "
        "open it.",
    )


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return Table(
        [column.replace("_", " ") for column in columns],
        [[_cell(row.get(column)) for column in columns] for row in rows],
    )


def _cell(value: Any) -> Cell:
    if isinstance(value, int | float):
        return Cell(f"{value:.4g}" if isinstance(value, float) else str(value), float(value))
    return Cell("–" if value is None else str(value))


def _facts(content: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (key.replace("_", " "), value if isinstance(value, str) else json.dumps(value))
        for key, value in content.items()
        if value is not None
    ]


def _read(path: Path) -> Any:
    """The content of a JSON file; None if the file does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
