"""Which trials a search still has to run, given those that its folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from medrd.tuning.config import TuneConfig
from medrd.tuning.space import Point, draw_point, grid_points
from medrd.tuning.trials import Trial


class Plan(NamedTuple):
    """What is still to be run: how many trials, and those of them that are known in advance."""

    trials: int
    points: list[Point]


def what_is_left(config: TuneConfig, before: Sequence[Trial]) -> Plan:
    """The plan of a search, given the trials there are; those that were cut off come first."""
    open_points = [trial.point for trial in before if trial.status == "unfinished"]
    done = [trial.point for trial in before if trial.status != "unfinished"]
    if config.search.algorithm == "optuna":
        return Plan(trials=config.search.samples - len(done), points=open_points)
    grid = config.search.algorithm == "grid"
    all_points = grid_points(config.space) if grid else _random_points(config)
    points = [point for point in all_points if point not in done]
    return Plan(trials=len(points), points=points)


def _random_points(config: TuneConfig) -> list[Point]:
    """As many different ones as there are to be trials, or fewer where there are no more."""
    points: list[Point] = []
    for position in range(100 * config.search.samples):
        point = draw_point(config.space, seed=config.search.seed, position=position)
        if point not in points:
            points.append(point)
        if len(points) == config.search.samples:
            break
    return points
