"""Confidence intervals by resampling subjects (or pictures), never pixels.

The pixels of one scan depend on each other, so an interval over pixels would be far too narrow.
The unit is what was sampled: a subject, or a picture of MVTec. Testing several seeds of a model
on the same pictures does not give more pictures, so every seed uses the same draws (a cluster
bootstrap; Davison and Hinkley 1997, section 3.8; Efron and Tibshirani 1993, chapter 13 for the
percentile interval).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special  # scipy.stats takes much longer to import

from medrd.metrics.columns import RESAMPLED
from medrd.metrics.units import Units, weighted_metrics

Samples = NDArray[np.float64]


@dataclass(frozen=True)
class PairedDifference:
    """One model minus another on the same units; NaN throughout where undefined.

    Attributes
    ----------
    mean
        The observed difference, averaged over groups.
    low, high
        The difference's percentile interval.
    p_value
        Two-sided p-value for no difference: the level at which the expanded percentile interval
        (see :func:`percentile_interval`) just touches 0. It is at least ``1 / (resamples + 1)``,
        and at least ``2 ** (1 - units)``, the p-value of a sign test if all units agree: with
        three subjects nothing is significant.
    """

    mean: float
    low: float
    high: float
    p_value: float


def bootstrap(groups: Sequence[Units], *, resamples: int, seed: int = 0) -> dict[str, Samples]:
    """Compute metrics on resampled units.

    A resample draws as many ids as there are, with replacement, from the union over all groups;
    an id is drawn equally often for every group that has it. Units with an anomaly (in any
    group) and those without are drawn separately, so that both classes keep their size and
    neither is ever empty: the interval is for this proportion of anomalous units.

    Parameters
    ----------
    groups
        One group for each seed (or fold).
    resamples, seed
        Number of resamples, and the generator's seed.

    Returns
    -------
    dict
        ``(resamples,)`` for each of :data:`medrd.metrics.columns.RESAMPLED`: the mean over the
        groups in which the metric is defined, NaN if it is defined in none.

    Raises
    ------
    ValueError
        There are no units, or fewer than one resample.
    """
    draws = _Draws.make(groups, resamples, seed)
    return _group_mean([weighted_metrics(g, draws.of(g)) for g in groups])


def percentile_interval(
    samples: Samples, level: float = 0.95, *, units: int | None = None
) -> tuple[float, float]:
    """The interval of the middle ``level`` of the samples, ignoring NaN.

    With ``units`` it is the expanded percentile interval, which is wider for small samples: a
    bootstrap of few units is too narrow, because its variance is divided by n instead of n - 1
    and because it follows the normal instead of Student's distribution (Hesterberg, "What teachers
    should know about the bootstrap", The American Statistician 2015). It cannot reach beyond the
    samples.

    Parameters
    ----------
    units
        Number of subjects or pictures that were resampled; None for the plain interval.

    Returns
    -------
    low, high
        NaN if all samples are NaN.

    Raises
    ------
    ValueError
        ``level`` outside (0, 1).
    """
    if not 0 < level < 1:
        msg = f"level must be in (0, 1), got {level}"
        raise ValueError(msg)
    defined = samples[~np.isnan(samples)]
    if not defined.size:
        return math.nan, math.nan
    tail = (1 - level) / 2
    if units is not None:
        tail = _expanded(tail, units)
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def count_units(groups: Sequence[Units]) -> int:
    """Number of different subjects or pictures in all groups."""
    return len({name for group in groups for name in group.ids})


def bootstrap_intervals(
    groups: Sequence[Units], *, resamples: int
) -> dict[str, tuple[float, float]]:
    """Expanded percentile intervals of the metrics that are defined; see :func:`bootstrap`."""
    samples, units = bootstrap(groups, resamples=resamples), count_units(groups)
    intervals = {name: percentile_interval(s, units=units) for name, s in samples.items()}
    return {name: pair for name, pair in intervals.items() if not math.isnan(pair[0])}


def paired_differences(
    a: Sequence[Units],
    b: Sequence[Units],
    *,
    resamples: int,
    seed: int = 0,
) -> dict[str, PairedDifference]:
    """Compare two models on the same units: ``a`` minus ``b``, with the same draws for both.

    Parameters
    ----------
    a, b
        One group for each seed, in the same order.

    Returns
    -------
    dict
        A difference for each of :data:`medrd.metrics.columns.RESAMPLED`, over the pairs of groups
        in which both models have the metric.

    Raises
    ------
    ValueError
        As for :func:`bootstrap`; or the numbers of groups differ, or the ids of a pair of groups.
    """
    if len(a) != len(b):
        msg = f"both models need the same number of groups, got {len(a)} and {len(b)}"
        raise ValueError(msg)
    for index, (first, second) in enumerate(zip(a, b, strict=True)):
        differing = set(first.ids) ^ set(second.ids)
        if differing:
            msg = f"groups {index} have different units: {sorted(differing)[0]!r} is in one only"
            raise ValueError(msg)
    draws = _Draws.make([*a, *b], resamples, seed)

    def differences(draw: _Draws) -> dict[str, Samples]:
        pairs = []
        for first, second in zip(a, b, strict=True):
            ours = weighted_metrics(first, draw.of(first))
            theirs = weighted_metrics(second, draw.of(second))
            pairs.append({name: ours[name] - theirs[name] for name in RESAMPLED})
        return _group_mean(pairs)

    observed, drawn = differences(draws.once()), differences(draws)
    return {
        name: PairedDifference(
            float(observed[name][0]),
            *percentile_interval(drawn[name], units=len(draws.columns)),
            p_value=_p_value(drawn[name], units=len(draws.columns)),
        )
        for name in RESAMPLED
    }


@dataclass(frozen=True, eq=False)
class _Draws:
    """``(B, ids)`` counts of how often each id was drawn, the same for all groups."""

    columns: dict[str, int]
    counts: NDArray[np.int64]

    @classmethod
    def make(cls, groups: Sequence[Units], resamples: int, seed: int) -> _Draws:
        anomalous = {name: False for group in groups for name in group.ids}
        for group in groups:
            for name, flag in zip(group.ids, _anomalous(group), strict=True):
                anomalous[name] |= bool(flag)
        if not anomalous:
            msg = "a bootstrap needs units, got none"
            raise ValueError(msg)
        if resamples < 1:
            msg = f"resamples must be at least 1, got {resamples}"
            raise ValueError(msg)
        rng = np.random.default_rng(seed)
        names = sorted(anomalous)  # independent of the order of groups
        flags = np.array([anomalous[name] for name in names])
        counts = np.zeros((resamples, len(names)), dtype=np.int64)
        for flag in (True, False):
            (stratum,) = np.nonzero(flags == flag)
            if stratum.size:
                shares = np.full(stratum.size, 1 / stratum.size)
                counts[:, stratum] = rng.multinomial(stratum.size, shares, size=resamples)
        return cls({name: column for column, name in enumerate(names)}, counts)

    def of(self, group: Units) -> NDArray[np.int64]:
        """The counts ``(B, U)`` of a group's units, in their order."""
        return self.counts[:, [self.columns[name] for name in group.ids]]

    def once(self) -> _Draws:
        """One draw that has every unit once: the data set itself."""
        return _Draws(self.columns, np.ones_like(self.counts[:1]))


def _anomalous(group: Units) -> NDArray[np.bool_]:
    """``(U,)`` bool: units that have an anomalous pixel or image."""
    flags: NDArray[np.bool_] = group.positives.sum(axis=1) > 0
    flags[group.image_units[group.image_labels]] = True
    return flags


def _group_mean(groups: Sequence[dict[str, Samples]]) -> dict[str, Samples]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a mean of NaN alone is NaN
        return {
            name: np.nanmean(np.stack([group[name] for group in groups]), axis=0)
            for name in RESAMPLED
        }


def _expanded(tail: float, units: int) -> float:
    """The tail of the resamples that corresponds to ``tail`` for a sample of ``units``."""
    if units < 2:
        return 0.0
    return float(special.ndtr(special.stdtrit(units - 1, tail) * math.sqrt(units / (units - 1))))


def _p_value(differences: Samples, *, units: int) -> float:
    defined = differences[~np.isnan(differences)]
    if not defined.size:
        return math.nan
    tail = min(float((defined <= 0).mean()), float((defined >= 0).mean()))
    tail = min(max(tail, 1 / (defined.size + 1)), 0.5)
    if units < 2:
        return 1.0
    quantile = special.ndtri(tail) * math.sqrt((units - 1) / units)  # the inverse of _expanded
    p_value = 2 * float(special.stdtr(units - 1, quantile))
    return min(max(p_value, 2.0 ** (1 - units)), 1.0)
