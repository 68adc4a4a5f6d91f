"""The layout of the Medical Segmentation Decathlon and of nnU-Net: which file holds which channel.

In both, ``imagesTr`` holds the images and ``labelsTr`` the labels, and ``dataset.json`` names the
channels. The Decathlon has one 4D file per case, nnU-Net (both versions) one file per channel:
``CASE_0000.nii.gz``, ``CASE_0001.nii.gz`` …

Source: https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medrd.data.brains.labels import Labels
from medrd.data.folders import scans_in
from medrd.data.names import MODALITIES, modality_of_word
from medrd.data.subject import Source, Subject
from medrd.errors import ConfigError
from medrd.images.formats import scan_ending, scan_stem

DESCRIPTION = "dataset.json"
_TABLES = ("channel_names", "modality")  # of nnU-Net v2, and of v1 and the Decathlon
_CHANNEL = re.compile(r"_(\d{4})$")


def channel_names(root: Path) -> tuple[str, ...] | None:
    """The channels that ``dataset.json`` names, in order, under medrd's names where it has one.

    None if there is no such file.

    Raises
    ------
    ConfigError
        The file cannot be read, or has no table of channels.
    """
    path = root / DESCRIPTION
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_each_once)
        tables = [_in_order(content[name]) for name in _TABLES if name in content]
        if not tables:
            found = f"the keys {', '.join(content)}"
        elif any(table != tables[0] for table in tables):
            found = f"two that differ: {tables}"
        elif len(set(tables[0])) < len(tables[0]):
            found = f"a channel twice: {', '.join(tables[0])}"
        else:
            return tables[0]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        found = str(error)
    raise ConfigError(
        path,
        expected='a table of channels, "channel_names" (nnU-Net) or "modality" (MSD): '
        '{"0": "FLAIR", …}',
        found=found,
        remedy="Restore the file, or remove it to use the order of MSD's Task01.",
    )


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without repeated keys, of which json would silently take the last."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return content


def _in_order(table: Any) -> tuple[str, ...]:
    """The names of the channels 0, 1 … of a table."""
    if not isinstance(table, dict) or set(table) != {str(i) for i in range(len(table))}:
        raise ValueError(f"the table {table}")
    if not all(isinstance(name, str) for name in table.values()):
        raise ValueError(f"the table {table}, whose values are not all names")
    names = (table[str(i)].lower() for i in range(len(table)))
    return tuple(modality_of_word(re.sub(r"[^a-z0-9]", "", name)) or name for name in names)


def files_by_case(scans: Mapping[Path, Path]) -> dict[str, dict[int | None, Path]]:
    """Files by case and by the number of their channel; None for a 4D file.

    Parameters
    ----------
    scans
        The file to read for each name in a folder of images.
    """
    found: dict[str, dict[int | None, Path]] = {}
    for path, file in scans.items():
        name = scan_stem(path)
        number = _CHANNEL.search(name)
        case = name[: number.start()] if number else name
        found.setdefault(case, {})[int(number[1]) if number else None] = file
    return found


def describes(images: Path) -> bool:
    """Whether a folder holds images whose channels a ``dataset.json`` beside it names."""
    return images.name in ("imagesTr", "imagesTs") and (images.parent / DESCRIPTION).is_file()


def is_label_folder(folder: Path) -> bool:
    """Whether a folder is the ``labelsTr`` or ``labelsTs`` beside a folder of images."""
    return folder.name in ("labelsTr", "labelsTs") and any(
        (folder.parent / name).exists()
        for name in (DESCRIPTION, folder.name.replace("labels", "images"))
    )


def subjects_in(images: Path) -> list[Subject]:
    """The subjects of a folder ``imagesTr`` of the Decathlon or of nnU-Net.

    Raises
    ------
    ConfigError
        ``dataset.json`` cannot be read, or does not name the channel of a file.
    """
    known = channel_names(images.parent)
    order = known or MODALITIES  # the order of Task01_BrainTumour
    labels = Labels((images.parent / images.name.replace("images", "labels", 1), ("",)))
    subjects = []
    for case, files in files_by_case(scans_in(images)).items():
        sources: dict[str, Source] = {}
        for number, file in files.items():
            if number is None:
                sources |= {name: Source(file, frame) for frame, name in enumerate(order)}
            elif number < len(order):
                sources[order[number]] = Source(file)
            else:
                raise ConfigError(
                    images.parent / DESCRIPTION,
                    expected=f"a name for channel {number} ({file.name})",
                    found=f"{len(order)} channels: {', '.join(order)}",
                    remedy="Complete its channel_names, or remove the file.",
                )
        subjects.append(Subject(case, sources, labels.of(images / f"{case}{_ending_of(files)}")))
    return subjects


def _ending_of(files: Mapping[int | None, Path]) -> str:
    return scan_ending(next(iter(files.values())))


def only_channel(subject: Subject, channels: Sequence[str]) -> Subject:
    """The subject, whose only channel gets the wanted name if its own is unknown (``MRI``)."""
    (first, *others) = subject.images.items()
    if others or len(channels) != 1 or first[0] in MODALITIES:
        return subject
    return replace(subject, images={channels[0]: first[1]})


def subjects_below(root: Path) -> list[Subject]:
    """The subjects of a data set with a folder ``imagesTr``; none without that folder."""
    images = root / "imagesTr"
    return subjects_in(images) if images.is_dir() else []
