"""Names of the files that ``medrd predict`` and ``medrd prepare`` write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medrd.data.cases import Case
from medrd.data.folders import folders_below

MAKER = "medrd"
"""The description in every map begins with this word."""


@dataclass(frozen=True)
class OutputFiles:
    """Endings of the names of a scan's or picture's outputs.

    Attributes
    ----------
    noun, pieces
        The words for an input and for its images, for messages.
    map, mask, overlay, record
        Endings. The map is written first and the record (JSON) last.
    """

    noun: str
    pieces: str
    map: str
    mask: str
    overlay: str = ".png"
    record: str = ".json"

    @property
    def endings(self) -> tuple[str, str, str, str]:
        """The endings of all outputs."""
        return (self.map, self.mask, self.record, self.overlay)


SCAN_FILES = OutputFiles("scan", "slices", map="_anomaly.nii.gz", mask="_mask.nii.gz")
BIDS_FILES = OutputFiles(
    "scan",
    "slices",
    map="_desc-medrd_anomalymap.nii.gz",
    mask="_label-L_desc-medrd_mask.nii.gz",
    overlay="_desc-medrd_anomalymap.png",
    record="_desc-medrd_anomalymap.json",
)
"""``anomalymap`` is not a suffix of BIDS yet, so ``.bidsignore`` lists it for the validator."""
BIDS_MASK_SIDECAR = "_label-L_desc-medrd_mask.json"
PICTURE_FILES = OutputFiles("picture", "picture", map="_anomaly.tiff", mask="_mask.png")
REPORT_NAME = "report.html"
PAGES_NAME = "report"
"""Folder of the pages, if there are several results."""
PREPARED_ENDING, UNPREPARED_ENDING = "_prepare.json", "_failed.json"
"""Endings of the record of prepared scans, and of the reason of a failure."""


def files_of(case: Case, usual: OutputFiles) -> OutputFiles:
    """The output names for a case."""
    return BIDS_FILES if case.origin else usual


def ending_in(out: Path, ending: str) -> list[Path]:
    """Files with that ending in a folder and below, except hidden ones."""
    return [path for folder in folders_below(out) for path in sorted(folder.glob(f"*{ending}"))]
