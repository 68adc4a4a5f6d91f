"""The page that lists predictions, one row per scan or picture."""

from __future__ import annotations

from collections.abc import Sequence

from medrd.pages.listing import Column, Entry, listing_page
from medrd.pages.parts import calibrated_whole
from medrd.run.record import PredictionRecord

_THUMBNAIL_PX = 264
_Entry = Entry[PredictionRecord]


def _size(entry: _Entry) -> float | None:
    """The size of all findings together: ml for a scan, pixels for a picture."""
    record = entry.record
    if not record.is_scan:
        return record.anomalous_pixels
    volume_mm3 = record.findings_volume_mm3
    return None if volume_mm3 is None else volume_mm3 / 1000


def _largest(entry: _Entry) -> float | None:
    findings = entry.record.findings
    if not findings:
        return None
    return findings[0]["volume_mm3"] / 1000 if entry.record.is_scan else findings[0]["area_px"]


def _columns(entries: Sequence[_Entry]) -> list[Column[PredictionRecord]]:
    pictures = any(not entry.record.is_scan for entry in entries)
    unit, show = ("px", "{:.0f}".format) if pictures else ("ml", "{:.2f}".format)
    count = "{:.0f}".format
    return [
        Column("score", lambda entry: entry.record.score, "{:.4g}".format),
        Column("percentile", lambda entry: entry.record.percentile, "{:.0f} %".format),
        Column("p-value", lambda entry: entry.record.p_value, "{:.3g}".format),
        Column(f"findings, {unit}", _size, show),
        Column("number", lambda entry: len(entry.record.findings), count),
        Column(f"largest, {unit}", _largest, show),
        Column("Dice", lambda entry: entry.dice, "{:.3f}".format),
        Column("warnings", lambda entry: len(entry.record.warnings) or None, count),
        Column("not checked", lambda entry: len(entry.record.not_judged) or None, count),
    ]


def index_page(entries: Sequence[_Entry], *, title: str, failed: Sequence[str]) -> str:
    """Render the page as HTML.

    Parameters
    ----------
    failed
        A sentence about each input that could not be predicted or shown.
    """
    models = [entry.record.model for entry in entries]
    names = sorted({f"{model.name} {model.hash[:12]}" for model in models})
    notes = [
        "Percentile: the share of calibration scans or pictures with a lower score. "
        "Colours are in units of each model's calibrated threshold, the same on every page.",
    ]
    records = [entry.record for entry in entries]
    if any(record.percentile is not None and not calibrated_whole(record) for record in records):
        notes.append(
            "Some calibration scans are not entirely healthy and were scored by their healthy "
            "slices only, so percentiles tend to be high."
        )
    if whom := {record.model.calibrated_on for record in records} - {None}:
        notes.append(f"Percentiles and p-values are among {', '.join(map(str, whom))}.")
    if any(record.not_judged for record in records):
        notes.append(
            "Not checked: the number of properties that could not be compared with the training "
            "data. Each page lists them."
        )
    return listing_page(
        entries,
        _columns(entries),
        title=title,
        summary=f"{len(entries)} predicted by {', '.join(names)}. Click a heading to sort."
        if entries
        else "There is nothing to show.",
        failed=failed,
        # That of a built-in model says more than the others.
        notice=next((record.notice for record in records if record.model.calibrated_on), None),
        notes=notes,
        thumbnail_px=_THUMBNAIL_PX,
    )
