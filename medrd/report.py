"""``medrd report``: turns a folder that medrd wrote into a page that opens in any browser."""

from __future__ import annotations

from pathlib import Path

from medrd.data.output_names import PREPARED_ENDING, ending_in
from medrd.errors import ConfigError
from medrd.evaluation.report import is_evaluation, is_run, report_run
from medrd.prediction.report import HtmlReport, find_records, report_predictions
from medrd.preparation.report import PAGE_NAME

__all__ = ["HtmlReport", "write_report"]


def write_report(folder: str | Path) -> HtmlReport:
    """Write ``report.html`` into a folder that ``medrd predict``, ``train`` or ``evaluate`` wrote.

    Raises
    ------
    ConfigError
        The folder has no results of these commands.
    FileFormatError
        A file of the run or evaluation is not in medrd's format.
    OutputError
        The page cannot be written.
    """
    folder = Path(folder)
    if is_run(folder) or is_evaluation(folder):
        return report_run(folder)
    records = find_records(folder) if folder.is_dir() else []
    if records:
        return report_predictions(folder, records)
    if prepared := ending_in(folder, PREPARED_ENDING):
        raise ConfigError(
            folder,
            expected="a folder that medrd predict, train or evaluate wrote",
            found=f"what medrd prepare wrote ({prepared[0].name})",
            remedy=f"Open its {PAGE_NAME}, next to the subjects' folders.",
        )
    raise ConfigError(
        folder,
        expected="a folder that medrd predict, train or evaluate wrote",
        found="none of their files" if folder.is_dir() else "no such folder",
        remedy="Give the folder that was --out of one of these commands.",
    )
