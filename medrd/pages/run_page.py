"""The page of a training run or an evaluation: facts, tables, curves and cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medrd.metrics.columns import COLUMNS
from medrd.pages.page import as_base64, render
from medrd.run.table import cell


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, the value that it sorts by, and an address that it links to."""

    text: str
    value: float | None = None
    href: str | None = None


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by each of its columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Picture:
    """A PNG file with its caption, and an address that it links to."""

    caption: str
    png: bytes
    href: str | None = None

    @property
    def png_base64(self) -> str:
        """The file for a data URI."""
        return as_base64(self.png)


@dataclass(frozen=True)
class Section:
    """A part of the page; empty fields are not shown."""

    heading: str
    facts: Sequence[tuple[str, str]] = ()
    table: Table | None = None
    pictures: Sequence[Picture] = ()
    text: str = ""
    note: str = ""
    folded: bool = False


def run_page(title: str, sections: Sequence[Section], *, warnings: Sequence[str] = ()) -> str:
    """Render the page as HTML."""
    return render("run.html", title=title, sections=sections, warnings=warnings)


def metrics_rows(content: Mapping[str, Any]) -> Table:
    """The table of a ``metrics.json``: a row for the model, each category and each baseline.

    Columns without any value are left out. The model's own values are followed by intervals.
    """
    model = content["protocol"]["model"]
    intervals = content.get("intervals", {})
    rows: dict[str, Mapping[str, Any]] = {}
    for category, row in content.get("categories", {}).items():
        rows[f"{model}, {category}"] = row
    rows[f"{model}, mean" if rows else model] = content
    rows |= content.get("baseline", {})
    keys = [key for key in COLUMNS if any(row.get(key) is not None for row in rows.values())]

    def shown(row: Mapping[str, Any], key: str) -> Cell:
        text = cell(row.get(key))
        if row is content and key in intervals:
            low, high = intervals[key]
            text += f" ({low:.2f} – {high:.2f})"
        return Cell(text, row.get(key))

    return Table(
        ["model", *(COLUMNS[key] for key in keys)],
        [[Cell(name), *(shown(row, key) for key in keys)] for name, row in rows.items()],
    )
