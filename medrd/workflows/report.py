"""``medrd report``: a folder of medrd's own -> a page that a double click opens."""

from __future__ import annotations

from pathlib import Path

from medrd.errors import ConfigError
from medrd.workflows.report_scans import Report, find_records, report_predictions

__all__ = ["Report", "write_report"]


def write_report(folder: str | Path) -> Report:
    """Write ``report.html`` into a folder of predictions.

    Raises
    ------
    ConfigError
        Nothing in the folder that medrd wrote.
    OutputError
        The page cannot be written.
    """
    folder = Path(folder)
    records = find_records(folder) if folder.is_dir() else []
    if records:
        return report_predictions(folder, records)
    raise ConfigError(
        folder,
        expected="a folder that medrd predict wrote",
        found="none of their files" if folder.is_dir() else "no such folder",
        remedy="Give the folder that was --out.",
    )
