"""The labels of scans, found by the names of their images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from medrd.data.folders import scans_in
from medrd.data.names import stem
from medrd.data.subject import Source
from medrd.images.formats import scan_ending

BESIDE = ("_mask", "_seg", "_label")
"""What a label beside its image may be called after the image's stem."""


class Labels:
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
