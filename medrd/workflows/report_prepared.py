"""The page beside prepared heads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from medrd.data.layouts import folders_below
from medrd.errors import FileFormatError, MedrdError
from medrd.report.listing import Entry
from medrd.report.page import write_page
from medrd.report.prepared_page import prepared_page
from medrd.workflows.outputs import PREPARED_ENDING

PAGE_NAME = "prepared.html"


def write_prepared_page(out: Path, failed: Sequence[MedrdError]) -> Path:
    """List all that lies prepared in a folder, of earlier runs too.

    Raises
    ------
    FileFormatError
        A record that medrd did not write.
    OutputError
        The page cannot be written.
    """
    entries = []
    for folder in folders_below(out):
        for path in sorted(folder.glob(f"*{PREPARED_ENDING}")):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                picture = folder / record["outputs"]["picture"]["file"]
                href = quote(picture.relative_to(out).as_posix())
                entries.append(Entry(record, href, picture.read_bytes()))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise FileFormatError(
                    path,
                    expected="the record of medrd prepare",
                    found=f"something else ({error})",
                    remedy="Remove it, or prepare its subject again.",
                ) from None
    page = prepared_page(entries, title=out.name, failed=[str(error) for error in failed])
    write_page(out / PAGE_NAME, page)
    return out / PAGE_NAME
