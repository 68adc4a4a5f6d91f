"""Rules that separate scans of other sequences from a model's training scans.

A profile describes how much the training scans vary. If they vary much, like simulated scans that
represent all scanners, other sequences are within its limits. Local contrast separates sequences:
tissue that lies beside fluid or changes within millimetres (cortex) is darker on T1 and brighter on
FLAIR than tissue that does not (white matter); on T2, fluid itself is bright. The weight of each
value is learnt from examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medrd.data.traits import TONES

_SLICES = 24
"""Number of slices in use, spread over the brain."""
_AROUND_MM, _DETAIL_MM = 12.0, 1.5
_DARK, _BOUND = -1.5, 1.2
"""Level below which is fluid on FLAIR and T1, and clipping before changes are measured; both in
quartile ranges."""
_RIM_MM, _EDGE_MM = 6.0, 4.0
"""Closer to the brain's edge, the image depends on how the skull was stripped."""
_AWAY_MM = (0, 2, 4, 6, 9, 13)
_FEW = 50
_FARTHEST = 4.0
"""Tones are clipped here, in quartile ranges, so that one extreme shell cannot decide."""
LENGTH = 4 + len(_AWAY_MM) - 1 + TONES
_RIDGE = 0.03
"""Added to the variance of each standardised value, so that nearly equal ones do not cancel."""
_BEYOND = 0.01
"""Share of the training scans that may be beyond a limit, so that a single outlier cannot set
it."""


def appearance(
    tone: NDArray[np.float32],
    images: NDArray[np.floating],
    region: NDArray[np.bool_],
    *,
    pixel_mm: float,
) -> NDArray[np.float32]:
    """The input of the rules, (22,): the local levels of one modality's slices, and the scan's
    tone.

    See :func:`local_levels` and :class:`medrd.data.traits.ChannelTraits`.
    """
    levels = local_levels(images, region, pixel_mm=pixel_mm)
    return np.concatenate([levels, np.clip(tone, -_FARTHEST, _FARTHEST)])


def local_levels(
    images: NDArray[np.floating], region: NDArray[np.bool_], *, pixel_mm: float
) -> NDArray[np.float32]:
    """The brightness of places by their surroundings, (9,).

    Brightness is relative to a place's surroundings, minus its median, in quartile ranges, so that
    neither shading nor the scan's unit matters. The values are medians over the places where it
    changes least, little, much and most, and over those at increasing distance from dark places.

    Parameters
    ----------
    images
        (S, H, W): one modality's slices.
    region
        (S, H, W): the brain.
    """
    shown = np.unique(np.linspace(0, len(images) - 1, _SLICES).round().astype(int))
    images, region = images[shown].astype(np.float32), region[shown]

    def smooth(stack: NDArray[np.floating], mm: float, order: tuple[int, int] = (0, 0)) -> Any:
        sigma = (0, mm / pixel_mm, mm / pixel_mm)
        return ndimage.gaussian_filter(stack, sigma, order=(0, *order), truncate=3)

    share = smooth(region.astype(np.float32), _AROUND_MM)
    around = smooth(images * region, _AROUND_MM) / np.maximum(share, 1e-3)
    ratio = images / np.maximum(around, 1e-2)
    low, middle, high = np.percentile(ratio[region], (25, 50, 75))
    level = np.where(region, (ratio - middle) / max(high - low, 1e-6), 0).astype(np.float32)
    bounded = np.clip(level, -_BOUND, _BOUND)
    change = np.hypot(smooth(bounded, _DETAIL_MM, (1, 0)), smooth(bounded, _DETAIL_MM, (0, 1)))
    depth_mm = _distances(region) * pixel_mm
    inner = depth_mm > _RIM_MM
    dark = region & (level < _DARK)
    away_mm = _distances(~dark) * pixel_mm
    places = [inner & (change > a) & (change <= b) for a, b in pairwise(_quarters(change[inner]))]
    beside = (depth_mm > _EDGE_MM) & ~dark
    places += [beside & (away_mm > a) & (away_mm <= b) for a, b in pairwise(_AWAY_MM)]
    medians = [np.median(level[p]) if np.count_nonzero(p) > _FEW else 0.0 for p in places]
    return np.array(medians, np.float32)


def _quarters(values: NDArray[np.floating]) -> list[float]:
    """Bounds of four equal parts."""
    inner = np.percentile(values, (25, 50, 75)) if values.size else np.zeros(3)
    return [-np.inf, *inner, np.inf]


def _distances(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance in pixels to the nearest pixel outside the mask, slice by slice."""
    return np.stack([ndimage.distance_transform_edt(mask) for mask in masks])


@dataclass(frozen=True, eq=False)
class OtherSequence:
    """The difference of another sequence's scans from the training scans.

    Attributes
    ----------
    name
        The sequence in words: ``T1``.
    direction
        (22,) weights of an :func:`appearance`.
    limit
        A scan with a higher weighted sum counts as that sequence, as would a hundredth of the
        training scans.
    """

    name: str
    direction: NDArray[np.float32]
    limit: float

    @classmethod
    def learn(
        cls, name: str, own: Sequence[NDArray[np.float32]], other: Sequence[NDArray[np.float32]]
    ) -> Self:
        """Fisher's linear discriminant between appearances of training scans and of others."""
        first, second = np.asarray(own, np.float64), np.asarray(other, np.float64)
        scale = np.concatenate([first, second]).std(0) + 1e-3
        within = (np.cov(first / scale, rowvar=False) + np.cov(second / scale, rowvar=False)) / 2
        within += _RIDGE * np.eye(LENGTH)
        direction = np.linalg.solve(within, (second.mean(0) - first.mean(0)) / scale) / scale
        weights = direction.astype(np.float32)
        limit = np.percentile([float(weights @ each) for each in own], 100 * (1 - _BEYOND))
        return cls(name, weights, float(limit))

    def is_like(self, appearance: NDArray[np.float32]) -> bool:
        """Whether a scan with this appearance, (22,), looks like this sequence."""
        return float(self.direction @ appearance) > self.limit

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {"name": self.name, "direction": self.direction.tolist(), "limit": self.limit}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`. Raises KeyError, TypeError or ValueError."""
        direction = np.asarray(content["direction"], np.float32)
        if direction.shape != (LENGTH,):
            raise ValueError(f"{direction.shape} weights instead of {LENGTH}")
        return cls(str(content["name"]), direction, float(content["limit"]))
