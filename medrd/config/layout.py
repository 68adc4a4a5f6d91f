"""What the channels of a slice's image are."""

from __future__ import annotations

from dataclasses import dataclass

PLACE_CHANNELS = 3
"""Row, distance from the middle column, and height in the stack."""


@dataclass(frozen=True)
class Layout:
    """The channels of an image (C, H, W): modalities of the slice, of its neighbours, and places.

    In this order: all modalities of the slice itself; all of the neighbour at each further
    offset; where there is ``place``, three maps of where each pixel lies.

    Attributes
    ----------
    modalities
        Their names.
    offsets_mm
        Of the slices that are shown, 0 first.
    place
        Whether places are shown.
    pixel_mm
        Side of a pixel.
    """

    modalities: tuple[str, ...]
    offsets_mm: tuple[float, ...] = (0.0,)
    place: bool = False
    pixel_mm: float = 1.0

    @property
    def intensities(self) -> int:
        """Channels that hold intensities: they come first."""
        return len(self.modalities) * len(self.offsets_mm)

    @property
    def channels(self) -> int:
        """All channels."""
        return self.intensities + PLACE_CHANNELS * self.place

    @property
    def plain(self) -> bool:
        """Whether any detector can take it: the slice's own one or three modalities."""
        return self.channels == len(self.modalities) and len(self.modalities) in (1, 3)
