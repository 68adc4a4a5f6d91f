"""The page beside prepared heads."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from medrd.errors import MedrdError
from medrd.pages.listing import Entry
from medrd.pages.page import write_page
from medrd.pages.prepared_page import COLUMNS, prepared_page
from medrd.run.outputs import PREPARED_ENDING, ending_in

logger = logging.getLogger("medrd.prepare")

PAGE_NAME = "prepared.html"


def write_prepared_page(out: Path, failed: Sequence[MedrdError]) -> Path:
    """List all that lies prepared in a folder, of earlier runs too.

    A record that cannot be read is warned of and left out; a row may lack its picture.

    Raises
    ------
    OutputError
        The page cannot be written.
    """
    entries = []
    for path in ending_in(out, PREPARED_ENDING):
        try:
            entries.append(_entry(path, out))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning(
                "%s: no record of medrd prepare (%s: %s); the page leaves it out. Remove it, "
                "or prepare its subject again.",
                path,
                type(error).__name__,
                error,
            )
    page = prepared_page(entries, title=out.name, failed=[str(error) for error in failed])
    write_page(out / PAGE_NAME, page)
    return out / PAGE_NAME


def _entry(path: Path, out: Path) -> Entry:
    """A record's row. Raises one of many errors where it is not what medrd writes."""
    record = json.loads(path.read_text(encoding="utf-8"))
    picture = path.parent / record["outputs"]["picture"]["file"]
    try:
        with Image.open(picture) as opened:
            opened.verify()
        still, shown = picture.read_bytes(), picture
    except (OSError, SyntaxError):  # Pillow's word for a broken PNG
        logger.warning("%s: no such picture; prepare its subject again (--overwrite).", picture)
        still, shown = None, path
    entry = Entry(record, quote(shown.relative_to(out).as_posix()), still)
    str(record["subject"]), [column.value(entry) for column in COLUMNS]  # all that a row shows
    return entry
