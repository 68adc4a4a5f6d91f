"""Confidence intervals by drawing subjects (or pictures) anew, never pixels.

Pixels of one scan are anything but independent, so an interval over pixels would be absurdly
narrow. Here the unit is what was sampled: a subject, or a picture of MVTec. Several seeds of a
model judged on the same pictures are not more pictures, so a draw is made once and used for
every seed (a cluster bootstrap; Davison and Hinkley 1997, section 3.8; Efron and Tibshirani
1993, chapter 13 for the percentile interval).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from medrd.metrics.counts import MAX_FPR
from medrd.metrics.names import RESAMPLED
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
        Its percentile interval.
    p_value
        Two-sided, of no difference: the level at which the expanded percentile interval (see
        :func:`percentile_interval`) just touches 0. At least ``1 / (resamples + 1)``, and at least
        ``2 ** (1 - units)``: what a sign test gives where all of so many units agree. With
        three subjects nothing is significant, however seldom a resample disagrees.
    """

    mean: float
    low: float
    high: float
    p_value: float


def bootstrap(
    groups: Sequence[Units], *, resamples: int = 1000, seed: int = 0, max_fpr: float = MAX_FPR
) -> dict[str, Samples]:
    """Metrics on units drawn anew.

    A resample draws as many ids as there are, with replacement, from the union over all groups;
    an id is drawn equally often for every group that has it. Units with an anomaly (in any
    group) and those without are drawn apart, so that both classes keep their size and neither
    is ever empty: the interval is for this proportion of anomalous units.

    Parameters
    ----------
    groups
        One for each seed (or fold).
    resamples, seed
        How many resamples, and the generator's seed.

    Returns
    -------
    dict
        ``(resamples,)`` for each of :data:`medrd.metrics.names.RESAMPLED`: the mean over the
        groups in which the metric is defined, NaN where it is in none.

    Raises
    ------
    ValueError
        No groups, no units in any, or fewer than one resample.
    """
    draws = _Draws.make(groups, resamples, seed)
    return _group_mean([weighted_metrics(g, draws.of(g), max_fpr=max_fpr) for g in groups])


def percentile_interval(
    samples: Samples, level: float = 0.95, *, units: int | None = None
) -> tuple[float, float]:
    """The middle ``level`` of the samples; those that are NaN are left out.

    With ``units`` it is the expanded percentile interval, wider for small samples: a bootstrap
    of few units is too narrow by the factor of a variance divided by n instead of n - 1, and by
    that of the normal against Student's distribution (Hesterberg, "What teachers should know
    about the bootstrap", The American Statistician 2015). It cannot reach beyond the samples.

    Parameters
    ----------
    units
        How many subjects or pictures were drawn from; None for the plain interval.

    Returns
    -------
    low, high
        NaN if no sample is left.

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
    """Different subjects or pictures; several seeds on the same ones are not more of them."""
    return len({name for group in groups for name in group.ids})


def bootstrap_intervals(
    groups: Sequence[Units], *, resamples: int = 1000, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Expanded percentile intervals of the metrics that are defined; see :func:`bootstrap`."""
    samples, units = bootstrap(groups, resamples=resamples), count_units(groups)
    found = {name: percentile_interval(s, level, units=units) for name, s in samples.items()}
    return {name: pair for name, pair in found.items() if not math.isnan(pair[0])}


def paired_differences(
    a: Sequence[Units],
    b: Sequence[Units],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    max_fpr: float = MAX_FPR,
) -> dict[str, PairedDifference]:
    """Compare two models on the same units: ``a`` minus ``b``, every draw used for both.

    Parameters
    ----------
    a, b
        One group for each seed, matched in order.

    Returns
    -------
    dict
        For each of :data:`medrd.metrics.names.RESAMPLED`. A pair of groups counts where the
        metric is defined in both.

    Raises
    ------
    ValueError
        As :func:`bootstrap`; different numbers of groups, or matched groups whose ids differ.
    """
    if len(a) != len(b):
        msg = f"both models need the same number of groups, got {len(a)} and {len(b)}"
        raise ValueError(msg)
    for index, (first, second) in enumerate(zip(a, b, strict=True)):
        differing = set(first.ids) ^ set(second.ids)
        if differing:
            msg = f"groups {index} hold different units, {sorted(differing)[0]!r} in one only"
            raise ValueError(msg)
    draws = _Draws.make([*a, *b], resamples, seed)

    def differences(draw: _Draws) -> dict[str, Samples]:
        pairs = []
        for first, second in zip(a, b, strict=True):
            ours = weighted_metrics(first, draw.of(first), max_fpr=max_fpr)
            theirs = weighted_metrics(second, draw.of(second), max_fpr=max_fpr)
            pairs.append({name: ours[name] - theirs[name] for name in RESAMPLED})
        return _group_mean(pairs)

    observed, drawn = differences(draws.once()), differences(draws)
    return {
        name: PairedDifference(
            float(observed[name][0]),
            *percentile_interval(drawn[name], level, units=len(draws.columns)),
            p_value=_p_value(drawn[name], units=len(draws.columns)),
        )
        for name in RESAMPLED
    }


@dataclass(frozen=True, eq=False)
class _Draws:
    """``(B, ids)``: how often each id was drawn, whatever the group."""

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
        names = sorted(anomalous)  # so that the order of the groups makes no difference
        flags = np.array([anomalous[name] for name in names])
        counts = np.zeros((resamples, len(names)), dtype=np.int64)
        for flag in (True, False):
            (stratum,) = np.nonzero(flags == flag)
            if stratum.size:
                shares = np.full(stratum.size, 1 / stratum.size)
                counts[:, stratum] = rng.multinomial(stratum.size, shares, size=resamples)
        return cls({name: column for column, name in enumerate(names)}, counts)

    def of(self, group: Units) -> NDArray[np.int64]:
        """``(B, U)`` in the group's own order."""
        return self.counts[:, [self.columns[name] for name in group.ids]]

    def once(self) -> _Draws:
        """Every unit once: the data themselves."""
        return _Draws(self.columns, np.ones_like(self.counts[:1]))


def _anomalous(group: Units) -> NDArray[np.bool_]:
    """``(U,)``: units with an anomalous pixel or image."""
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
    """The tail of the resamples at which a sample of so many units has this one."""
    if units < 2:
        return 0.0
    return float(norm.cdf(student.ppf(tail, units - 1) * math.sqrt(units / (units - 1))))


def _p_value(differences: Samples, *, units: int) -> float:
    defined = differences[~np.isnan(differences)]
    if not defined.size:
        return math.nan
    tail = min(float((defined <= 0).mean()), float((defined >= 0).mean()))
    tail = min(max(tail, 1 / (defined.size + 1)), 0.5)
    if units < 2:
        return 1.0
    quantile = norm.ppf(tail) * math.sqrt((units - 1) / units)  # the inverse of _expanded
    p_value = 2 * float(student.cdf(quantile, units - 1))
    return min(max(p_value, 2.0 ** (1 - units)), 1.0)
