"""Models against models: ranks, how far two rankings agree, p-values corrected for their number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


def average_ranks(
    values: Sequence[float | None], *, higher_is_better: bool = True
) -> list[float | None]:
    """Rank 1 for the best; ties share the mean of their ranks; None and NaN have no rank."""
    known = [i for i, value in enumerate(values) if _known(value)]
    signed = np.array([values[i] for i in known], dtype=np.float64)
    ranks: list[float | None] = [None] * len(values)
    for i, rank in zip(known, stats.rankdata(-signed if higher_is_better else signed), strict=True):
        ranks[i] = float(rank)
    return ranks


def kendall_tau_b(a: Sequence[float | None], b: Sequence[float | None]) -> float | None:
    """Kendall's tau-b over the places where both are known, in [-1, 1].

    None if there are fewer than two such places or one side is all ties.
    """
    return _correlation(stats.kendalltau, a, b)


def spearman(a: Sequence[float | None], b: Sequence[float | None]) -> float | None:
    """Spearman's rho, under the same rules as :func:`kendall_tau_b`."""
    return _correlation(stats.spearmanr, a, b)


class Agreement(NamedTuple):
    """How far two groups of rankings agree; numbers are None where they would say nothing."""

    models: list[str]
    kendall_tau_b: float | None
    spearman: float | None


def rank_agreement(
    a: Sequence[Mapping[str, float | None]],
    b: Sequence[Mapping[str, float | None]],
    *,
    judged_from: int = 3,
) -> Agreement:
    """Compare two domains, each with one or more tables of model -> value (higher is better).

    Models without a value in some table are left aside, and the others ranked anew among
    themselves. Of several tables of one domain the mean rank counts. Below ``judged_from``
    models no number is given: two models always agree or disagree wholly.
    """
    tables = [*a, *b]
    models = [m for m in tables[0] if all(_known(table.get(m)) for table in tables)]
    sides = [_mean_ranks([[table[m] for m in models] for table in side]) for side in (a, b)]
    if len(models) < judged_from:
        return Agreement(models, None, None)
    return Agreement(models, kendall_tau_b(*sides), spearman(*sides))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order (Scand J Stat 6:65-70, 1979).

    Controls the chance of any false claim among all of them, however they depend on each other.
    """
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for step, i in enumerate(sorted(range(count), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (count - step) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _mean_ranks(rows: Sequence[Sequence[float | None]]) -> list[float]:
    """Columns' mean rank over rows in which every value is known."""
    ranks = np.array([average_ranks(row) for row in rows], dtype=np.float64)
    return [float(rank) for rank in ranks.mean(axis=0)]


def _known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _correlation(
    statistic: Callable[..., tuple[float, float]],
    a: Sequence[float | None],
    b: Sequence[float | None],
) -> float | None:
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if _known(x) and _known(y)]
    # One side all ties: nothing to correlate, and scipy would warn and give NaN.
    if len(pairs) < 2 or any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
        return None
    value, _ = statistic(*zip(*pairs, strict=True))
    return float(value)
