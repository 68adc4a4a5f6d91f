"""A scan's appearance in a few numbers, for comparison with a model's training scans.

The numbers depend neither on the scan's name nor on the unit of its intensities. A model's training
scans are summarised in them (:mod:`medrd.data.brains.profile`), and a scan to predict is compared
with that profile. They are computed on a coarse grid of about 60 voxels per side, for speed.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medrd.images.box import bounding_box
from medrd.images.volume import Volume

CELLS = 12
"""Cells per side of the coarse grid that the brain's bounding box is divided into."""
_SIDE = 60
_DEPTHS_MM = (2, 4, 6, 8, 11, 14, 18, 23, 30, 60)
"""Depths below the brain's surface that bound its shells."""
_PERCENTILES = (5, 15, 85, 95)
_RIPPLE = 0.15
"""Overshoot of splines (a tenth of a step), in units of the scan's 99th percentile."""
TONES = len(_DEPTHS_MM) - 1 + len(_PERCENTILES)


@dataclass(frozen=True, eq=False)
class ChannelTraits:
    """The appearance of one modality.

    Attributes
    ----------
    negative_share
        Share of all voxels well below 0: MR magnitudes have none, CT has air at -1000. Ripples of a
        resampled edge do not count.
    levels
        Distinct values among the brain's voxels; a label has only a few.
    tone
        (13,) medians of the shells below the brain's surface, then percentiles of the whole brain,
        each as the distance from the brain's median in units of the interquartile range. Medians
        change little with a lesion.
    pattern
        (12, 12, 12) mean rank of each cell (share of the brain's voxels that are darker); 0 where
        there is no brain.
    """

    negative_share: float
    levels: int
    tone: NDArray[np.float32]
    pattern: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ScanTraits:
    """The appearance of a subject's scan; axes in canonical order (right, anterior, superior).

    Attributes
    ----------
    spacing_mm
        (3,) edge lengths of a voxel.
    brain_ml
        Volume of the foreground.
    occupancy
        (12, 12, 12) share of each cell that is brain.
    channels
        Traits by modality.
    """

    spacing_mm: NDArray[np.float32]
    brain_ml: float
    occupancy: NDArray[np.float32]
    channels: Mapping[str, ChannelTraits]

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "spacing_mm": self.spacing_mm.tolist(),
            "brain_ml": self.brain_ml,
            "occupancy": pack_cells(self.occupancy),
            "channels": {
                name: {
                    "negative_share": channel.negative_share,
                    "levels": channel.levels,
                    "tone": channel.tone.tolist(),
                    "pattern": pack_cells(channel.pattern),
                }
                for name, channel in self.channels.items()
            },
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ScanTraits:
        """The inverse of :meth:`to_dict`, up to the rounding of cells."""
        channels = {
            name: ChannelTraits(
                negative_share=float(channel["negative_share"]),
                levels=int(channel["levels"]),
                tone=np.asarray(channel["tone"], np.float32),
                pattern=unpack_cells(channel["pattern"]),
            )
            for name, channel in content["channels"].items()
        }
        return cls(
            spacing_mm=np.asarray(content["spacing_mm"], np.float32),
            brain_ml=float(content["brain_ml"]),
            occupancy=unpack_cells(content["occupancy"]),
            channels=channels,
        )


def pack_cells(cells: NDArray[np.float32]) -> str:
    """Encode (12, 12, 12) values in [0, 1] as base64 of bytes, each 255 times a value."""
    return base64.b64encode(np.round(cells * 255).astype(np.uint8).tobytes()).decode("ascii")


def unpack_cells(text: str) -> NDArray[np.float32]:
    """The inverse of :func:`pack_cells`, within 1/510. Raises ValueError."""
    cells = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    return (cells.reshape(CELLS, CELLS, CELLS) / 255).astype(np.float32)


def scan_traits(volumes: Mapping[str, Volume], brain: NDArray[np.bool_]) -> ScanTraits:
    """Compute the traits of a subject's volumes on one grid, with its nonempty brain (X, Y, Z)."""
    first = next(iter(volumes.values()))
    turn = nib.orientations.io_orientation(first.affine)
    spacing_mm = np.empty(3, np.float32)
    spacing_mm[turn[:, 0].astype(int)] = first.spacing_mm
    upright = nib.orientations.apply_orientation(brain, turn)
    box = tuple(
        slice(part.start, part.stop, max(1, (part.stop - part.start) // _SIDE))
        for part in bounding_box(upright)
    )
    inside = upright[box]
    counts = _cell_sums(inside)
    sizes = _cell_sums(np.ones(inside.shape))
    steps = np.array([part.step for part in box], np.float32)
    depth_mm = _depths_mm(inside, spacing_mm * steps)
    channels = {}
    for name, volume in volumes.items():
        values = nib.orientations.apply_orientation(volume.array, turn)[box][inside]
        _, inverse, repeats = np.unique(values, return_inverse=True, return_counts=True)
        darker = ((np.cumsum(repeats) - repeats) / values.size)[inverse]
        ranks = np.zeros(inside.shape)
        ranks[inside] = darker
        sums = _cell_sums(ranks)
        channels[name] = ChannelTraits(
            negative_share=_negative_share(volume.array),
            levels=repeats.size,
            tone=_tone(values, depth_mm),
            pattern=np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0),
        )
    return ScanTraits(
        spacing_mm=spacing_mm,
        brain_ml=float(brain.sum() * first.voxel_volume_mm3 / 1000),
        occupancy=(counts / np.maximum(sizes, 1)).astype(np.float32),
        channels=channels,
    )


def _negative_share(array: NDArray[np.float32]) -> float:
    sample = array.ravel(order="K")[:: max(1, array.size // 1_000_000)]
    least = _RIPPLE * float(np.percentile(np.abs(sample), 99))
    return float(np.count_nonzero(array < -least) / array.size)


def _cell_sums(array: NDArray) -> NDArray[np.float32]:
    """Sum (X, Y, Z) over 12 x 12 x 12 cells; with fewer than 12 slices, cells share slices."""
    array = array.astype(np.float32)
    for axis, size in enumerate(array.shape):
        array = np.add.reduceat(array, np.arange(CELLS) * size // CELLS, axis=axis)
    return array


def _depths_mm(inside: NDArray[np.bool_], spacing_mm: NDArray[np.float32]) -> NDArray[np.float32]:
    """Depth of each brain voxel below the brain's surface."""
    padded = np.pad(inside, 1)
    depths: NDArray[np.float32] = ndimage.distance_transform_edt(padded, sampling=spacing_mm)
    return depths[padded]


def _tone(values: NDArray[np.float32], depth_mm: NDArray[np.float32]) -> NDArray[np.float32]:
    lower, median, upper = np.percentile(values, (25, 50, 75))
    shells = [
        np.median(values[here]) if (here := (depth_mm > low) & (depth_mm <= high)).any() else median
        for low, high in itertools.pairwise(_DEPTHS_MM)
    ]
    levels = np.array([*shells, *np.percentile(values, _PERCENTILES)])
    spread = max(upper - lower, np.finfo(np.float32).tiny)
    # A label's quartiles may coincide; the result is then large but finite.
    return np.clip((levels - median) / spread, -1e3, 1e3).astype(np.float32)
