"""The layouts of BraTS of all years: a folder per subject, a file per modality and label."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from medrd.data.brains.labels import BESIDE, Labels, beside_images
from medrd.data.folders import folders_below, scans_in
from medrd.data.subject import Source, Subject
from medrd.errors import InputError
from medrd.images.formats import scan_file, scan_stem

OLD = re.compile(
    "_(?:(?P<flair>flair)|(?P<t1ce>t1ce|t1c|t1_?gd)|(?P<t1>t1)|(?P<t2>t2)"
    "|(?P<seg>seg|segm|tumor_segmentation))$",
    re.IGNORECASE,
)
"""Endings of BraTS up to 2021, UPENN-GBM and UCSF-PDGM."""
NEW = re.compile(
    "-(?:(?P<flair>t2f)|(?P<t1>t1n)|(?P<t1ce>t1c)|(?P<t2>t2w)|(?P<seg>seg))$", re.IGNORECASE
)
"""Endings of BraTS from 2023 on."""


def subjects_in(folder: Path, errors: list[InputError] | None = None) -> list[Subject]:
    """The BraTS subjects (of any year) whose files lie directly in this folder.

    Parameters
    ----------
    errors
        A list to which the error of each subject that has one modality twice is appended; the
        subject is left out. None: the first is raised.

    Raises
    ------
    InputError
        A subject has one modality twice.
    """
    bad: list[InputError] = []
    for endings in (OLD, NEW):
        subjects = _subjects_in(folder, endings, bad)
        if bad and errors is None:
            raise bad[0]
        if subjects or bad:
            break
    if errors is not None:
        errors += bad
    return subjects


def _subjects_in(folder: Path, endings: re.Pattern[str], errors: list[InputError]) -> list[Subject]:
    """The subjects whose files lie directly in this folder, grouped by the prefix of their
    names; an error is appended for each that has one modality twice."""
    found: dict[str, dict[str, Source]] = {}
    twice: dict[str, InputError] = {}
    for path, file in scans_in(folder).items():
        ending = endings.search(scan_stem(path))
        if ending is None:
            continue
        kind = str(ending.lastgroup)
        id = scan_stem(path)[: ending.start()] or folder.name
        sources = found.setdefault(id, {})
        if kind in sources:
            error = InputError(
                file,
                expected=f"one {kind} file per subject, such as {ending[0]}.nii.gz",
                found=f"{sources[kind].path.name} and {file.name}",
                remedy="Remove one of them.",
            )
            twice.setdefault(id, error)
        sources[kind] = Source(file)
    errors += twice.values()
    return [
        Subject(id, {k: s for k, s in sources.items() if k != "seg"}, sources.get("seg"))
        for id, sources in found.items()
        if sources.keys() != {"seg"} and id not in twice
    ]


def label_beside(path: Path) -> Source | None:
    """The label of a scan given as a file: its BraTS subject's, one of its name in a folder beside
    ``images``, or ``<stem>_seg`` and the like.

    ``<stem>_mask`` does not count, since medrd itself may have written it.
    """
    folder = path.parent
    if not folder.is_dir():
        return None
    for subject in subjects_in(folder, errors=[]):
        if any(source.path == scan_file(path) for source in subject.images.values()):
            return subject.label
    apart = beside_images(folder) if folder.name == "images" else []
    return Labels(*apart, (folder, ("_seg", "_label", "_dseg"))).of(path)


def subjects_below(root: Path, endings: re.Pattern[str]) -> Iterator[Subject]:
    bare: list[Subject] = []
    for folder in folders_below(root):
        bad: list[InputError] = []
        subjects = _subjects_in(folder, endings, bad)
        if bad:
            raise bad[0]
        beside = Labels((folder, BESIDE)) if subjects else None
        for subject in subjects:
            label = subject.label
            if beside and label is None:
                found = (beside.of(source.path) for source in subject.images.values())
                label = next(filter(None, found), None)
            if label is None:
                bare.append(subject)
            else:
                yield replace(subject, label=label)
    apart = _labels_apart(root, endings) if bare else {}
    for subject in bare:
        yield replace(subject, label=apart.get(subject.id))


def _labels_apart(root: Path, endings: re.Pattern[str]) -> dict[str, Source]:
    """Labels by subject, in any folder, as in UPENN-GBM's ``images_segm``; none if it has two."""
    found: dict[str, list[Source]] = defaultdict(list)
    for folder in folders_below(root):
        for path, file in scans_in(folder).items():
            ending = endings.search(scan_stem(path))
            if ending is not None and ending.lastgroup == "seg":
                found[scan_stem(path)[: ending.start()]].append(Source(file))
    return {id: sources[0] for id, sources in found.items() if len(sources) == 1}
