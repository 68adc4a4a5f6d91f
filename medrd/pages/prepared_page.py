"""The page that lists prepared heads, a row a subject, with their pictures and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medrd.pages.listing import Column, Entry, listing_page

_PICTURE_PX = 400


def _quality(entry: Entry) -> Any:
    return entry.record["quality"]


def _least_contrast(entry: Entry) -> float:
    quality = _quality(entry)
    alignments = [quality["to_template"], *quality["to_reference"].values()]
    return min(float(alignment["contrast"]) for alignment in alignments)


COLUMNS = (
    Column("modalities", lambda entry: ", ".join(entry.record["inputs"])),
    Column("brain, ml", lambda entry: _quality(entry)["brain_ml"], "{:.0f}".format),
    Column("brain by", lambda entry: _quality(entry)["brain"]),
    Column("Dice", lambda entry: _quality(entry)["brain_dice"], "{:.3f}".format),
    Column("turned", lambda entry: _quality(entry)["to_template"]["degrees"], "{:.1f}°".format),
    Column("contrast", _least_contrast, "{:.2f}".format),
    Column("warnings", lambda entry: "; ".join(entry.record["warnings"]) or None),
)


def prepared_page(entries: Sequence[Entry], *, title: str, failed: Sequence[str]) -> str:
    """The page as HTML; ``failed`` are the subjects that could not be prepared, a sentence each."""
    return listing_page(
        entries,
        COLUMNS,
        title=title,
        summary=f"{len(entries)} prepared. Look at each: green is the brain that was found, blue "
        "the template's.",
        failed=failed,
        notes=[
            "Dice: of the brain that was found and the template's, where they are independent. "
            "Turned: by how many degrees the head was. Contrast: the share of the fit that is lost "
            "when the head is moved by 10 mm or turned by 10 degrees; the least of all "
            "registrations of the subject.",
        ],
        thumbnail_px=_PICTURE_PX,
    )
