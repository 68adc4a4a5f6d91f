"""A space in optuna's terms. Choices go by their position: they may be lists or sections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medrd.config.space import Choice, Point, Space, Uniform

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """What optuna draws each key's value, or of a choice its position, from."""
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
            found[key] = CategoricalDistribution(range(len(dimension.values)))
        else:
            found[key] = IntDistribution(dimension.low, dimension.high, step=dimension.step)
    return found


def encode(space: Space, point: Point) -> dict[str, Any]:
    """A point in optuna's terms."""
    return {
        key: dimension.values.index(point[key]) if isinstance(dimension, Choice) else point[key]
        for key, dimension in space.items()
    }


def decode(space: Space, encoded: dict[str, Any]) -> Point:
    """The inverse of :func:`encode`."""
    return {
        key: dimension.values[encoded[key]] if isinstance(dimension, Choice) else encoded[key]
        for key, dimension in space.items()
    }
