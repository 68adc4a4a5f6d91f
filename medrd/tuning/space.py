"""What a search varies: numbers in ranges and choices, each able to draw, to grid and to end.

A point is a value for each key. Points are drawn by their position alone, so that a longer
search begins with the points of a shorter one.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from medrd.config.section import Section

Point = dict[str, Any]
"""A value for each key of a space, such as ``{"model.lr": 0.001}``."""


class Uniform(Section):
    """A number between two, drawn evenly, or evenly in its logarithm."""

    kind: Literal["uniform", "log_uniform"]
    low: float
    high: float
    points: int = Field(3, ge=2)
    """Of a grid, both ends included."""
    unit: str = ""
    """For people: what the number counts (pixels, slices, …)."""

    @model_validator(mode="after")
    def _check(self) -> Uniform:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, not {self.low}, {self.high}")
        if self.kind == "log_uniform" and self.low <= 0:
            raise ValueError(f"log_uniform needs a low above 0, not {self.low}")
        return self

    def ends(self) -> list[float]:
        """What stands for all its values, where a config is tried before a search."""
        return [self.low, self.high]

    def at(self, share: float) -> float:
        """The number this far from low (0) to high (1)."""
        if share in (0, 1):  # the ends exactly, without the logarithm's rounding
            return self.high if share else self.low
        if self.kind == "log_uniform":
            return math.exp(math.log(self.low) * (1 - share) + math.log(self.high) * share)
        return self.low * (1 - share) + self.high * share

    def draw(self, numbers: random.Random) -> float:
        """One at random."""
        return self.at(numbers.random())

    def grid(self) -> list[float]:
        """``points`` of them, evenly spaced."""
        return [self.at(i / (self.points - 1)) for i in range(self.points)]


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
        """What stands for all its values, where a config is tried before a search."""
        return [self.low, self.high]

    def draw(self, numbers: random.Random) -> int:
        """One at random."""
        return numbers.choice(self.grid())

    def grid(self) -> list[int]:
        """All of them."""
        return list(range(self.low, self.high + 1, self.step))


class Choice(Section):
    """One of a list; entries may be lists or whole sections of a config."""

    kind: Literal["choice"]
    values: tuple[Any, ...] = Field(min_length=1)
    unit: str = ""

    def ends(self) -> list[Any]:
        """All of them: none stands for another."""
        return list(self.values)

    def draw(self, numbers: random.Random) -> Any:
        """One at random."""
        return numbers.choice(self.values)

    def grid(self) -> list[Any]:
        """All of them."""
        return list(self.values)


Dimension = Annotated[Uniform | Integer | Choice, Field(discriminator="kind")]
Space = Mapping[str, Dimension]


def draw_point(space: Space, *, seed: int, position: int) -> Point:
    """The point at a position of the endless random sequence of a seed."""
    # One generator a key: a key that is added to a space leaves the others' values.
    return {
        key: dimension.draw(random.Random(f"{seed}:{position}:{key}"))
        for key, dimension in space.items()
    }


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
