"""The page that lists what was predicted, a row a scan or picture, sortable by every column."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from medrd.report.page import render

_THUMBNAIL_PX = 264  # twice what the table shows, for sharp screens


@dataclass(frozen=True)
class IndexEntry:
    """One scan or picture.

    Attributes
    ----------
    record
        Its JSON.
    href
        Its page, relative to the index.
    dice
        Of mask and label, where there are both.
    still
        A PNG to make a thumbnail of.
    """

    record: Mapping[str, Any]
    href: str
    dice: float | None
    still: bytes | None


@dataclass(frozen=True)
class _Column:
    name: str
    value: Callable[[IndexEntry], float | None]
    text: Callable[[float], str]


def _score(entry: IndexEntry) -> float:
    record = entry.record
    return float(record["scan_score"] if "scan_score" in record else record["image_score"])


def _percentile(entry: IndexEntry) -> float | None:
    record = entry.record
    return record.get("healthy_percentile", record.get("normal_percentile"))


def _size(entry: IndexEntry) -> float | None:
    """Of all findings: ml of a scan, pixels of a picture."""
    record = entry.record
    if "findings_volume_mm3" not in record:
        return record["anomalous_pixels"]
    volume_mm3 = record["findings_volume_mm3"]
    return None if volume_mm3 is None else volume_mm3 / 1000


def _largest(entry: IndexEntry) -> float | None:
    findings = entry.record["findings"]
    if not findings:
        return None
    first = findings[0]
    return first["volume_mm3"] / 1000 if "volume_mm3" in first else first["area_px"]


def _columns(entries: Sequence[IndexEntry]) -> list[_Column]:
    pictures = any("image_score" in entry.record for entry in entries)
    unit, show = ("px", "{:.0f}".format) if pictures else ("ml", "{:.2f}".format)
    columns = [
        _Column("score", _score, "{:.4g}".format),
        _Column("percentile", _percentile, "{:.0f} %".format),
        _Column("p-value", lambda entry: entry.record["p_value"], "{:.3g}".format),
        _Column(f"findings, {unit}", _size, show),
        _Column("number", lambda entry: len(entry.record["findings"]), "{:.0f}".format),
        _Column(f"largest, {unit}", _largest, show),
        _Column("Dice", lambda entry: entry.dice, "{:.3f}".format),
        _Column("warnings", lambda entry: len(entry.record["warnings"]) or None, "{:.0f}".format),
    ]
    return [c for c in columns if any(c.value(entry) is not None for entry in entries)]


def index_page(entries: Sequence[IndexEntry], *, title: str, failed: Sequence[str]) -> str:
    """The page as HTML.

    Parameters
    ----------
    failed
        What could not be predicted or shown, a sentence each.
    """
    columns = _columns(entries)
    rows = [
        {
            "name": entry.record["subject"],
            "href": entry.href,
            "cells": [_cell(column, entry) for column in columns],
            "thumbnail": thumbnail(entry.still) if entry.still else None,
        }
        for entry in entries
    ]
    models = [entry.record["model"] for entry in entries]
    names = sorted({f"{model['name']} {model['hash'][:12]}" for model in models})
    return render(
        "index.html",
        title=title,
        summary=f"{len(entries)} predicted by {', '.join(names)}. A click on a heading sorts."
        if entries
        else "Nothing to show.",
        columns=["name", *(column.name for column in columns)],
        rows=rows,
        thumbnails=any(row["thumbnail"] for row in rows),
        failed=failed,
        notes=[
            "Percentile: the share of calibration scans or pictures that score lower. "
            "Colours are in units of each model's calibrated threshold, the same on every page.",
        ],
    )


def _cell(column: _Column, entry: IndexEntry) -> dict[str, str]:
    value = column.value(entry)
    if value is None:
        return {"value": "", "text": "–"}
    return {"value": repr(float(value)), "text": column.text(value)}


def thumbnail(still: bytes, *, side_px: int = _THUMBNAIL_PX) -> str:
    """A small JPEG of a PNG, as base64."""
    with Image.open(io.BytesIO(still)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((side_px, side_px))
    target = io.BytesIO()
    small.save(target, format="JPEG", quality=80)
    return base64.b64encode(target.getvalue()).decode("ascii")
