"""The space of a search: ranges of numbers, and choices.

A point has a value for each key of a space. The same dimensions give the points of a grid, the
distributions for Optuna, and the ends at which configs are validated before a search.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from medrd.models.section import Section

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Point = dict[str, Any]
"""A value for each key of a space, such as ``{"model.lr": 0.001}``."""


class Uniform(Section):
    """A number between two ends, drawn evenly, or evenly in its logarithm."""

    kind: Literal["uniform", "log_uniform"]
    low: float
    high: float
    points: int = Field(3, ge=2)
    """Number of values in a grid, including both ends."""
    unit: str = ""
    """Unit of the number (pixels, slices, …), for figures."""

    @model_validator(mode="after")
    def _check(self) -> Uniform:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, not {self.low}, {self.high}")
        if self.kind == "log_uniform" and self.low <= 0:
            raise ValueError(f"log_uniform needs a low above 0, not {self.low}")
        return self

    def ends(self) -> list[float]:
        """The values at which configs are validated before a search."""
        return [self.low, self.high]

    def at(self, share: float) -> float:
        """The number at this share of the way from low (0) to high (1)."""
        if share in (0, 1):  # the ends exactly, without the logarithm's rounding
            return self.high if share else self.low
        if self.kind == "log_uniform":
            return math.exp(math.log(self.low) * (1 - share) + math.log(self.high) * share)
        return self.low * (1 - share) + self.high * share

    def grid(self) -> list[float]:
        """``points`` values, evenly spaced."""
        return [self.at(i / (self.points - 1)) for i in range(self.points)]

    @property
    def count(self) -> int:
        """The number of values of :meth:`grid`."""
        return self.points

    def distribution(self) -> BaseDistribution:
        """The distribution that Optuna draws from."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.kind == "log_uniform")


class Integer(Section):
    """A whole number from ``low`` to ``high``, both included, in steps."""

    kind: Literal["integer"]
    low: int
    high: int
    step: int = Field(1, ge=1)
    unit: str = ""

    @model_validator(mode="after")
    def _check(self) -> Integer:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, not {self.low}, {self.high}")
        if (self.high - self.low) % self.step:
            raise ValueError(f"no steps of {self.step} lead from {self.low} to {self.high}")
        return self

    def ends(self) -> list[int]:
        """The values at which configs are validated before a search."""
        return [self.low, self.high]

    def grid(self) -> list[int]:
        """All values."""
        return list(range(self.low, self.high + 1, self.step))

    @property
    def count(self) -> int:
        """The number of values of :meth:`grid`."""
        return (self.high - self.low) // self.step + 1

    def distribution(self) -> BaseDistribution:
        """The distribution that Optuna draws from."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, step=self.step)


class Choice(Section):
    """One value of a list; values may be lists or whole sections of a config."""

    kind: Literal["choice"]
    values: tuple[Any, ...] = Field(min_length=1)
    unit: str = ""

    @model_validator(mode="after")
    def _check(self) -> Choice:
        if any(value in self.values[:index] for index, value in enumerate(self.values)):
            raise ValueError("values must differ")
        return self

    def ends(self) -> list[Any]:
        """All values, because each may make a config invalid."""
        return list(self.values)

    def grid(self) -> list[Any]:
        """All values."""
        return list(self.values)

    @property
    def count(self) -> int:
        """The number of values of :meth:`grid`."""
        return len(self.values)

    def distribution(self) -> BaseDistribution:
        """The distribution that Optuna draws from."""
        from optuna.distributions import CategoricalDistribution

        with warnings.catch_warnings():
            # Optuna's databases cannot store lists and sections, but a search uses no database.
            warnings.filterwarnings("ignore", "Choices for a categorical distribution")
            return CategoricalDistribution(self.values)


Dimension = Annotated[Uniform | Integer | Choice, Field(discriminator="kind")]
Space = Mapping[str, Dimension]


def grid_size(space: Space) -> int:
    """The number of :func:`grid_points`."""
    return math.prod(dimension.count for dimension in space.values())


def grid_points(space: Space) -> list[Point]:
    """All combinations of the dimensions' grids; the last key varies fastest."""
    grids = (dimension.grid() for dimension in space.values())
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*grids)]


def corner_points(space: Space) -> Iterable[tuple[str, Point]]:
    """Points with one dimension at one of its ends and the others at their first; with its key."""
    first = {key: dimension.ends()[0] for key, dimension in space.items()}
    for key, dimension in space.items():
        for value in dimension.ends():
            yield key, first | {key: value}
