"""Pages with one sortable table: a row per result, with a thumbnail."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from PIL import Image

from medrd.pages.page import as_base64, render
from medrd.run.record import Record

AnyRecord = TypeVar("AnyRecord", bound=Record)


@dataclass(frozen=True)
class Entry(Generic[AnyRecord]):
    """One result.

    Attributes
    ----------
    href
        Address of its page or picture, relative to this page.
    still
        A PNG file for the thumbnail.
    dice
        Dice of mask and label, if there are both.
    """

    record: AnyRecord
    href: str
    still: bytes | None = None
    dice: float | None = None


@dataclass(frozen=True)
class Column(Generic[AnyRecord]):
    """A column of the table.

    Attributes
    ----------
    value
        The value that the column sorts by; None shows a dash.
    shown
        Formats the value as text.
    """

    name: str
    value: Callable[[Entry[AnyRecord]], float | str | None]
    shown: Callable[[Any], str] = str


def listing_page(
    entries: Sequence[Entry[AnyRecord]],
    columns: Sequence[Column[AnyRecord]],
    *,
    title: str,
    summary: str,
    failed: Sequence[str],
    notes: Sequence[str],
    thumbnail_px: int,
    notice: str | None = None,
) -> str:
    """Render the page as HTML. Columns without any value are left out.

    Parameters
    ----------
    failed
        A sentence about each missing result.
    thumbnail_px
        Largest side of thumbnails: twice their size in the table, for high-resolution screens.
    notice
        Default: that of every page.
    """
    shown = [c for c in columns if any(c.value(entry) is not None for entry in entries)]
    rows = [
        {
            "name": entry.record.subject,
            "href": entry.href,
            "cells": [_cell(column, entry) for column in shown],
            "thumbnail": _thumbnail(entry.still, thumbnail_px) if entry.still else None,
        }
        for entry in entries
    ]
    return render(
        "index.html",
        title=title,
        summary=summary,
        columns=["name", *(column.name for column in shown)],
        rows=rows,
        thumbnails=any(row["thumbnail"] for row in rows),
        failed=failed,
        notes=notes,
        **({"notice": notice} if notice else {}),
    )


def _cell(column: Column[AnyRecord], entry: Entry[AnyRecord]) -> dict[str, str]:
    value = column.value(entry)
    if value is None:
        return {"value": "", "text": "–"}
    return {
        "value": value if isinstance(value, str) else repr(float(value)),
        "text": column.shown(value),
    }


def _thumbnail(still: bytes, side_px: int) -> str:
    """Shrink a PNG to a small JPEG, as base64."""
    with Image.open(io.BytesIO(still)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((side_px, side_px))
    target = io.BytesIO()
    small.save(target, format="JPEG", quality=80)
    return as_base64(target.getvalue())
