"""What a search varies: ranges of numbers, and choices.

A point holds a value for each key of a space. The same dimensions give the points of a grid, the
distributions that Optuna draws from, and the ends that a config is tried at before a search.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from medrd.config.section import Section

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
    """How many values a grid has, both ends included."""
    unit: str = ""
    """What the number counts (pixels, slices, …), for people to read."""

    @model_validator(mode="after")
    def _check(self) -> Uniform:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, not {self.low}, {self.high}")
        if self.kind == "log_uniform" and self.low <= 0:
            raise ValueError(f"log_uniform needs a low above 0, not {self.low}")
        return self

    def ends(self) -> list[float]:
        """The values that stand for all others when a config is tried before a search."""
        return [self.low, self.high]

    def at(self, share: float) -> float:
        """The number that lies this far from low (0) to high (1)."""
        if share in (0, 1):  # the ends exactly, without the logarithm's rounding
            return self.high if share else self.low
        if self.kind == "log_uniform":
            return math.exp(math.log(self.low) * (1 - share) + math.log(self.high) * share)
        return self.low * (1 - share) + self.high * share

    def grid(self) -> list[float]:
        """``points`` values, evenly spaced."""
        return [self.at(i / (self.points - 1)) for i in range(self.points)]

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
            raise ValueError(f"from {self.low} no steps of {self.step} lead to {self.high}")
        return self

    def ends(self) -> list[int]:
        """The values that stand for all others when a config is tried before a search."""
        return [self.low, self.high]

    def grid(self) -> list[int]:
        """All values."""
        return list(range(self.low, self.high + 1, self.step))

    def distribution(self) -> BaseDistribution:
        """The distribution that Optuna draws from."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, step=self.step)


class Choice(Section):
    """One value of a list; values may be lists or whole sections of a config."""

    kind: Literal["choice"]
    values: tuple[Any, ...] = Field(min_length=1)
    unit: str = ""

    def ends(self) -> list[Any]:
        """All values, because none stands for another."""
        return list(self.values)

    def grid(self) -> list[Any]:
        """All values."""
        return list(self.values)

    def distribution(self) -> BaseDistribution:
        """The distribution that Optuna draws from."""
        from optuna.distributions import CategoricalDistribution

        with warnings.catch_warnings():
            # Lists and sections could not be kept in Optuna's databases; a search uses none.
            warnings.filterwarnings("ignore", "Choices for a categorical distribution")
            return CategoricalDistribution(self.values)


Dimension = Annotated[Uniform | Integer | Choice, Field(discriminator="kind")]
Space = Mapping[str, Dimension]


def grid_points(space: Space) -> list[Point]:
    """All combinations of the dimensions' grids; the last key varies fastest."""
    grids = (dimension.grid() for dimension in space.values())
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*grids)]


def corner_points(space: Space) -> Iterable[tuple[str, Point]]:
    """Every end of every dimension beside the first ends of the others, with its key."""
    first = {key: dimension.ends()[0] for key, dimension in space.items()}
    for key, dimension in space.items():
        for value in dimension.ends():
            yield key, first | {key: value}
