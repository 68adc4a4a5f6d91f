"""The results of a comparison: its cells (model × data set × category × seed), means and ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean, stdev

from medrd.metrics.columns import HEADLINES
from medrd.metrics.ranks import Agreement, average_ranks, holm, rank_agreement

FACTS = {
    # heading, factor, decimals
    "training_seconds": ("training, s", 1.0, 0),
    "images_per_s": ("images/s", 1.0, 1),
    "parameters": ("parameters, M", 1e-6, 1),
    "trained_parameters": ("trained, M", 1e-6, 1),
    "model_mib": ("model, MiB", 1.0, 1),
    "test_units": ("test units", 1.0, 0),
    "inputs_left_out": ("damaged, not trained on", 1.0, 0),
}


@dataclass(frozen=True)
class CellResult:
    """One model trained and tested once.

    Attributes
    ----------
    domain
        Free text from the config, for example "brain" or "industrial".
    category
        For example "tire"; None if the data set has no categories.
    metrics
        Flat keys as in ``metrics.json``; an undefined metric is None. None if the cell failed.
    complete
        False if some test inputs failed; no number includes them.
    error
        One line.
    facts
        Values by the keys of :data:`FACTS`; unknown ones are left out.
    bounds
        For each metric that was not computed exactly, the limits of its exact value.
    """

    model: str
    data_set: str
    domain: str
    category: str | None
    seed: int
    metrics: Mapping[str, float | None] | None
    complete: bool = True
    error: str | None = None
    facts: Mapping[str, float | int | None] = field(default_factory=dict)
    bounds: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def status(self) -> str:
        if self.metrics is None:
            return "failed"
        return "done" if self.complete else "incomplete"

    def value(self, metric: str) -> float | None:
        """The metric's value, or None if it is missing or not finite."""
        return finite((self.metrics or {}).get(metric))


@dataclass(frozen=True)
class Interval:
    """A 95 % bootstrap interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Model a minus model b, paired over subjects or pictures, of which there are ``units``."""

    data_set: str
    metric: str
    model_a: str
    model_b: str
    units: int
    mean: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """The results of all cells; models and data sets keep the order in which cells name them.

    Attributes
    ----------
    note
        A remark for the top of the results.
    intervals
        (model, data set) -> metric -> interval over subjects or pictures of the mean over seeds.

    Raises
    ------
    ValueError
        A cell is given twice, or a data set has two domains, or cells with and without category.
    """

    name: str
    cells: Sequence[CellResult]
    intervals: Mapping[tuple[str, str], Mapping[str, Interval]] = field(default_factory=dict)
    differences: Sequence[Difference] = ()
    note: str = ""

    def __post_init__(self) -> None:
        keys = [(c.model, c.data_set, c.category, c.seed) for c in self.cells]
        if len(set(keys)) < len(keys):
            raise ValueError(f"cell given twice: {next(k for k in keys if keys.count(k) > 1)}")
        for name in self.data_sets:
            cells = [c for c in self.cells if c.data_set == name]
            if len({c.domain for c in cells}) > 1:
                raise ValueError(f"{name} is in two domains")
            if len({c.category is None for c in cells}) > 1:
                raise ValueError(f"{name} has cells with and without a category")

    @property
    def models(self) -> list[str]:
        return _unique(c.model for c in self.cells)

    @property
    def domains(self) -> list[str]:
        return _unique(c.domain for c in self.cells)

    @property
    def data_sets(self) -> list[str]:
        """All data sets, those of one domain next to each other."""
        return _unique(c.data_set for d in self.domains for c in self.cells if c.domain == d)

    def domain(self, data_set: str) -> str:
        return next(c.domain for c in self.cells if c.data_set == data_set)

    def categories(self, data_set: str) -> list[str]:
        """The data set's categories; empty if it has none."""
        named = (c.category for c in self.cells if c.data_set == data_set)
        return _unique(category for category in named if category is not None)


@dataclass(frozen=True)
class Aggregate:
    """One metric of one model on one data set, or on one of its categories, over seeds.

    Attributes
    ----------
    seeds
        Seed -> value. With categories, the value is their mean within the seed; a seed that
        lacks a category is left out, because a mean over fewer categories is not comparable.
    planned
        Number of seeds that were planned.
    failed
        True if there are cells but no seed is done.
    complete
        False if a cell behind ``seeds`` left out some of its test inputs.
    """

    seeds: Mapping[int, float]
    planned: int
    failed: bool
    complete: bool
    interval: Interval | None

    @property
    def mean(self) -> float | None:
        return fmean(self.seeds.values()) if self.seeds else None

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds."""
        return stdev(self.seeds.values()) if len(self.seeds) > 1 else None

    @property
    def shortfall(self) -> str | None:
        """For example "2 of 3 seeds"; None if no seed is missing."""
        done = len(self.seeds)
        return f"{done} of {self.planned} seeds" if done < self.planned else None


def aggregate(
    comparison: Comparison, model: str, data_set: str, metric: str, category: str | None = None
) -> Aggregate:
    """Aggregate a metric over seeds, for one category or (None) the whole data set."""
    own = [c for c in comparison.cells if (c.model, c.data_set) == (model, data_set)]
    expected = 1 if category is not None else max(1, len(comparison.categories(data_set)))
    cells = [c for c in own if category is None or c.category == category]
    seeds: dict[int, float] = {}
    done = False
    for seed in sorted({c.seed for c in own}):
        group = [c for c in cells if c.seed == seed and c.metrics is not None]
        values = [value for c in group if (value := c.value(metric)) is not None]
        done = done or len(group) == expected
        if len(values) == expected:
            seeds[seed] = math.fsum(values) / expected
    whole = category is None
    return Aggregate(
        seeds=seeds,
        planned=len({c.seed for c in own}),
        failed=bool(cells) and not done,
        complete=all(c.complete for c in cells if c.seed in seeds),
        interval=comparison.intervals.get((model, data_set), {}).get(metric) if whole else None,
    )


def ranks(comparison: Comparison, data_set: str, metric: str) -> dict[str, float | None]:
    """The models' ranks on one data set, 1 for the best; None for a model without a value."""
    means = _means(comparison, data_set, metric)
    return dict(zip(means, average_ranks(list(means.values())), strict=True))


def agreements(comparison: Comparison) -> Iterator[tuple[str, tuple[str, str], Agreement]]:
    """Yield how well two domains agree in ranking, for each headline metric and domain pair."""
    for metric in HEADLINES:
        for pair in combinations(comparison.domains, 2):
            a, b = (
                [
                    _means(comparison, data_set, metric)
                    for data_set in comparison.data_sets
                    if comparison.domain(data_set) == domain
                ]
                for domain in pair
            )
            yield metric, pair, rank_agreement(a, b)


def holm_p_values(comparison: Comparison) -> list[float]:
    """The p-values of all differences, corrected for their number (Holm)."""
    return holm([difference.p_value for difference in comparison.differences])


def finite(value: float | None) -> float | None:
    """The value, or None if it is NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None


def _means(comparison: Comparison, data_set: str, metric: str) -> dict[str, float | None]:
    """Means rounded to the three decimals of the tables: equal printed values are tied ranks."""
    means = {m: aggregate(comparison, m, data_set, metric).mean for m in comparison.models}
    return {m: None if mean is None else round(mean, 3) for m, mean in means.items()}


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
