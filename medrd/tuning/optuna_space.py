"""A space in optuna's terms. It takes plain values alone: lists and sections go by position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medrd.tuning.space import Choice, Point, Space, Uniform

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """What optuna draws each key's value, or of lists and sections the position, from."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    found: dict[str, BaseDistribution] = {}
    for key, dimension in space.items():
        if isinstance(dimension, Uniform):
            log = dimension.kind == "log_uniform"
            found[key] = FloatDistribution(dimension.low, dimension.high, log=log)
        elif isinstance(dimension, Choice):
            places = range(len(dimension.values))
            found[key] = CategoricalDistribution(dimension.values if _plain(dimension) else places)
        else:
            found[key] = IntDistribution(dimension.low, dimension.high, step=dimension.step)
    return found


def encode(space: Space, point: Point) -> dict[str, Any]:
    """A point in optuna's terms."""
    return {
        key: dimension.values.index(point[key])
        if isinstance(dimension, Choice) and not _plain(dimension)
        else point[key]
        for key, dimension in space.items()
    }


def decode(space: Space, encoded: dict[str, Any]) -> Point:
    """The inverse of :func:`encode`."""
    return {
        key: dimension.values[encoded[key]]
        if isinstance(dimension, Choice) and not _plain(dimension)
        else encoded[key]
        for key, dimension in space.items()
    }


def _plain(dimension: Choice) -> bool:
    return all(isinstance(value, str | int | float | None) for value in dimension.values)
