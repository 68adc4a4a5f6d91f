"""The page that lists prepared heads, a row a subject, with their pictures and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medrd.report.index_page import thumbnail
from medrd.report.page import render

_PICTURE_PX = 400
_COLUMNS = (
    "subject",
    "modalities",
    "brain, ml",
    "brain by",
    "Dice",
    "turned",
    "contrast",
    "warnings",
)


@dataclass(frozen=True)
class PreparedEntry:
    """One subject.

    Attributes
    ----------
    record
        Its JSON.
    href
        Its picture, relative to the page.
    still
        The same as PNG.
    """

    record: Mapping[str, Any]
    href: str
    still: bytes


def prepared_page(entries: Sequence[PreparedEntry], *, title: str, failed: Sequence[str]) -> str:
    """The page as HTML; ``failed`` are the subjects that could not be prepared, a sentence each."""
    return render(
        "index.html",
        title=title,
        summary=f"{len(entries)} prepared. Look at each: green is the brain that was found, blue "
        "the template's.",
        columns=_COLUMNS,
        rows=[
            {
                "name": entry.record["subject"],
                "href": entry.href,
                "cells": _cells(entry.record),
                "thumbnail": thumbnail(entry.still, side_px=_PICTURE_PX),
            }
            for entry in entries
        ],
        thumbnails=True,
        failed=failed,
        notes=[
            "Dice: of the brain that was found and the template's, where they are independent. "
            "Turned: by how many degrees the head was. Contrast: the share of the fit that is lost "
            "when the head is moved by 10 mm or turned by 10 degrees; the least of all "
            "registrations of the subject.",
        ],
    )


def _cells(record: Mapping[str, Any]) -> list[dict[str, str]]:
    quality = record["quality"]
    placed = quality["to_template"]
    overlap = quality["brain_dice"]
    contrasts = [placed["contrast"], *(a["contrast"] for a in quality["to_reference"].values())]
    warnings = record["warnings"]
    return [
        _text(", ".join(record["inputs"])),
        _number(quality["brain_ml"], "{:.0f}"),
        _text(quality["brain"]),
        _number(overlap, "{:.3f}"),
        _number(placed["degrees"], "{:.1f}°"),
        _number(min(contrasts), "{:.2f}"),
        {"value": str(len(warnings)), "text": "; ".join(warnings) or "–"},
    ]


def _text(text: str) -> dict[str, str]:
    return {"value": text, "text": text}


def _number(value: float | None, shown: str) -> dict[str, str]:
    if value is None:
        return {"value": "", "text": "–"}
    return {"value": repr(float(value)), "text": shown.format(value)}
