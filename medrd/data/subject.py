"""A subject of a data set: its images by channel, and its label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


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
