"""``medrd report`` on a folder of predictions: a page a scan or picture, and an index."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from medrd.data.cache import source_hash
from medrd.data.layouts import Source
from medrd.draw.heat import HeatScale
from medrd.errors import FileFormatError, InputError, WrongKindError
from medrd.files import file_hash
from medrd.images.nifti import read_mask, read_nifti
from medrd.images.picture import read_picture
from medrd.images.read import read_volume
from medrd.images.volume import Volume
from medrd.pages.embed import embed_scan
from medrd.pages.index_page import index_page
from medrd.pages.listing import Entry
from medrd.pages.page import is_own_page, read_stamp, write_page
from medrd.pages.picture_page import picture_page
from medrd.pages.scan_page import ScanView, scan_page
from medrd.prediction.pictures import read_map
from medrd.run.cases import ERRORS_NAME
from medrd.run.outputs import PAGES_NAME, REPORT_NAME, REPORT_STEP
from medrd.run.progress import progress

logger = logging.getLogger("medrd.report")

CODE_VERSION = 2
"""Raise it whenever the same result gives another page: pages are then made again."""


@dataclass
class Report:
    """What was written.

    Attributes
    ----------
    path
        The page to open.
    pages, kept
        Pages of scans or pictures that were made, and that were there already.
    errors
        What could not be shown. An earlier page of the same result is kept.
    """

    path: Path
    pages: int = 0
    kept: int = 0
    errors: list[InputError] = field(default_factory=list)


@dataclass(frozen=True)
class _Stamp:
    """What a page keeps of how it was made.

    Attributes
    ----------
    key
        Of all that it was made from.
    dice
        Of mask and label, where there are both.
    problem
        Why there is no label although one was there.
    """

    key: str
    dice: float | None = None
    problem: str | None = None

    @classmethod
    def of(cls, page: Path) -> _Stamp | None:
        """A page's; None where there is no page, or one of another version."""
        try:
            return cls(**read_stamp(page))
        except TypeError:
            return None


@dataclass(frozen=True)
class _Predicted:
    """A record, and the folder that its outputs lie in."""

    path: Path
    content: dict[str, Any]

    @property
    def is_scan(self) -> bool:
        return "scan_score" in self.content

    @property
    def map(self) -> Path:
        """Every result has one."""
        return self.path.parent / self.content["outputs"]["map"]["file"]

    def output(self, name: str) -> Path | None:
        """The map, mask or picture; None if there is none."""
        entry = self.content["outputs"].get(name)
        return self.path.parent / entry["file"] if entry else None


def find_records(folder: Path) -> list[Path]:
    """The JSON files of predictions in a folder and below, in order."""
    visible = (
        path
        for path in folder.rglob("*.json")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    return sorted(path for path in visible if _is_record(path))


def report_predictions(folder: Path, records: Sequence[Path]) -> Report:
    """Write ``report.html`` and, of several scans, ``report/<place>/<stem>.html``.

    One at a time, so that memory does not grow with their number. A page that is there and was
    made from the same is left as it is; so is one that cannot be made again, as where the scans
    have moved. Pages of an earlier report whose results are gone are removed.
    """
    report = Report(folder / REPORT_NAME)
    predicted = [_Predicted(path, json.loads(path.read_text("utf-8"))) for path in records]
    scale = _uncalibrated_scale(predicted)
    entries: list[Entry] = []
    shown: set[Path] = set()
    with progress("report", len(predicted)) as advance:
        for item in predicted:
            place = item.path.relative_to(folder).with_suffix(".html")
            page = report.path if len(predicted) == 1 else folder / PAGES_NAME / place
            index = None if len(predicted) == 1 else "../" * len(place.parts) + REPORT_NAME
            href = f"{PAGES_NAME}/{quote(place.as_posix())}"
            try:
                entry, made = _up_to_date(item, page, scale, index, href=href)
                report.pages += made
                report.kept += not made
            except InputError as error:
                logger.error("%s", error)
                report.errors.append(error)
                if not _is_page_of(item, page):
                    continue
                entry = _entry(item, href, _Stamp.of(page) or _Stamp(""))
            finally:
                advance(note=item.path.stem)
            entries.append(entry)
            shown.add(page)
    if report.path not in shown:
        failed = [*_failed(folder), *(str(error) for error in report.errors)]
        write_page(report.path, index_page(entries, title=folder.resolve().name, failed=failed))
    _remove_others(folder / PAGES_NAME, shown)
    return report


def _up_to_date(
    item: _Predicted, page: Path, uncalibrated: HeatScale | None, index: str | None, *, href: str
) -> tuple[Entry, bool]:
    """Its row, and whether its page had to be made. Raises InputError."""
    _check_fields(item)
    source = _source(item)
    threshold = item.content["threshold"]
    scale = HeatScale(threshold, 2 * threshold) if threshold else uncalibrated
    assert scale is not None
    key = _key(item, scale, index)
    stamp = _Stamp.of(page)
    if stamp is not None and stamp.key == key:
        return _entry(item, href, stamp), False
    make = _scan_page if item.is_scan else _picture_page
    text, stamp = make(item, source, scale, index, key)
    write_page(page, text)
    return _entry(item, href, stamp), True


def _key(item: _Predicted, scale: HeatScale, index: str | None) -> str:
    """Of all that a page is made from; the inputs are known by their hashes on record."""
    label = item.content.get("label")
    files = [*map(item.output, ("map", "mask", "picture")), Path(label) if label else None]
    code = [CODE_VERSION, version("medrd")]
    parts = [code, item.content, asdict(scale), index, [_digest(path) for path in files]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _digest(path: Path | None) -> str | None:
    try:
        return file_hash(path) if path else None
    except InputError:  # none there: what that means is said where it is read
        return None


def _entry(item: _Predicted, href: str, stamp: _Stamp) -> Entry:
    return Entry(_shown(item, stamp), href, _still(item), stamp.dice)


def _shown(item: _Predicted, stamp: _Stamp) -> dict[str, Any]:
    """The record with all that a reader is to be warned of in one list."""
    record = item.content
    odd = [f"Unlike the training scans: {text}" for text in record.get("unlike_training", [])]
    warnings = [*record.get("warnings", []), *odd, *([stamp.problem] if stamp.problem else [])]
    # Earlier records do not say what was not judged.
    return {"not_judged": [], **record, "warnings": warnings}


def _still(item: _Predicted) -> bytes | None:
    path = item.output("picture")
    return path.read_bytes() if path and path.is_file() else None


def _is_page_of(item: _Predicted, page: Path) -> bool:
    """Whether an earlier page shows this very result: the same inputs, by the same model."""
    if _missing_fields(item) or not is_own_page(page):
        return False
    record, text = item.content, page.read_text(encoding="utf-8", errors="replace")
    hashes = [record["model"]["hash"], *record["identity"]["inputs"].values()]
    return all(digest in text for digest in hashes)


def _scan_page(
    item: _Predicted, source: Source, scale: HeatScale, index: str | None, key: str
) -> tuple[str, _Stamp]:
    volume = read_volume(source.path, frame=source.frame, series=source.series)
    scores = read_nifti(item.map)
    truth, problem = _read_truth(item.content, volume)
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
    record = item.content
    channel, path = next(iter(record["inputs"].items()))
    # Earlier records do not say which series of a folder was chosen.
    source = Source(Path(path), record["frame"], record.get("series"))
    if source_hash(source) != record["identity"]["inputs"][channel]:
        raise WrongKindError(
            source.path,
            expected=f"the input that {item.path} is about",
            found="other content under its name",
            remedy="Predict it again.",
        )
    return source


def _read_truth(
    record: dict[str, Any], volume: Volume
) -> tuple[NDArray[np.bool_] | None, str | None]:
    """The label on the scan's grid; or why there is none although one was there."""
    if not record["label"]:
        return None, None
    try:
        return read_mask(record["label"], like=volume), None
    except InputError as error:
        return None, f"The label is not shown: {error}"


def _dice(item: _Predicted, truth: NDArray[np.bool_]) -> float | None:
    """Of the written mask and the label; None without either."""
    path = item.output("mask")
    if path is None or not truth.any():
        return None
    mask = read_nifti(path).array > 0
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


def _uncalibrated_scale(predicted: Sequence[_Predicted]) -> HeatScale | None:
    """One scale for all maps without a threshold: up to the highest score of any of them."""
    top = 0.0
    for item in predicted:
        if item.content.get("threshold") is None and item.output("map"):
            try:
                scores = read_nifti(item.map).array if item.is_scan else read_map(item.map)
                top = max(top, float(scores.max()))
            except InputError:
                continue  # said when its page is made
    return HeatScale(None, max(top, 1e-6))


def _missing_fields(item: _Predicted) -> list[str]:
    """Of what pages show: records of earlier versions lack some."""
    needed = {"subject", "inputs", "frame", "warnings", "unlike_training"}
    needed |= {"findings", "model", "threshold"}
    if item.is_scan:
        needed |= {"label", "findings_volume_mm3", "slices_scored"}
    return sorted(needed - item.content.keys())


def _check_fields(item: _Predicted) -> None:
    if missing := _missing_fields(item):
        raise FileFormatError(
            item.path,
            expected="a record of this version of medrd",
            found=f"none of {', '.join(missing)} in it",
            remedy="Predict the scan again with --overwrite.",
        )


def _failed(folder: Path) -> list[str]:
    """What the prediction itself could not do. What the report could not is found out anew."""
    try:
        listed = json.loads((folder / ERRORS_NAME).read_text(encoding="utf-8"))
        return [
            f"{e['where']}: expected {e['expected']}; found {e['found']}. {e['remedy']}"
            for e in listed
            if e.get("step") != REPORT_STEP
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _is_record(path: Path) -> bool:
    """Whether it is of a prediction: ``medrd prepare``'s records know no model."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        named = [content["identity"]["model"], content["outputs"]["map"]["file"]]
        named += [output["file"] for output in content["outputs"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return all(isinstance(name, str) for name in named)


def _remove_others(folder: Path, shown: set[Path]) -> None:
    """Pages of ours that are no longer part of the report."""
    for path in folder.rglob("*.html") if folder.is_dir() else ():
        if path not in shown and is_own_page(path):
            path.unlink(missing_ok=True)
