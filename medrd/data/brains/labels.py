"""The labels of scans, found by the names of their images."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from medrd.data.folders import scans_in
from medrd.data.subject import Source
from medrd.images.formats import scan_ending, scan_stem

BESIDE = ("_mask", "_seg", "_label")
"""Suffixes, after the image's stem, of a label beside its image."""
OWN_FOLDERS = ("masks", "labels")
"""Folders of labels beside a folder ``images``."""


def beside_images(images: Path) -> list[tuple[Path, Sequence[str]]]:
    """The places of labels in the folders beside ``images``, for :class:`Labels`."""
    return [(images.parent / name, ("", *BESIDE)) for name in OWN_FOLDERS]


def is_label_folder(folder: Path) -> bool:
    """Whether a folder is the ``masks`` or ``labels`` beside a folder ``images``."""
    return folder.name in OWN_FOLDERS and (folder.parent / "images").is_dir()


class Labels:
    """The labels in a few folders, by the names of their images. Upper and lower case, and composed
    and decomposed accents (macOS), are the same.

    Parameters
    ----------
    places
        Folders, each with the suffixes that a label may have after its image's stem.
    """

    def __init__(self, *places: tuple[Path, Sequence[str]]) -> None:
        self._places = [
            ({_plain(path.name): file for path, file in scans_in(folder).items()}, words)
            for folder, words in places
        ]

    def of(self, image: Path) -> Source | None:
        """The first label found for an image."""
        for files, words in self._places:
            endings = (scan_ending(image), ".nii.gz", ".nii")
            for word, ending in itertools.product(words, endings):
                if found := files.get(_plain(f"{scan_stem(image)}{word}{ending}")):
                    return Source(found)
        return None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).lower()
