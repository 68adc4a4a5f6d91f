"""A profile of a model's training scans, and how a new scan differs from it.

The profile is stored in the model file. Its limits come from the training scans alone: each is
compared with the others, and a new scan may deviate somewhat more than the worst of them. The
profile can warn but not guarantee: the model may still fail on a scan that passes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.data.brains.sequences import OtherSequence
from medrd.data.traits import (
    CELLS,
    TONES,
    ChannelTraits,
    ScanTraits,
    pack_cells,
    unpack_cells,
)

_SPACING_FACTOR, _VOLUME_FACTOR = 1.5, 1.4
"""Accepted factors beyond the training scans' range."""
_LARGEST_ML = 2300
"""More than a brain with its fluid fills, whatever the factor accepts: men's have 1469 ml with a
standard deviation of 102 (Matsumae et al. 1996), fifteen stripped BraTS and MS scans at most 1,553,
the built-in model's phantoms at most 2,160. In eight raw heads, 2,909 ml or more were not 0."""
_NEGATIVE_MARGIN = 5e-3
_FEW_LEVELS, _MANY_LEVELS = 20, 100
_TURNED_MARGIN = 0.02
"""Margin by which another orientation must fit better. On 12 BraTS scans, the right one was ahead
of all others by 0.05 to 0.08."""
_TONE_FLOOR, _TONE_LIMIT, _TONE_FACTOR = 0.05, 3.0, 1.5
_PATTERN_MARGIN = 0.25
_ENOUGH_SCANS = 4
"""Fewer scans do not show how much scans of one kind vary."""
_BRAIN = 0.5
"""Cells with a smaller share of brain are ignored in the pattern."""


@dataclass(frozen=True, eq=False)
class ChannelProfile:
    """One modality of the training scans.

    Attributes
    ----------
    negative_share, levels
        The highest share and the lowest number of levels.
    tone, tone_spread
        (13,) mean and standard deviation; see :class:`ChannelTraits`.
    tone_limit, pattern_limit
        Limits beyond which a scan differs: the largest distance from the tone, and the lowest
        correlation with the pattern. None if there were too few scans to tell.
    pattern
        (12, 12, 12) median over the scans.
    others
        Rules that recognise other sequences, for a model of simulated scans, which vary so much
        that other sequences are within the limits.
    """

    negative_share: float
    levels: int
    tone: NDArray[np.float32]
    tone_spread: NDArray[np.float32]
    tone_limit: float | None
    pattern: NDArray[np.float32]
    pattern_limit: float | None
    others: tuple[OtherSequence, ...] = ()


@dataclass(frozen=True, eq=False)
class Profile:
    """A summary of all training scans.

    Attributes
    ----------
    scans
        Number of scans.
    spacing_mm, brain_ml
        (3, 2) and (2,): lowest and highest values.
    occupancy
        (12, 12, 12) mean share of brain.
    named
        Whether the training files' names, or their position in MSD's files, confirmed the
        channels' names. In a plain folder a channel may have any name, so the name of a new file
        cannot be compared with it.
    """

    scans: int
    spacing_mm: NDArray[np.float32]
    brain_ml: NDArray[np.float32]
    occupancy: NDArray[np.float32]
    channels: Mapping[str, ChannelProfile]
    named: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON; the coarse pictures as base64 of bytes (value × 255)."""
        return {
            "scans": self.scans,
            "spacing_mm": self.spacing_mm.tolist(),
            "brain_ml": self.brain_ml.tolist(),
            "occupancy": pack_cells(self.occupancy),
            "named": self.named,
            "channels": {
                name: {
                    "negative_share": channel.negative_share,
                    "levels": channel.levels,
                    "tone": channel.tone.tolist(),
                    "tone_spread": channel.tone_spread.tolist(),
                    "tone_limit": channel.tone_limit,
                    "pattern": pack_cells(channel.pattern),
                    "pattern_limit": channel.pattern_limit,
                    "others": [other.to_dict() for other in channel.others],
                }
                for name, channel in self.channels.items()
            },
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Profile:
        """The inverse of :meth:`to_dict`, up to rounding.

        Raises
        ------
        KeyError, TypeError, ValueError
            The content does not come from :meth:`to_dict`.
        """
        channels = {
            name: ChannelProfile(
                negative_share=float(channel["negative_share"]),
                levels=int(channel["levels"]),
                tone=_vector(channel["tone"], (TONES,)),
                tone_spread=_vector(channel["tone_spread"], (TONES,)),
                tone_limit=channel["tone_limit"],
                pattern=unpack_cells(channel["pattern"]),
                pattern_limit=channel["pattern_limit"],
                others=tuple(map(OtherSequence.from_dict, channel.get("others", ()))),
            )
            for name, channel in content["channels"].items()
        }
        return cls(
            scans=int(content["scans"]),
            spacing_mm=_vector(content["spacing_mm"], (3, 2)),
            brain_ml=_vector(content["brain_ml"], (2,)),
            occupancy=unpack_cells(content["occupancy"]),
            channels=channels,
            named=bool(content.get("named", True)),  # older models lack it
        )


def make_profile(scans: Sequence[ScanTraits], *, named: bool = True) -> Profile:
    """Summarise one or more training scans with the same modalities."""
    spacings = np.array([scan.spacing_mm for scan in scans])
    volumes = np.array([scan.brain_ml for scan in scans], np.float32)
    occupancies = np.array([scan.occupancy for scan in scans])
    return Profile(
        scans=len(scans),
        spacing_mm=np.stack([spacings.min(0), spacings.max(0)], axis=1),
        brain_ml=np.array([volumes.min(), volumes.max()]),
        occupancy=occupancies.mean(0),
        channels={
            name: _channel([scan.channels[name] for scan in scans], occupancies)
            for name in scans[0].channels
        },
        named=named,
    )


def not_judged(profile: Profile) -> list[str]:
    """The checks that this profile does not allow for any scan, one sentence each."""
    said = []
    if any(channel.tone_limit is None for channel in profile.channels.values()):
        said.append(
            f"contrast: the profile has {profile.scans} scans; fewer than {_ENOUGH_SCANS} do not "
            "show how much scans vary"
        )
    if not profile.named:
        said.append("file names: those of the training scans do not tell their modality")
    return said


def unlike(scan: ScanTraits, profile: Profile) -> list[str]:
    """The ways in which a scan differs from the training scans, one sentence each."""
    found = _unlike_geometry(scan, profile)
    if found:
        found[-1] += " (its contrast was not judged)"
    for name, channel in scan.channels.items():
        texts = _unlike_values(channel, profile.channels[name])
        if contrast_counts(scan, profile, name):
            texts = _unlike_contrast(channel, profile.channels[name], scan, profile)
        found += [f"{name}: {text}" for text in texts]
    return found


def contrast_counts(scan: ScanTraits, profile: Profile, name: str) -> bool:
    """Whether a modality's contrast can be compared with the training scans'.

    It cannot if voxels, volume, orientation or the kind of values are unusual: large voxels mix
    tissues, and skin, or another orientation, puts other tissue in the places that are compared.
    """
    values = _unlike_values(scan.channels[name], profile.channels[name])
    return not (values or _unlike_geometry(scan, profile))


def _unlike_geometry(scan: ScanTraits, profile: Profile) -> list[str]:
    """What is unusual about voxels, volume and orientation, one sentence each."""
    found: list[str] = []
    low, high = profile.brain_ml
    most = high * _VOLUME_FACTOR
    if high <= _LARGEST_ML:
        most = min(most, _LARGEST_ML)
    large = scan.brain_ml > most
    if any(
        not least / _SPACING_FACTOR <= edge <= greatest * _SPACING_FACTOR
        for edge, (least, greatest) in zip(scan.spacing_mm, profile.spacing_mm, strict=True)
    ):
        x, y, z = scan.spacing_mm
        ranges = [_range(*edges) for edges in profile.spacing_mm]
        # A large scan has its own remedy below, and resampling is part of it.
        remedy = ": resample it, or if it is a raw head, use medrd predict --prepare"
        found.append(
            f"its voxels are {x:.3g} mm left-right, {y:.3g} mm front-back and {z:.3g} mm up-down, "
            f"those of the training scans {', '.join(ranges)} mm" + ("" if large else remedy)
        )
    if large:
        found.append(
            f"nonzero voxels fill {scan.brain_ml:.0f} ml, the training brains {_range(low, high)} "
            "ml: a head with its skull, or noise around the brain? For a raw head, use "
            "medrd predict --prepare"
        )
    elif scan.brain_ml < low / _VOLUME_FACTOR:
        found.append(
            f"nonzero voxels fill {scan.brain_ml:.0f} ml, the training brains {_range(low, high)} "
            "ml: part of the brain is missing, or the unit of length is not mm"
        )
    turn = _better_turn(scan.occupancy, profile.occupancy)
    if turn:
        found.append(
            f"its shape fits the training brains better {turn}: the header's orientation "
            "may be wrong"
        )
    return found


def _unlike_values(channel: ChannelTraits, known: ChannelProfile) -> list[str]:
    if channel.negative_share > known.negative_share + _NEGATIVE_MARGIN:
        return [
            f"{channel.negative_share:.1%} of its values are below 0, but at most "
            f"{known.negative_share:.1%} in the training scans: a CT (HU), or a scan normalised by "
            "another program?"
        ]
    if channel.levels < _FEW_LEVELS and known.levels > _MANY_LEVELS:
        return [f"it has only {channel.levels} different values in the brain: a label?"]
    return []


def _unlike_contrast(
    channel: ChannelTraits, known: ChannelProfile, scan: ScanTraits, profile: Profile
) -> list[str]:
    far = tone_distance(channel.tone, known.tone, known.tone_spread)
    if known.tone_limit is not None and far > known.tone_limit:
        figure, limit = _apart(far, known.tone_limit, decimals=1)
        return [
            f"its contrast is {figure} standard deviations from the training scans' (limit "
            f"{limit}): another sequence, or another normalisation?"
        ]
    near = pattern_likeness(channel.pattern, known.pattern, scan.occupancy, profile.occupancy)
    if known.pattern_limit is not None and near < known.pattern_limit:
        figure, limit = _apart(near, known.pattern_limit, decimals=2)
        return [
            f"its pattern of bright and dark correlates with the training scans by only {figure} "
            f"(at least {limit} is expected): another sequence?"
        ]
    return []


def _channel(channels: Sequence[ChannelTraits], occupancies: NDArray[np.float32]) -> ChannelProfile:
    tones = np.array([channel.tone for channel in channels])
    patterns = np.array([channel.pattern for channel in channels])
    tone_limit = pattern_limit = None
    if len(channels) >= _ENOUGH_SCANS:
        far, near = [], []
        for i in range(len(channels)):
            others = [j for j in range(len(channels)) if j != i]
            far.append(tone_distance(tones[i], tones[others].mean(0), _spread(tones[others])))
            median = np.median(patterns[others], axis=0)
            near.append(
                pattern_likeness(patterns[i], median, occupancies[i], occupancies[others].mean(0))
            )
        tone_limit = max(_TONE_LIMIT, _TONE_FACTOR * max(far))
        pattern_limit = min(near) - _PATTERN_MARGIN
    return ChannelProfile(
        negative_share=max(channel.negative_share for channel in channels),
        levels=min(channel.levels for channel in channels),
        tone=tones.mean(0),
        tone_spread=_spread(tones),
        tone_limit=tone_limit,
        pattern=np.median(patterns, axis=0),
        pattern_limit=pattern_limit,
    )


def _spread(tones: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation, with a floor so that a few similar scans do not rule out all others."""
    variance = tones.var(0, ddof=1) if len(tones) > 1 else np.zeros(tones.shape[1])
    spread: NDArray[np.float32] = np.sqrt(variance + _TONE_FLOOR**2).astype(np.float32)
    return spread


def tone_distance(
    tone: NDArray[np.float32], mean: NDArray[np.float32], spread: NDArray[np.float32]
) -> float:
    return float(np.sqrt(np.mean(((tone - mean) / spread) ** 2)))


def pattern_likeness(
    pattern: NDArray[np.float32],
    known: NDArray[np.float32],
    occupancy: NDArray[np.float32],
    known_occupancy: NDArray[np.float32],
) -> float:
    """Spearman's correlation over the cells of the hemisphere that fits better.

    A large lesion spoils the fit of its own hemisphere only.
    """
    brain = (occupancy > _BRAIN) & (known_occupancy > _BRAIN)
    best = -1.0
    for half in (slice(0, CELLS // 2), slice(CELLS // 2, CELLS)):
        here = brain[half]
        if np.count_nonzero(here) > CELLS:
            best = max(best, _correlation(*(_ranks(p[half][here]) for p in (pattern, known))))
    return best


def _ranks(values: NDArray) -> NDArray[np.float64]:
    """Rank 1 for the lowest; ties share their mean. Importing scipy.stats would take longer."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


def _better_turn(occupancy: NDArray[np.float32], known: NDArray[np.float32]) -> str:
    """The orientation, in words, in which the brain fits clearly better; "" if there is none.

    Left and right are too similar to be told apart.
    """
    own = _correlation(occupancy, known)
    best, words = own + _TURNED_MARGIN, ""
    for axes in itertools.permutations(range(3)):
        for back, down in itertools.product((1, -1), repeat=2):
            turned = occupancy.transpose(axes)[:, ::back, ::down]
            fit = _correlation(turned, known)
            if fit > best:
                best, words = fit, _turn_words(axes, back=back < 0, down=down < 0)
    return words


def _turn_words(axes: tuple[int, ...], *, back: bool, down: bool) -> str:
    if axes != (0, 1, 2):
        return "with its axes exchanged"
    if back and down:
        return "turned by 180 degrees (upside down and back to front)"
    return "upside down" if down else "back to front"


def _correlation(first: NDArray, second: NDArray) -> float:
    a, b = (x.ravel() - x.mean() for x in (first, second))
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms > 0 else 0.0


def _apart(first: float, second: float, *, decimals: int) -> tuple[str, str]:
    """Two different numbers, with enough decimals to show that they differ."""
    while True:
        texts = f"{first:.{decimals}f}", f"{second:.{decimals}f}"
        if texts[0] != texts[1] or decimals > 9:
            return texts
        decimals += 1


def _range(low: float, high: float) -> str:
    first, last = f"{low:.4g}", f"{high:.4g}"
    return first if first == last else f"{first} to {last}"


def _vector(values: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    array = np.asarray(values, np.float32)
    if array.shape != shape:
        raise ValueError(f"an array of shape {array.shape} in a profile instead of {shape}")
    return array
