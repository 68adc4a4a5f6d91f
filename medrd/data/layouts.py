"""Folder layouts of data sets: find the subjects with their images and labels.

There are four layouts: BraTS up to 2021 and from 2023 on (a folder per subject, a file per
modality), the Medical Segmentation Decathlon's Task01 (one 4D file per subject), and a plain folder
of NIfTI files with optional masks. Only names are used; no image is read.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medrd.errors import ConfigError, InputError, MissingInputError
from medrd.images.formats import is_scan_name, scan_ending, scan_stem

MODALITIES = ("flair", "t1", "t1ce", "t2")
"""The channel names of the BraTS and MSD layouts."""

_BRATS = {"flair": "_flair", "t1": "_t1", "t1ce": "_t1ce", "t2": "_t2", "seg": "_seg"}
_BRATS_2023 = {"flair": "-t2f", "t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w", "seg": "-seg"}
_BIDS = {"flair": "_FLAIR", "t1": "_T1w", "t2": "_T2w"}
_MSD_NAMES = {"flair": "flair", "t1w": "t1", "t1gd": "t1ce", "t2w": "t2"}
_MSD_ORDER = ("flair", "t1", "t1ce", "t2")  # as in Task01_BrainTumour's dataset.json
_CONTRAST = re.compile(r"_ce-[a-zA-Z0-9]+")  # BIDS: a T1w with a contrast agent
_MASK = re.compile(r"[_-](seg|mask|label|dseg)$")
# medrd's own output files: results must not become input.
_OWN_OUTPUT = re.compile(r"_(anomaly|mask)$")


@dataclass(frozen=True)
class Source:
    """A three-dimensional image.

    Either a file, with the frame to use if it is 4D, or a DICOM series: the folder of its files,
    and its UID if the folder holds several.
    """

    path: Path
    frame: int | None = None
    series: str | None = None


@dataclass(frozen=True)
class Subject:
    """A subject's images by channel, and its label if there is one.

    Attributes
    ----------
    category
        The category for grouping results; "" if the data set has no categories.
    lesion_labels
        The values of the label that are lesion; empty: all but 0.
    """

    id: str
    images: Mapping[str, Source] = field(default_factory=dict)
    label: Source | None = None
    category: str = ""
    lesion_labels: tuple[int, ...] = field(default=(), kw_only=True)

    @property
    def paths(self) -> dict[str, Path]:
        """Paths of the images by channel."""
        return {channel: source.path for channel, source in self.images.items()}

    @property
    def files(self) -> list[Path]:
        """Paths of all images and the label."""
        return [source.path for source in (*self.images.values(), self.label) if source]


def stem(path: Path) -> str:
    """``a/b_flair.nii.gz`` -> ``b_flair``."""
    return scan_stem(path)


def is_scan(path: Path) -> bool:
    """True if the name is that of a scan; not if hidden."""
    return is_scan_name(path)


def find_subjects(root: Path, *, layout: str, channels: Sequence[str]) -> list[Subject]:
    """All subjects below ``root``, sorted by id.

    Parameters
    ----------
    root
        The data set's folder.
    layout
        ``auto`` takes the first of ``msd``, ``brats``, ``brats2023``, ``folder`` that fits.
    channels
        Modalities that every subject must have; exactly one, with any name, in the ``folder``
        layout.

    Raises
    ------
    ConfigError
        The folder or subjects are missing, two subjects have one id, or a modality is unknown.
    MissingInputError
        A subject lacks a modality.
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing there"
        raise ConfigError(
            root,
            expected="a data set's folder",
            found=found,
            remedy="Set data.root to the folder with the subjects.",
        )
    finders = {"msd": _msd, "brats": _brats, "brats2023": _brats_2023, "folder": _folder}
    for name in finders if layout == "auto" else (layout,):
        subjects = sorted(finders[name](root), key=lambda subject: subject.id)
        if subjects:
            break
    else:
        raise ConfigError(
            root,
            expected={
                "msd": "imagesTr/*.nii.gz (MSD)",
                "brats": "*/*_flair.nii.gz … (BraTS up to 2021)",
                "brats2023": "*/*-t2f.nii.gz … (BraTS from 2023)",
                "folder": "*.nii.gz or images/*.nii.gz",
            }.get(layout, "a BraTS, MSD or plain folder of NIfTI files"),
            found="no such file",
            remedy="Check data.root and data.layout.",
        )
    _refuse_duplicates(root, subjects)
    if name == "folder":
        return [_named(subject, channels) for subject in subjects]
    _check_channels(channels)
    return [_complete(subject, channels) for subject in subjects]


def brats_subjects(folder: Path) -> list[Subject]:
    """The BraTS subjects (of any year) whose files lie directly in this folder.

    Raises
    ------
    InputError
        A subject has one modality twice.
    """
    for endings in (_BRATS, _BRATS_2023):
        subjects = _brats_subjects(folder, endings)
        if subjects:
            return subjects
    return []


def _brats_subjects(folder: Path, endings: Mapping[str, str]) -> list[Subject]:
    """The subjects whose files lie directly in this folder, grouped by the prefix of their
    names."""
    found: dict[str, dict[str, Source]] = {}
    for path in sorted(folder.iterdir()):
        if not is_scan(path):
            continue
        for kind, ending in endings.items():
            if not stem(path).endswith(ending):
                continue
            sources = found.setdefault(stem(path).removesuffix(ending) or folder.name, {})
            if kind in sources:
                raise InputError(
                    folder,
                    expected=f"one file that ends in {ending}.nii.gz or {ending}.nii per subject",
                    found=f"{sources[kind].path.name} and {path.name}",
                    remedy="Remove one of them.",
                )
            sources[kind] = Source(path)
    return [
        Subject(id, {k: s for k, s in sources.items() if k != "seg"}, sources.get("seg"))
        for id, sources in found.items()
        if sources.keys() != {"seg"}
    ]


def label_beside(path: Path) -> Source | None:
    """The label of a scan given as a file: that of its BraTS subject, or ``<stem>_seg`` and the
    like.

    ``<stem>_mask`` does not count, since medrd itself may have written it.
    """
    folder = path.parent
    if not folder.is_dir():
        return None
    try:
        subjects = brats_subjects(folder)
    except InputError:  # duplicate files of another subject do not matter here
        subjects = []
    for subject in subjects:
        if any(source.path.name == path.name for source in subject.images.values()):
            return subject.label
    candidates = (
        folder / f"{stem(path)}_{word}{ending}"
        for word in ("seg", "label", "dseg")
        for ending in _label_endings(path)
    )
    return next((Source(candidate) for candidate in candidates if candidate.is_file()), None)


def _label_endings(scan: Path) -> tuple[str, ...]:
    """The endings that the label of a scan may have: the scan's own, or NIfTI's."""
    return tuple(dict.fromkeys((scan_ending(scan), ".nii.gz", ".nii")))


def is_label_name(path: Path) -> bool:
    """True if the name is that of a segmentation, a mask or one of medrd's own outputs."""
    name = stem(path)
    return bool(_MASK.search(name) or _OWN_OUTPUT.search(name))


def named_kind(path: Path) -> str | None:
    """The kind that a NIfTI file's name (as in BraTS or BIDS) tells: a modality or ``label``.

    None if the name tells nothing; always None for the folder of a DICOM series.
    """
    if not is_scan(path):
        return None
    return "label" if is_label_name(path) else name_and_modality(path)[1]


def all_named(subjects: Sequence[Subject]) -> bool:
    """True if every image is known to have the modality that its channel names.

    It is known from the file's name, as in BraTS or BIDS, or from the position in a file of MSD.
    """
    return all(
        source.frame is not None or name_and_modality(source.path)[1] == channel
        for subject in subjects
        for channel, source in subject.images.items()
    )


def name_and_modality(path: Path) -> tuple[str, str | None]:
    """The subject and the modality that a file's name, as in BraTS or BIDS, tells.

    >>> name_and_modality(Path("a_flair.nii.gz")), name_and_modality(Path("x.nii"))
    (('a', 'flair'), ('x', None))
    """
    name = stem(path)
    for endings in (_BRATS, _BRATS_2023, _BIDS):
        for kind, ending in endings.items():
            if name.endswith(ending):
                own = name.removesuffix(ending)
                if kind == "t1" and _CONTRAST.search(own):
                    return _CONTRAST.sub("", own), "t1ce"
                return own, kind
    return name, None


def _brats(root: Path) -> Iterator[Subject]:
    return _brats_below(root, _BRATS)


def _brats_2023(root: Path) -> Iterator[Subject]:
    return _brats_below(root, _BRATS_2023)


def _brats_below(root: Path, endings: Mapping[str, str]) -> Iterator[Subject]:
    for folder in folders_below(root):
        yield from _brats_subjects(folder, endings)


def folders_below(root: Path) -> Iterator[Path]:
    """The root and all folders below it that are not hidden, each once.

    Hidden folders hold unfinished work: a killed ``medrd phantom`` leaves its subject in one.
    Links are followed, since clusters often link data; they may form cycles.
    """
    seen: set[str] = set()
    for folder, below, _ in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield Path(folder)


def _msd(root: Path) -> Iterator[Subject]:
    images = root / "imagesTr"
    if not images.is_dir():
        return
    order: Sequence[str] = _MSD_ORDER
    description = root / "dataset.json"
    if description.is_file():
        try:
            listed = json.loads(description.read_text(encoding="utf-8"))["modality"]
            order = [
                _MSD_NAMES.get(listed[str(i)].lower(), listed[str(i)].lower())
                for i in range(len(listed))
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                description,
                expected='a "modality" table {"0": "FLAIR", …}',
                found=str(error),
                remedy="Restore the file, or remove it to use Task01's known order.",
            ) from None
    for path in sorted(images.glob("*.nii*")):
        if is_scan(path):
            label = root / "labelsTr" / path.name
            frames = {name: Source(path, frame) for frame, name in enumerate(order)}
            yield Subject(stem(path), frames, Source(label) if label.is_file() else None)


def _folder(root: Path) -> Iterator[Subject]:
    images = root / "images" if (root / "images").is_dir() else root
    for path in sorted(images.iterdir()):
        if not is_scan(path) or is_label_name(path):
            continue
        candidates = [
            folder / f"{stem(path)}{suffix}{ending}"
            for folder, suffixes in (
                (root / "masks", ("", "_mask", "_seg", "_label")),
                (root / "labels", ("", "_mask", "_seg", "_label")),
                (images, ("_mask", "_seg", "_label")),
            )
            for suffix in suffixes
            for ending in _label_endings(path)
        ]
        label = next((Source(c) for c in candidates if c.is_file()), None)
        yield Subject(stem(path), {"image": Source(path)}, label)


def _named(subject: Subject, channels: Sequence[str]) -> Subject:
    if len(channels) != 1:
        raise ConfigError(
            "recipe.channels",
            expected="one channel in a plain folder (one file per subject)",
            found=", ".join(channels),
            remedy="Use a BraTS or MSD layout for several modalities.",
        )
    return Subject(subject.id, {channels[0]: subject.images["image"]}, subject.label)


def _check_channels(channels: Sequence[str]) -> None:
    for channel in channels:
        if channel not in MODALITIES:
            raise ConfigError(
                "recipe.channels",
                expected=f"modalities out of {', '.join(MODALITIES)}",
                found=channel,
                remedy="Correct recipe.channels.",
            )


def _complete(subject: Subject, channels: Sequence[str]) -> Subject:
    for channel in channels:
        if channel not in subject.images:
            there = next(iter(subject.images.values())).path.parent
            raise MissingInputError(
                there,
                expected=f"a {channel} image of subject {subject.id}",
                found=f"{', '.join(subject.images)}",
                remedy="Add the file, or move the subject out of the folder.",
            )
    return Subject(subject.id, {c: subject.images[c] for c in channels}, subject.label)


def _refuse_duplicates(root: Path, subjects: Sequence[Subject]) -> None:
    for first, second in itertools.pairwise(subjects):
        if first.id == second.id:
            places = [str(next(iter(s.images.values())).path) for s in (first, second)]
            raise ConfigError(
                root,
                expected="one subject per id",
                found=f"{first.id} twice: {places[0]} and {places[1]}",
                remedy="Remove or rename one of them.",
            )
