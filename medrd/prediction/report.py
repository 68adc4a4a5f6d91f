"""``medrd report`` for a folder of predictions: a page per scan or picture, and an index."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medrd.data.cache import source_hash
from medrd.data.output_names import PAGES_NAME, REPORT_NAME
from medrd.data.pictures.opened import read_map
from medrd.data.subject import Source
from medrd.draw.heat import HeatScale
from medrd.errors import FileFormatError, InputError, WrongKindError
from medrd.files import file_hash
from medrd.images.nifti import read_label, read_nifti
from medrd.images.picture import read_picture
from medrd.images.read import read_volume
from medrd.images.volume import Volume
from medrd.pages.embed import embed_scan
from medrd.pages.index_page import index_page
from medrd.pages.listing import Entry
from medrd.pages.page import is_own_page, link_to, read_stamp, write_page
from medrd.pages.picture_page import picture_page
from medrd.pages.scan_page import ScanView, scan_page
from medrd.run.failures import REPORT_STEP, read_failures
from medrd.run.progress import progress
from medrd.run.record import PredictionRecord, Record

logger = logging.getLogger("medrd.report")

CODE_VERSION = 4
"""Increase it whenever the same result gives another page, so that pages are made again."""


@dataclass
class HtmlReport:
    """The pages of a report.

    Attributes
    ----------
    path
        The page to open.
    pages, kept
        Numbers of pages of scans or pictures that were made, and that were up to date.
    errors
        Errors of results that could not be shown; their earlier pages are kept.
    """

    path: Path
    pages: int = 0
    kept: int = 0
    errors: list[InputError] = field(default_factory=list)


@dataclass(frozen=True)
class _Stamp:
    """What a page was made from, as stored in the page.

    Attributes
    ----------
    key
        Hash of everything from which the page was made.
    dice
        Dice of mask and label, if there are both.
    problem
        The reason why the recorded label is not shown, if so.
    """

    key: str
    dice: float | None = None
    problem: str | None = None

    @classmethod
    def of(cls, page: Path) -> _Stamp | None:
        """The stamp of a page; None if there is no page, or one of another version."""
        try:
            return cls(**read_stamp(page))
        except TypeError:
            return None


@dataclass(frozen=True)
class _Predicted:
    """A record, and the file from which it was read."""

    path: Path
    record: PredictionRecord

    @property
    def map(self) -> Path:
        """The map, which every result has."""
        return self.path.parent / self.record.outputs["map"].file

    def output(self, name: str) -> Path | None:
        """The file of an output (map, mask or picture), or None."""
        output = self.record.outputs.get(name)
        return self.path.parent / output.file if output else None


def find_records(folder: Path) -> list[Path]:
    """The sorted JSON files of predictions, of any version, in a folder and below."""
    visible = (
        path
        for path in folder.rglob("*.json")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    return sorted(path for path in visible if _is_prediction(path))


def _is_prediction(path: Path) -> bool:
    record = Record.read(path)
    return record is not None and record.is_prediction


def report_predictions(folder: Path, records: Sequence[Path]) -> HtmlReport:
    """Write ``report.html`` and, for several results, ``report/<place>/<stem>.html``.

    Results are shown one at a time, so that memory does not grow with their number. A page that is
    up to date is left as it is; so is one that cannot be made again, for instance because the
    scans have moved. Pages of an earlier report whose results are gone are removed.
    """
    report = HtmlReport(folder / REPORT_NAME)
    predicted: list[_Predicted] = []
    for path in records:
        try:
            record = PredictionRecord.load(path, remedy="Predict the scan again with --overwrite.")
            predicted.append(_Predicted(path, record))
        except FileFormatError as error:
            _enter(report, error)
    scale = _uncalibrated_scale(predicted)
    entries: list[Entry[PredictionRecord]] = []
    shown: set[Path] = set()
    with progress("report", len(predicted)) as advance:
        for item in predicted:
            place = item.path.relative_to(folder).with_suffix(".html")
            page = report.path if len(records) == 1 else folder / PAGES_NAME / place
            index = None if len(records) == 1 else "../" * len(place.parts) + REPORT_NAME
            href = f"{PAGES_NAME}/{link_to(place)}"
            try:
                entry, made = _up_to_date(item, page, scale, index, href=href)
                report.pages += made
                report.kept += not made
            except InputError as error:
                _enter(report, error)
                if not _is_page_of(item, page):
                    continue
                entry = _entry(item, href, _Stamp.of(page) or _Stamp(""))
            finally:
                advance(note=item.path.stem)
            entries.append(entry)
            shown.add(page)
    if report.path not in shown:
        failed = [str(f.error) for f in read_failures(folder) if f.step != REPORT_STEP]
        failed += [str(error) for error in report.errors]
        write_page(report.path, index_page(entries, title=folder.resolve().name, failed=failed))
    _remove_others(folder / PAGES_NAME, shown)
    return report


def _enter(report: HtmlReport, error: InputError) -> None:
    logger.error("%s", error)
    report.errors.append(error)


def _up_to_date(
    item: _Predicted, page: Path, uncalibrated: HeatScale, index: str | None, *, href: str
) -> tuple[Entry[PredictionRecord], bool]:
    """The result's row, and True if its page had to be made. Raises InputError."""
    source = _source(item)
    threshold = item.record.threshold
    scale = HeatScale(threshold, 2 * threshold) if threshold else uncalibrated
    key = _key(item, scale, index)
    stamp = _Stamp.of(page)
    if stamp is not None and stamp.key == key:
        return _entry(item, href, stamp), False
    make = _scan_page if item.record.is_scan else _picture_page
    text, stamp = make(item, source, scale, index, key)
    write_page(page, text)
    return _entry(item, href, stamp), True


def _key(item: _Predicted, scale: HeatScale, index: str | None) -> str:
    """Hash of everything from which a page is made, with the recorded hashes of the inputs."""
    label = item.record.label
    files = [*map(item.output, ("map", "mask", "picture")), Path(label) if label else None]
    code = [CODE_VERSION, version("medrd")]
    parts = [code, item.record.content, asdict(scale), index, [_digest(path) for path in files]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _digest(path: Path | None) -> str | None:
    try:
        return file_hash(path) if path else None
    except InputError:  # reported where the file is read
        return None


def _entry(item: _Predicted, href: str, stamp: _Stamp) -> Entry[PredictionRecord]:
    return Entry(_shown(item, stamp), href, _still(item), stamp.dice)


def _shown(item: _Predicted, stamp: _Stamp) -> PredictionRecord:
    """The record with all warnings for the reader in one list."""
    record = item.record
    unlike = [f"Unlike the training scans: {text}" for text in record.unlike_training]
    warnings = [*record.warnings, *unlike, *([stamp.problem] if stamp.problem else [])]
    return record.model_copy(update={"warnings": warnings})


def _still(item: _Predicted) -> bytes | None:
    path = item.output("picture")
    return path.read_bytes() if path and path.is_file() else None


def _is_page_of(item: _Predicted, page: Path) -> bool:
    """True if an earlier page shows the same result: the same inputs and the same model."""
    if not is_own_page(page):
        return False
    text = page.read_text(encoding="utf-8", errors="replace")
    hashes = [item.record.model.hash, *item.record.input_hashes.values()]
    return all(digest in text for digest in hashes)


def _scan_page(
    item: _Predicted, source: Source, scale: HeatScale, index: str | None, key: str
) -> tuple[str, _Stamp]:
    volume = read_volume(source.path, frame=source.frame, series=source.series)
    scores = read_nifti(item.map)
    truth, problem = _read_truth(item.record, volume)
    stamp = _Stamp(key, _dice(item, truth) if truth is not None else None, problem)
    embedded = embed_scan(volume.array, scores.array, volume.affine, unit=scale.unit, truth=truth)
    view = ScanView(
        _shown(item, stamp), scale, embedded, stamp.dice, _still(item), stamp=asdict(stamp)
    )
    return scan_page(view, index=index), stamp


def _picture_page(
    item: _Predicted, source: Source, scale: HeatScale, index: str | None, key: str
) -> tuple[str, _Stamp]:
    stamp = _Stamp(key)
    text = picture_page(
        _shown(item, stamp),
        scale,
        image=read_picture(source.path).array,
        score_map=read_map(item.map),
        index=index,
        stamp=asdict(stamp),
    )
    return text, stamp


def _source(item: _Predicted) -> Source:
    """The first input. Raises InputError if it is no longer what was predicted."""
    channel, source = next(iter(item.record.inputs)), item.record.sources[0]
    if source_hash(source) != item.record.input_hashes[channel]:
        raise WrongKindError(
            source.path,
            expected=f"the input of {item.path}",
            found="a file of that name with other content",
            remedy="Predict it again.",
        )
    return source


def _read_truth(
    record: PredictionRecord, volume: Volume
) -> tuple[NDArray[np.bool_] | None, str | None]:
    """The label on the scan's grid, or the reason why the recorded one is not shown."""
    if not record.label:
        return None, None
    try:
        labels = read_label(record.label, like=volume)
    except InputError as error:
        return None, f"The label is not shown: {error}"
    chosen = record.lesion_labels
    return np.isin(labels, chosen) if chosen else labels != 0, None


def _dice(item: _Predicted, truth: NDArray[np.bool_]) -> float | None:
    """Dice of the written mask and the label; None if either is missing or empty."""
    path = item.output("mask")
    if path is None or not truth.any():
        return None
    mask = read_nifti(path).array > 0
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


def _uncalibrated_scale(predicted: Sequence[_Predicted]) -> HeatScale:
    """A common scale for all maps without a threshold, up to the highest score of any map."""
    top = 0.0
    for item in predicted:
        if item.record.threshold is None:
            try:
                scores = read_nifti(item.map).array if item.record.is_scan else read_map(item.map)
                top = max(top, float(scores.max()))
            except InputError:
                continue  # reported when its page is made
    return HeatScale(None, max(top, 1e-6))


def _remove_others(folder: Path, shown: set[Path]) -> None:
    """Remove pages by medrd that are no longer part of the report."""
    for path in folder.rglob("*.html") if folder.is_dir() else ():
        if path not in shown and is_own_page(path):
            path.unlink(missing_ok=True)
