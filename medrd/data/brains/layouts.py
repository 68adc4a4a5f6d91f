"""Layouts of data sets of brains: find the subjects with their images and labels.

Only names are used; no image is read. A new layout is a function that finds its subjects, and its
entry in :data:`LAYOUTS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from medrd.config import BrainLayout
from medrd.data.brains import brats, decathlon
from medrd.data.brains.labels import BESIDE, OWN_FOLDERS, Labels, beside_images
from medrd.data.folders import folders_below, require_root, scans_in
from medrd.data.left_out import LeftOut, log_left_out
from medrd.data.names import MODALITIES, is_label_name
from medrd.data.subject import Source, Subject
from medrd.errors import ConfigError, MissingInputError
from medrd.images.formats import scan_stem

_SHOWN = 3
"""Number of names that a message lists."""


def find_subjects(root: Path, *, layout: str, channels: Sequence[str]) -> list[Subject]:
    """All subjects below ``root``, sorted by id.

    Parameters
    ----------
    root
        The data set's folder.
    layout
        A key of :data:`LAYOUTS`; ``auto`` takes the first that fits.
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
    require_root(root, inside="subjects")
    tried = tuple(LAYOUTS) if layout == BrainLayout.AUTO else (layout,)
    if layout == BrainLayout.AUTO and _is_plain(root):
        tried = ("folder",)
    for known in (LAYOUTS[name] for name in tried):
        subjects = sorted(known.find(root), key=lambda subject: subject.id)
        if subjects:
            break
    else:
        raise _nothing_found(root, layout)
    _refuse_duplicates(root, subjects)
    chosen = [known.choose(subject, channels) for subject in subjects]
    _warn_of_others(root / known.scans, subjects)
    return chosen


def _nothing_found(root: Path, layout: str) -> ConfigError:
    """The error that lists the names that medrd looks for, and some that it found."""
    patterns = {name: known.files for name, known in LAYOUTS.items()}
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
    """Whether images and labels have a folder each: the images' endings are then ignored."""
    return (root / "images").is_dir() and any((root / name).is_dir() for name in OWN_FOLDERS)


def _warn_of_others(root: Path, subjects: Sequence[Subject]) -> None:
    """Warn of scans below a data set's folder that belong to no subject."""
    taken = {path for subject in subjects for path in subject.files}
    others = [
        LeftOut(path, "its name does not fit this layout")
        for folder in folders_below(root)
        for path, file in scans_in(folder).items()
        if file not in taken and not is_label_name(path)
    ]
    log_left_out(others, once=True)


def _folder(root: Path) -> Iterator[Subject]:
    images = root / "images" if (root / "images").is_dir() else root
    labels = Labels(*beside_images(root / "images"), (images, BESIDE))
    for path, file in scans_in(images).items():
        if not is_label_name(path):
            yield Subject(scan_stem(path), {"image": Source(file)}, labels.of(path))


def _named(subject: Subject, channels: Sequence[str]) -> Subject:
    if len(channels) != 1:
        raise ConfigError(
            "recipe.channels",
            expected="one channel in a plain folder (one file per subject)",
            found=", ".join(channels),
            remedy="Use a BraTS or MSD layout for several modalities.",
        )
    return Subject(subject.id, {channels[0]: subject.images["image"]}, subject.label)


def _modalities(subject: Subject, channels: Sequence[str]) -> Subject:
    for channel in channels:
        if channel not in MODALITIES:
            raise ConfigError(
                "recipe.channels",
                expected=f"modalities out of {', '.join(MODALITIES)}",
                found=channel,
                remedy="Correct recipe.channels.",
            )
    return _complete(subject, channels)


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


class Layout(NamedTuple):
    """A layout: how its subjects are found and read."""

    find: Callable[[Path], Iterable[Subject]]
    """All subjects below the data set's folder."""
    files: str
    """The names of its files, for messages."""
    choose: Callable[[Subject, Sequence[str]], Subject] = _modalities
    """The subject with these channels alone; raises InputError or ConfigError."""
    scans: str = ""
    """The folder below that holds all scans."""


LAYOUTS: dict[str, Layout] = {
    BrainLayout.MSD: Layout(
        decathlon.subjects_below,
        "imagesTr/*.nii.gz (MSD, nnU-Net)",
        choose=lambda subject, channels: _complete(
            decathlon.only_channel(subject, channels), channels
        ),
        scans="imagesTr",
    ),
    BrainLayout.BRATS: Layout(
        lambda root: brats.subjects_below(root, brats.OLD),
        "*/*_flair.nii.gz, *_t1.nii.gz … (BraTS up to 2021, UPENN-GBM, UCSF-PDGM)",
    ),
    BrainLayout.BRATS2023: Layout(
        lambda root: brats.subjects_below(root, brats.NEW),
        "*/*-t2f.nii.gz, *-t1n.nii.gz … (BraTS from 2023)",
    ),
    BrainLayout.FOLDER: Layout(
        _folder, "*.nii.gz or images/*.nii.gz (a plain folder)", choose=_named
    ),
}
"""``data.layout: auto`` tries them in this order."""
