"""Ranks of models, agreement of rankings, and p-values corrected for multiple tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


def average_ranks(values: Sequence[float | None]) -> list[float | None]:
    """Rank 1 for the highest; ties share the mean of their ranks; None and NaN have no rank."""
    ranks = stats.rankdata(-np.array(values, np.float64), nan_policy="omit")
    return [None if math.isnan(rank) else float(rank) for rank in ranks]


def kendall_tau_b(a: Sequence[float | None], b: Sequence[float | None]) -> float | None:
    """Kendall's tau-b over the positions where both values are defined, in [-1, 1].

    None if there are fewer than two such positions, or one side is all ties.
    """
    return _correlation(stats.kendalltau, a, b)


def spearman(a: Sequence[float | None], b: Sequence[float | None]) -> float | None:
    """Spearman's rho, under the same rules as :func:`kendall_tau_b`."""
    return _correlation(stats.spearmanr, a, b)


class Agreement(NamedTuple):
    """Agreement between two groups of rankings; correlations are None if not defined."""

    models: list[str]
    kendall_tau_b: float | None
    spearman: float | None


def rank_agreement(
    a: Sequence[Mapping[str, float | None]], b: Sequence[Mapping[str, float | None]]
) -> Agreement:
    """Compare two domains, each with one or more tables of model -> value (higher is better).

    Only models with a value in every table are ranked. If a domain has several tables, the mean
    rank over them counts. With fewer than three models the correlations are None, as two models
    always agree or disagree completely.
    """
    tables = [*a, *b]
    models = [m for m in tables[0] if all(_defined(table.get(m)) for table in tables)]
    sides = [_mean_ranks([[table[m] for m in models] for table in side]) for side in (a, b)]
    if len(models) < 3:
        return Agreement(models, None, None)
    return Agreement(models, kendall_tau_b(*sides), spearman(*sides))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order (Scand J Stat 6:65-70, 1979).

    The procedure controls the family-wise error rate under any dependence.
    """
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for step, i in enumerate(sorted(range(count), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (count - step) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _mean_ranks(rows: Sequence[Sequence[float | None]]) -> list[float]:
    """The mean rank of each column over rows without missing values."""
    ranks = np.array([average_ranks(row) for row in rows], dtype=np.float64)
    return [float(rank) for rank in ranks.mean(axis=0)]


def _defined(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _correlation(
    statistic: Callable[..., tuple[float, float]],
    a: Sequence[float | None],
    b: Sequence[float | None],
) -> float | None:
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if _defined(x) and _defined(y)]
    # If one side is all ties, scipy would warn and give NaN.
    if len(pairs) < 2 or any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
        return None
    value, _ = statistic(*zip(*pairs, strict=True))
    return float(value)
