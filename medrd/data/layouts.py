"""Folder layouts of data sets: find the subjects with their images and labels.

There are four layouts: BraTS up to 2021 and from 2023 on (a folder per subject, a file per
modality), the Medical Segmentation Decathlon's Task01 (one 4D file per subject), and a plain folder
of NIfTI files with optional masks. Only names are used; no image is read.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medrd.data import decathlon
from medrd.data.left_out import LeftOut, log_left_out
from medrd.data.names import is_label_name, named_kind, stem
from medrd.errors import ConfigError, InputError, MissingInputError
from medrd.images.formats import scan_ending, scan_file

MODALITIES = ("flair", "t1", "t1ce", "t2")
"""The channel names of the BraTS and MSD layouts."""

_BRATS = re.compile(
    "_(?:(?P<flair>flair)|(?P<t1ce>t1ce|t1c|t1_?gd)|(?P<t1>t1)|(?P<t2>t2)"
    "|(?P<seg>seg|segm|tumor_segmentation))$",
    re.IGNORECASE,
)
"""Endings of BraTS up to 2021, UPENN-GBM and UCSF-PDGM."""
_BRATS_2023 = re.compile(
    "-(?:(?P<flair>t2f)|(?P<t1>t1n)|(?P<t1ce>t1c)|(?P<t2>t2w)|(?P<seg>seg))$", re.IGNORECASE
)
_BESIDE = ("_mask", "_seg", "_label")
"""What a label beside its image may be called after the image's stem."""
_SHOWN = 3
"""Number of names that a message lists."""
_MSD_ORDER = ("flair", "t1", "t1ce", "t2")  # as in Task01_BrainTumour's dataset.json


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
    order: Sequence[str] = tuple(finders) if layout == "auto" else (layout,)
    if layout == "auto" and _is_plain(root):
        order = ("folder",)
    for name in order:
        subjects = sorted(finders[name](root), key=lambda subject: subject.id)
        if subjects:
            break
    else:
        raise _nothing_found(root, layout)
    _refuse_duplicates(root, subjects)
    if name == "folder":
        chosen = [_named(subject, channels) for subject in subjects]
    else:
        if name == "msd":
            subjects = [only_channel(subject, channels) for subject in subjects]
        else:
            _check_channels(channels)
        chosen = [_complete(subject, channels) for subject in subjects]
    _warn_of_others(root / "imagesTr" if name == "msd" else root, subjects)
    return chosen


def _nothing_found(root: Path, layout: str) -> ConfigError:
    """The error that names what is looked for, and some of what is there."""
    patterns = {
        "msd": "imagesTr/*.nii.gz (MSD, nnU-Net)",
        "brats": "*/*_flair.nii.gz, *_t1.nii.gz … (BraTS up to 2021, UPENN-GBM, UCSF-PDGM)",
        "brats2023": "*/*-t2f.nii.gz, *-t1n.nii.gz … (BraTS from 2023)",
        "folder": "*.nii.gz or images/*.nii.gz (a plain folder)",
    }
    wanted = [patterns[layout]] if layout in patterns else list(patterns.values())
    scans = [path for folder in folders_below(root) for path in scans_in(folder)]
    if scans:
        shown = ", ".join(path.relative_to(root).as_posix() for path in scans[:_SHOWN])
        found = f"{len(scans)} scans of other names or in other folders: {shown}"
        more = len(scans) > _SHOWN
    else:
        names = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
        found = f"no scan at all, but {', '.join(names[:_SHOWN])}" if names else "nothing"
        more = len(names) > _SHOWN
    return ConfigError(
        root,
        expected="; or ".join(wanted),
        found=found + (" …" if more else ""),
        remedy="Check data.root and data.layout, or rename the files (links are followed).",
    )


def _is_plain(root: Path) -> bool:
    """Whether images and labels have a folder each: the images' endings mean nothing then."""
    return (root / "images").is_dir() and any(
        (root / name).is_dir() for name in ("masks", "labels")
    )


def _warn_of_others(root: Path, subjects: Sequence[Subject]) -> None:
    """Name the scans below a data set's folder that belong to no subject."""
    taken = {path for subject in subjects for path in subject.files}
    others = [
        LeftOut(path, "its name is not one of this layout's")
        for folder in folders_below(root)
        for path, file in scans_in(folder).items()
        if file not in taken and not is_label_name(path)
    ]
    log_left_out(others, once=True)


def brats_subjects(folder: Path, errors: list[InputError] | None = None) -> list[Subject]:
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
    for endings in (_BRATS, _BRATS_2023):
        subjects = _brats_subjects(folder, endings, bad)
        if bad and errors is None:
            raise bad[0]
        if subjects or bad:
            break
    if errors is not None:
        errors += bad
    return subjects


def _brats_subjects(
    folder: Path, endings: re.Pattern[str], errors: list[InputError]
) -> list[Subject]:
    """The subjects whose files lie directly in this folder, grouped by the prefix of their
    names; an error is appended for each that has one modality twice."""
    found: dict[str, dict[str, Source]] = {}
    twice: dict[str, InputError] = {}
    for path, file in scans_in(folder).items():
        ending = endings.search(stem(path))
        if ending is None:
            continue
        kind = str(ending.lastgroup)
        id = stem(path)[: ending.start()] or folder.name
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
    """The label of a scan given as a file: that of its BraTS subject, or ``<stem>_seg`` and the
    like.

    ``<stem>_mask`` does not count, since medrd itself may have written it.
    """
    folder = path.parent
    if not folder.is_dir():
        return None
    for subject in brats_subjects(folder, errors=[]):
        if any(source.path == scan_file(path) for source in subject.images.values()):
            return subject.label
    return _Labels((folder, ("_seg", "_label", "_dseg"))).of(path)


class _Labels:
    """The labels in a few folders, by the names of their images; case does not matter.

    Parameters
    ----------
    places
        Folders, each with what a label may be called after its image's stem.
    """

    def __init__(self, *places: tuple[Path, Sequence[str]]) -> None:
        self._places = [
            ({path.name.lower(): file for path, file in scans_in(folder).items()}, words)
            for folder, words in places
        ]

    def of(self, image: Path) -> Source | None:
        """The first label that an image has."""
        for files, words in self._places:
            endings = (scan_ending(image), ".nii.gz", ".nii")
            for word, ending in itertools.product(words, endings):
                if found := files.get(f"{stem(image)}{word}{ending}".lower()):
                    return Source(found)
        return None


def scans_in(folder: Path) -> dict[Path, Path]:
    """The file of each scan directly in a folder, sorted by the paths that name them.

    Both are the same but for a scan in a folder of its own name; see :func:`scan_file`.
    """
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path: file for path in paths if (file := scan_file(path)) is not None}


def all_named(subjects: Sequence[Subject]) -> bool:
    """True if every image is known to have the modality that its channel names.

    It is known from the file's name, as in BraTS or BIDS, or from the position in a file of MSD.
    """
    return all(
        source.frame is not None or named_kind(source.path) == channel
        for subject in subjects
        for channel, source in subject.images.items()
    )


def _brats(root: Path) -> Iterator[Subject]:
    return _brats_below(root, _BRATS)


def _brats_2023(root: Path) -> Iterator[Subject]:
    return _brats_below(root, _BRATS_2023)


def _brats_below(root: Path, endings: re.Pattern[str]) -> Iterator[Subject]:
    bare: list[Subject] = []
    for folder in folders_below(root):
        bad: list[InputError] = []
        subjects = _brats_subjects(folder, endings, bad)
        if bad:
            raise bad[0]
        beside = _Labels((folder, _BESIDE)) if subjects else None
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
    """Labels by subject, wherever they lie, as in UPENN-GBM's ``images_segm``; none of two."""
    found: dict[str, list[Source]] = defaultdict(list)
    for folder in folders_below(root):
        for path, file in scans_in(folder).items():
            ending = endings.search(stem(path))
            if ending is not None and ending.lastgroup == "seg":
                found[stem(path)[: ending.start()]].append(Source(file))
    return {id: sources[0] for id, sources in found.items() if len(sources) == 1}


def folders_below(root: Path) -> Iterator[Path]:
    """The root and all folders below it that are neither hidden nor a scan, each once.

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
        below[:] = sorted(name for name in below if _is_folder(Path(folder, name)))
        yield Path(folder)


def _is_folder(path: Path) -> bool:
    return not path.name.startswith(".") and scan_file(path) is None


def _msd(root: Path) -> Iterator[Subject]:
    images = root / "imagesTr"
    return iter(decathlon_subjects(images) if images.is_dir() else ())


def decathlon_subjects(images: Path) -> list[Subject]:
    """The subjects of a folder ``imagesTr`` of the Decathlon or of nnU-Net.

    Raises
    ------
    ConfigError
        ``dataset.json`` cannot be read, or does not name the channel of a file.
    """
    known = decathlon.channel_names(images.parent)
    order = known or _MSD_ORDER
    labels = _Labels((images.parent / images.name.replace("images", "labels", 1), ("",)))
    subjects = []
    for case, files in decathlon.files_by_case(scans_in(images)).items():
        sources: dict[str, Source] = {}
        for number, file in files.items():
            if number is None:
                sources |= {name: Source(file, frame) for frame, name in enumerate(order)}
            elif number < len(order):
                sources[order[number]] = Source(file)
            else:
                raise ConfigError(
                    images.parent / decathlon.DESCRIPTION,
                    expected=f"a name of channel {number}, which {file.name} is",
                    found=f"{len(order)} channels: {', '.join(order)}",
                    remedy="Complete its channel_names, or remove the file.",
                )
        subjects.append(Subject(case, sources, labels.of(images / f"{case}{_ending_of(files)}")))
    return subjects


def _ending_of(files: Mapping[int | None, Path]) -> str:
    return scan_ending(next(iter(files.values())))


def _folder(root: Path) -> Iterator[Subject]:
    images = root / "images" if (root / "images").is_dir() else root
    own = ("", *_BESIDE)
    labels = _Labels((root / "masks", own), (root / "labels", own), (images, _BESIDE))
    for path, file in scans_in(images).items():
        if not is_label_name(path):
            yield Subject(stem(path), {"image": Source(file)}, labels.of(path))


def _named(subject: Subject, channels: Sequence[str]) -> Subject:
    if len(channels) != 1:
        raise ConfigError(
            "recipe.channels",
            expected="one channel in a plain folder (one file per subject)",
            found=", ".join(channels),
            remedy="Use a BraTS or MSD layout for several modalities.",
        )
    return Subject(subject.id, {channels[0]: subject.images["image"]}, subject.label)


def only_channel(subject: Subject, channels: Sequence[str]) -> Subject:
    """Of data with one channel, whatever it is called (``MRI``, ``zscore``), that is the one that
    is asked for."""
    (first, *others) = subject.images.items()
    if others or len(channels) != 1 or first[0] in MODALITIES:
        return subject
    return replace(subject, images={channels[0]: first[1]})


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
