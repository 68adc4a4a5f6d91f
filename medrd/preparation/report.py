"""The page of prepared scans: a row for each subject, with its figure and quality."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from medrd.data.output_names import PREPARED_ENDING, ending_in
from medrd.errors import FileFormatError, MedrdError
from medrd.pages.listing import Column, Entry, listing_page
from medrd.pages.page import link_to, write_page
from medrd.preparation.record import PreparedRecord

logger = logging.getLogger("medrd.prepare")

PAGE_NAME = "prepared.html"
_PICTURE_PX = 400
_Entry = Entry[PreparedRecord]


def _least_contrast(entry: _Entry) -> float:
    quality = entry.record.quality
    alignments = [quality.to_template, *quality.to_reference.values()]
    return min(alignment.contrast for alignment in alignments)


_COLUMNS: tuple[Column[PreparedRecord], ...] = (
    Column("modalities", lambda entry: ", ".join(entry.record.inputs)),
    Column("brain, ml", lambda entry: entry.record.quality.brain_ml, "{:.0f}".format),
    Column("brain from", lambda entry: entry.record.quality.brain),
    Column("Dice", lambda entry: entry.record.quality.brain_dice, "{:.3f}".format),
    Column("rotation", lambda entry: entry.record.quality.to_template.degrees, "{:.1f}°".format),
    Column("contrast", _least_contrast, "{:.2f}".format),
    Column("warnings", lambda entry: "; ".join(entry.record.warnings) or None),
)


def write_prepared_page(out: Path, failed: Sequence[MedrdError]) -> Path:
    """List all prepared subjects in a folder, including those of earlier runs.

    Unreadable records are left out with a warning; a missing figure leaves a gap in its row.

    Raises
    ------
    OutputError
        The page cannot be written.
    """
    entries = []
    for path in ending_in(out, PREPARED_ENDING):
        try:
            entries.append(_entry(path, out))
        except FileFormatError as error:
            logger.warning("the page leaves out %s", error)
    page = listing_page(
        entries,
        _COLUMNS,
        title=out.name,
        summary=f"{len(entries)} prepared. Check each figure: the detected brain is green, the "
        "template's blue.",
        failed=[str(error) for error in failed],
        notes=[
            "Dice: overlap of the detected brain and the template's, if they are independent. "
            "Rotation: rotation of the head relative to the template. Contrast: the share of the "
            "similarity that is lost if the head is moved by 10 mm or rotated by 10 degrees; the "
            "smallest of all registrations of the subject.",
        ],
        thumbnail_px=_PICTURE_PX,
    )
    write_page(out / PAGE_NAME, page)
    return out / PAGE_NAME


def _entry(path: Path, out: Path) -> _Entry:
    """Make a record's row. Raises FileFormatError if ``medrd prepare`` did not write it."""
    remedy = "Remove it, or prepare its subject again."
    record = PreparedRecord.load(path, remedy=remedy)
    if "picture" not in record.outputs:
        raise FileFormatError(path, expected="a figure in the record", found="none", remedy=remedy)
    picture = path.parent / record.outputs["picture"].file
    try:
        with Image.open(picture) as opened:
            opened.verify()
        still, shown = picture.read_bytes(), picture
    except (OSError, SyntaxError):  # Pillow raises this for a broken PNG
        logger.warning(
            "%s is missing or damaged; prepare the subject again (--overwrite).", picture
        )
        still, shown = None, path
    return Entry(record, link_to(shown.relative_to(out)), still)
