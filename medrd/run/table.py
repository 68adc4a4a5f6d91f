"""Metrics as a Markdown table, also for terminals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from medrd.metrics.columns import COLUMNS


def metrics_table(path: Path) -> str:
    """A model's ``metrics.json`` with its categories and baselines as Markdown.

    Columns without any value are left out. A line below counts failed test inputs.
    """
    return table_of(json.loads(path.read_text(encoding="utf-8")))


def table_of(content: Mapping[str, Any]) -> str:
    """The table of :func:`metrics_table`, from the content of a ``metrics.json``."""
    model = content["protocol"]["model"]
    rows: dict[str, Mapping[str, float | None]] = {}
    for category, row in content.get("categories", {}).items():
        rows[f"{model}, {category}"] = row
    rows[f"{model}, mean" if rows else model] = content
    several = content.get("baseline_categories", {})
    for name, row in content.get("baseline", {}).items():
        rows |= {f"{name}, {c}": of_category for c, of_category in several.get(name, {}).items()}
        rows[f"{name}, mean" if name in several else name] = row
    shown = [key for key in COLUMNS if any(row.get(key) is not None for row in rows.values())]
    body = [[name, *(cell(row.get(key)) for key in shown)] for name, row in rows.items()]
    table = markdown_table(["model", *(COLUMNS[key] for key in shown)], body)
    if content.get("complete", True):
        return table
    failed, tested = (content["counts"][key] for key in ("subjects_failed", "subjects"))
    return (
        f"{table}\n\nIncomplete: {failed} of {failed + tested} test inputs failed "
        "and were left out of all numbers."
    )


def cell(value: float | None) -> str:
    """The value with three decimals; a dash if it is not defined."""
    return "–" if value is None else f"{value:.3f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An aligned Markdown table: the first column to the left, the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def show(line: Sequence[str]) -> str:
        first, *rest = line
        cells = [first.ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)]
        return "| " + " | ".join(cells) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([show(lines[0]), show(rule), *map(show, lines[1:])])


def spread_cell(values: Sequence[float | None]) -> str:
    """Mean ± sample standard deviation; a dash if any value is missing."""
    defined = [value for value in values if value is not None]
    if not defined or len(defined) < len(values):
        return "–"
    deviation = f" ± {stdev(defined):.3f}" if len(defined) > 1 else ""
    return f"{fmean(defined):.3f}{deviation}"
