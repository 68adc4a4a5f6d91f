"""BIDS datasets: find a subject's modalities, and name the results.

Only names are read. A dataset is recognised by its ``dataset_description.json``, whether raw or
derivative: models expect skull-stripped scans, which are derivatives.

Source: Brain Imaging Data Structure 1.10, https://bids-specification.readthedocs.io.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medrd.data.cases import BidsOrigin
from medrd.data.left_out import LeftOut
from medrd.data.names import is_label_name
from medrd.data.subject import Source, Subject
from medrd.errors import InputError, MissingInputError
from medrd.files import read_json
from medrd.images.formats import scan_file, scan_stem

logger = logging.getLogger("medrd.data")

VERSION = "1.10.0"
DESCRIPTION_NAME = "dataset_description.json"
_SUFFIXES = {"flair": "FLAIR", "t1": "T1w", "t1ce": "T1w", "t2": "T2w"}
_ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)")
_FOLDER = re.compile(r"sub-[a-zA-Z0-9+]+(/ses-[a-zA-Z0-9+]+)?/anat")


@dataclass(frozen=True)
class _File:
    path: Path
    place: str
    entities: Mapping[str, str]
    suffix: str

    def is_a(self, channel: str) -> bool:
        """True if the suffix is the channel's; a T1w with a ``ce-`` entity is a t1ce."""
        if self.suffix.lower() != _SUFFIXES.get(channel, channel).lower():
            return False
        return channel not in ("t1", "t1ce") or ("ce" in self.entities) == (channel == "t1ce")

    def name(self, *, keep: Sequence[str] = ()) -> str:
        """Its entities without ``desc``, which the result replaces; or only those in ``keep``."""
        kept = keep or [key for key in self.entities if key != "desc"]
        return "_".join(f"{k}-{v}" for k, v in self.entities.items() if k in kept)


def bids_root(folder: Path) -> Path | None:
    """The dataset that a folder is the root of, or a subject's part of; None if there is none.

    Other folders in a dataset are not BIDS: ``sourcedata/`` holds the original data, often DICOM
    series, and is read like any other folder.
    """
    folder = folder.absolute()
    for candidate in (folder, *folder.parents[:4]):
        if "BIDSVersion" in read_description(candidate):
            inside = folder.relative_to(candidate).parts
            return candidate if not inside or inside[0].startswith("sub-") else None
        if (candidate / DESCRIPTION_NAME).is_file():
            _warn_of_description(candidate / DESCRIPTION_NAME)
    return None


@cache
def _warn_of_description(path: Path) -> None:
    logger.warning("%s is not JSON with a BIDSVersion: its folder is not read as BIDS", path)


def read_description(root: Path) -> dict[str, Any]:
    """The content of ``dataset_description.json``; empty if it is missing or not a mapping."""
    content = read_json(root / DESCRIPTION_NAME)
    return content if isinstance(content, dict) else {}


def bids_subjects(
    root: Path,
    below: Path,
    channels: Sequence[str],
    errors: list[InputError],
    left_out: list[LeftOut] | None = None,
) -> list[tuple[Subject, Path, BidsOrigin]]:
    """The scans of a dataset, each with the folder of its results and its origin.

    With one channel, every image of that modality is a scan; with several, each session must have
    exactly one image per channel. The subject's id is the prefix of the results' names.

    Parameters
    ----------
    root, below
        The dataset, and the part of it to search.
    errors
        A list to which the errors of unusable sessions are appended.
    left_out
        A list to which sessions without an image of these channels, and files without a BIDS name,
        are appended.
    """
    below = below.absolute()
    found, others = _files(root, below)
    single = len(channels) == 1
    groups: dict[tuple[str, str], list[_File]] = defaultdict(list)
    for file in found:
        if any(file.is_a(channel) for channel in channels):
            stem_ = file.name() if single else file.name(keep=("sub", "ses"))
            groups[file.place, stem_].append(file)
    scans = []
    for (place, name), files in groups.items():
        try:
            images = {channel: _only(channel, files, root / place) for channel in channels}
        except InputError as error:
            errors.append(error)
            continue
        sources = tuple(file.path.relative_to(root).as_posix() for file in images.values())
        subject = Subject(name, {channel: Source(file.path) for channel, file in images.items()})
        scans.append((subject, Path(place), BidsOrigin(root, sources)))
    if left_out is not None:
        places = {place for place, _ in groups}
        wanted = " or ".join(dict.fromkeys(_SUFFIXES.get(each, each) for each in channels))
        left_out += [LeftOut(path, "no BIDS name in an anat folder") for path in others]
        left_out += [
            LeftOut(session, f"no {wanted} image in anat")
            for session in _sessions(root)
            if (session.is_relative_to(below) or below.is_relative_to(session))
            and f"{session.relative_to(root).as_posix()}/anat" not in places
        ]
    return scans


def makers(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The valid entries of ``GeneratedBy``, as a list."""
    given: Any = description.get("GeneratedBy")
    return [each for each in (given if isinstance(given, list) else [given]) if _is_maker(each)]


def derivative_description(origin: BidsOrigin, out: Path, version: str) -> dict[str, Any]:
    """``dataset_description.json`` for the results in ``out``.

    Additions to an existing one (authors, a licence, another name) are kept.
    """
    there = read_description(out)
    named = read_description(origin.root).get("Name")
    source = os.path.relpath(origin.root, out.absolute())
    links = there.get("DatasetLinks")
    others = [maker for maker in makers(there) if maker["Name"] != "medrd"]
    return {
        "Name": f"Anomaly maps of {named or origin.root.name}",
        **there,
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "medrd", "Version": version}, *others],
        "SourceDatasets": [{"URL": source}],
        "DatasetLinks": {**(links if isinstance(links, dict) else {}), "source": source},
    }


def map_sidecar(origin: BidsOrigin) -> dict[str, Any]:
    """The JSON that BIDS requires beside a map."""
    return {
        "Description": "Anomaly score of each voxel, not a probability; 0 outside the brain",
        "Sources": origin.uris,
        "SpatialReference": origin.uris[0],
    }


def mask_sidecar(origin: BidsOrigin, threshold: float) -> dict[str, Any]:
    """The JSON beside a mask."""
    return {
        "Type": "Lesion",
        "Description": "Voxels whose anomaly score reaches the calibrated threshold",
        "Threshold": threshold,
        "Sources": origin.uris,
        "SpatialReference": origin.uris[0],
    }


def _is_maker(value: object) -> bool:
    return isinstance(value, dict) and "Name" in value


def _files(root: Path, below: Path) -> tuple[list[_File], list[Path]]:
    """Anatomical images with well-formed names in the subjects' own folders, and other images in
    folders called ``anat``; sorted."""
    files, others = [], []
    for path in sorted(root.glob("sub-*/**/anat/*")):
        scan = scan_file(path)
        if scan is None or not path.is_relative_to(below):
            continue
        place = path.parent.relative_to(root).as_posix()
        *parts, suffix = scan_stem(path).split("_")
        entities = {m[1]: m[2] for part in parts if (m := _ENTITY.fullmatch(part))}
        well_formed = len(entities) == len(parts) and "sub" in entities and suffix.isalnum()
        if well_formed and _FOLDER.fullmatch(place):
            files.append(_File(scan, place, entities, suffix))
        elif not is_label_name(path):
            others.append(path)
    return files, others


def _sessions(root: Path) -> Iterator[Path]:
    """The sessions' folders, or those of subjects without sessions."""
    for subject in sorted(root.glob("sub-*/")):
        yield from sorted(subject.glob("ses-*/")) or [subject]


def _only(channel: str, files: Sequence[_File], folder: Path) -> _File:
    chosen = [file for file in files if file.is_a(channel)]
    if len(chosen) == 1:
        return chosen[0]
    raise MissingInputError(
        folder,
        expected=f"one {channel} image ({_SUFFIXES.get(channel, channel)}"
        f"{' with ce-' if channel == 't1ce' else ''})",
        found=", ".join(file.path.name for file in chosen) or "none",
        remedy="Give the folder or file that you want by itself."
        if chosen
        else "Add it, or use a model for the modalities that exist.",
    )
