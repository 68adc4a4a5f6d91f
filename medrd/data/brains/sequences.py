"""Rules that tell another sequence's scans from a model's training scans, by their tones.

A profile says how much the training scans vary. Where they vary much, as simulated ones do that
stand for all scanners, other sequences lie within that: a T1 scan is as far from the mean as some
FLAIR scans are, but in a direction of its own. Such a direction is learnt from examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medrd.data.traits import TONES

_RIDGE = 0.01
"""Added to the variance of each standardised tone, so that nearly equal ones do not cancel."""
_BOUND = 4.0
"""Tones are cut here, in interquartile ranges: one extreme shell must not decide."""


@dataclass(frozen=True, eq=False)
class OtherSequence:
    """How scans of another sequence differ from the training scans.

    Attributes
    ----------
    name
        The sequence in words: ``T1``.
    direction
        (13,) weights of the tones; see :class:`medrd.data.traits.ChannelTraits`.
    limit
        The highest weighted sum among the training scans: beyond it, a scan is of that sequence.
    """

    name: str
    direction: NDArray[np.float32]
    limit: float

    @classmethod
    def learn(
        cls, name: str, own: Sequence[NDArray[np.float32]], other: Sequence[NDArray[np.float32]]
    ) -> Self:
        """Fisher's linear discriminant between the tones of training scans and of others."""
        first, second = (
            np.clip(tones, -_BOUND, _BOUND).astype(np.float64) for tones in (own, other)
        )
        scale = np.concatenate([first, second]).std(0) + 1e-3
        within = (np.cov(first / scale, rowvar=False) + np.cov(second / scale, rowvar=False)) / 2
        within += _RIDGE * np.eye(TONES)
        direction = np.linalg.solve(within, (second.mean(0) - first.mean(0)) / scale) / scale
        made = cls(name, direction.astype(np.float32), 0.0)
        return cls(name, made.direction, max(made.score(tone) for tone in own))

    def score(self, tone: NDArray[np.float32]) -> float:
        """The weighted sum of a scan's tones, (13,)."""
        return float(self.direction @ np.clip(tone, -_BOUND, _BOUND))

    def is_like(self, tone: NDArray[np.float32]) -> bool:
        """Whether a scan of these tones, (13,), is of this sequence."""
        return self.score(tone) > self.limit

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {"name": self.name, "direction": self.direction.tolist(), "limit": self.limit}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`. Raises KeyError, TypeError or ValueError."""
        direction = np.asarray(content["direction"], np.float32)
        if direction.shape != (TONES,):
            raise ValueError(f"{direction.shape} weights instead of {TONES}")
        return cls(str(content["name"]), direction, float(content["limit"]))
