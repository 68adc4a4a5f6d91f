"""The channels of a slice's image."""

from __future__ import annotations

from dataclasses import dataclass

PLACE_CHANNELS = 3
"""Row, distance from the middle column, and height in the stack."""


@dataclass(frozen=True)
class ChannelLayout:
    """The channels of an image (C, H, W).

    They are, in this order, all modalities of the slice itself, all modalities of the neighbour at
    each further offset and, with ``place``, three maps of each pixel's position in the brain.

    Attributes
    ----------
    modalities
        Names of the modalities.
    offsets_mm
        Offsets of the slices shown, 0 first.
    place
        Whether the position maps are included.
    pixel_mm
        Side length of a pixel.
    """

    modalities: tuple[str, ...]
    offsets_mm: tuple[float, ...] = (0.0,)
    place: bool = False
    pixel_mm: float = 1.0

    @property
    def intensities(self) -> int:
        """Number of channels that hold intensities; they come first."""
        return len(self.modalities) * len(self.offsets_mm)

    @property
    def channels(self) -> int:
        """Number of all channels."""
        return self.intensities + PLACE_CHANNELS * self.place

    @property
    def plain(self) -> bool:
        """True if every detector accepts it: one or three modalities of the slice itself."""
        return self.channels == len(self.modalities) and len(self.modalities) in (1, 3)
