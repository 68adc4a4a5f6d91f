"""The config of a hyperparameter search: its space, objective, stopping rule and resources.

Mistakes in the file are reported here, before Ray or torch is imported.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from medrd.config.difference import first_difference
from medrd.config.load import (
    apply_overrides,
    make_config,
    parse_override,
    read_yaml,
    set_key,
)
from medrd.config.mistakes import config_mistake
from medrd.config.sections import Config
from medrd.config.yaml_text import format_yaml
from medrd.errors import ConfigError
from medrd.models.section import Section, Text
from medrd.models.settings import SimulationConfig
from medrd.tuning.space import Dimension, Point, corner_points, grid_size

SAMPLES = 16
"""Default number of trials."""

_MOST_POINTS = 100_000
_EXAMPLE = "See configs/tune/rd4ad.yaml for an example."


class SimulatedObjective(Section):
    """Average precision on anomalies simulated in held-out healthy slices; needs no label."""

    scores: ClassVar[str] = "single slices, pixel by pixel and without a threshold"
    ignores: ClassVar[dict[str, Any]] = {
        "scoring": {"image_score", "top_fraction", "sigma_across_mm"},
        "calibration": True,
    }
    """The parts of a trial's config that do not affect this objective."""

    kind: Literal["simulated"] = "simulated"
    simulation: SimulationConfig = SimulationConfig()
    copies: int = Field(2, ge=1)
    """Number of times that each held-out slice is used, each time with another anomaly."""
    max_slices: int = Field(128, ge=1)
    """The number of slices, evenly chosen from those of all held-out subjects together."""
    seed: int = Field(0, ge=0)
    """Seed of the anomalies, which are the same for all trials."""


class LabelledObjective(Section):
    """Average precision on validation subjects with labels, as ``medrd evaluate`` computes it."""

    scores: ClassVar[str] = "whole scans, voxel by voxel and without a threshold"
    ignores: ClassVar[dict[str, Any]] = {
        "scoring": {"image_score", "top_fraction"},
        "calibration": True,
    }

    kind: Literal["labelled"]
    validation: tuple[Text, ...] = Field(min_length=1)
    """Subject ids. They are taken out of training and calibration; none may be a test subject."""


AnyObjective = Annotated[SimulatedObjective | LabelledObjective, Field(discriminator="kind")]


class SearchConfig(Section):
    """The algorithm that chooses trials, and the number of trials."""

    algorithm: Literal["optuna", "random", "grid"] = "optuna"
    """``optuna``: tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011)."""
    seed: int = Field(0, ge=0)
    samples: int | None = Field(None, ge=1)
    """Number of trials in all. Default: every point of a grid, else :data:`SAMPLES`."""
    time_budget_s: float | None = Field(None, gt=0)
    """Time for one call; trials that it cuts off continue with ``--resume``."""
    concurrent: int = Field(0, ge=0)
    """Trials at a time; 0: as many as the resources allow."""


class StoppingConfig(Section):
    """Early stopping of trials by asynchronous successive halving (Li et al., MLSys 2020)."""

    kind: Literal["asha", "none"] = "asha"
    grace_epochs: int = Field(2, ge=1)
    """No trial is stopped before it has trained for this many epochs."""
    reduction: int = Field(3, ge=2)
    """One of this many trials continues beyond each rung."""


class ResourcesConfig(Section):
    """The resources of one trial."""

    cpus: float = Field(1, gt=0)
    """Cores. A trial has as many threads, rounded down, and at least one."""
    gpus: float = Field(0, ge=0)
    """GPUs; a fraction lets trials share one."""
    retries: int = Field(1, ge=0)
    """Number of restarts after a trial's process or node died. Trials that raise an error are not
    restarted."""


class TuneConfig(Section):
    """A search."""

    name: str = "search"
    config: dict[str, Any] = Field(default_factory=dict)
    """Settings that all trials share, as in a config of ``medrd train``."""
    space: dict[str, Dimension] = Field(min_length=1)
    """Config keys, such as ``model.lr``, and the dimensions from which their values are drawn."""
    objective: AnyObjective = SimulatedObjective()
    search: SearchConfig = SearchConfig()
    stopping: StoppingConfig = StoppingConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @field_validator("objective", mode="before")
    @classmethod
    def _name_default(cls, value: Any) -> Any:
        return {"kind": "simulated", **(value or {})} if isinstance(value, dict | None) else value

    @model_validator(mode="after")
    def _check(self) -> TuneConfig:
        if self.search.algorithm == "grid" and grid_size(self.space) > _MOST_POINTS:
            raise ValueError(
                f"a grid of {grid_size(self.space)} points, of which {_MOST_POINTS} are possible: "
                "lower the dimensions' points, or choose another search.algorithm"
            )
        return self

    @property
    def trials(self) -> int:
        """The number of trials in all."""
        if self.search.algorithm == "grid":
            points = grid_size(self.space)
            return min(self.search.samples or points, points)
        return self.search.samples or SAMPLES

    def trial_config(self, point: Point, *, where: str = "search") -> Config:
        """The plain config of one trial: what all trials share, with the point's keys set.

        Raises
        ------
        ConfigError
            If that is not a valid config.
        """
        raw = copy.deepcopy(self.config)
        # A section before the keys inside it, in whatever order the space names them.
        for key in sorted(point, key=lambda key: key.count(".")):
            set_key(raw, key, copy.deepcopy(point[key]), where=where)
        return make_config(
            raw, where=where, remedy="Set it in the file, or with --set {key}=VALUE for all trials."
        )

    def corners(self, *, where: str = "search") -> list[tuple[str, Config]]:
        """A config for every end of every dimension, with the key of that dimension.

        Raises
        ------
        ConfigError
            If one of them is not valid; the message names the dimension, or the section that all
            trials share.
        """
        corners = []
        for key, point in corner_points(self.space):
            try:
                corners.append((key, self.trial_config(point)))
            except ConfigError as error:
                raise ConfigError(
                    f"{where}: {self._origin(error, point)}",
                    expected=error.expected,
                    found=error.found,
                    remedy=error.remedy,
                ) from None
        return corners

    def _origin(self, error: ConfigError, point: Point) -> str:
        """Where an error of a trial's config comes from: the dimension without which it differs."""
        for key in point:
            others = {other: value for other, value in point.items() if other != key}
            try:
                self.trial_config(others)
            except ConfigError as without:
                if without.found == error.found:
                    continue
            return f"space.{key}"
        return "config"

    def to_yaml(self) -> str:
        """The search as YAML text."""
        return format_yaml(self.to_dict())


def load_tune(path: str | Path, overrides: Sequence[str] = ()) -> TuneConfig:
    """Read a search and apply ``key.path=value`` overrides (values are YAML).

    A key of a plain config, such as ``data.root``, means the one that all trials share; the
    others are the search's own: ``search.samples``, ``space.model.lr.high``.

    Raises
    ------
    ConfigError
        If the file is missing or damaged, a key is unknown or a value bad; if a value in the
        space makes no valid config, changes the slices that trials are scored on, or makes no
        difference to the objective; or if the objective simulates anomalies of a kind that the
        model trains on.
    """
    raw = read_yaml(Path(path))
    for override in overrides:
        _override(raw, override)
    return make_tune(raw, where=str(path))


def make_tune(raw: Mapping[str, Any], *, where: str = "search") -> TuneConfig:
    """Validate a plain mapping, and configs at its dimensions' ends; see :func:`load_tune`."""
    config = parse_tune(raw, where=where)
    corners = config.corners(where=where)
    for key, trial in corners:
        _refuse_what_it_trains_on(config, trial, where=f"{where}: space.{key}")
        _refuse_other_slices(config, corners[0][1], trial, where=f"{where}: space.{key}")
    for key in config.space:
        ends = [trial for each, trial in corners if each == key]
        _refuse_ties(config, ends, where=f"{where}: space.{key}")
    return config


def parse_tune(raw: Mapping[str, Any], *, where: str) -> TuneConfig:
    """Read a plain mapping without trying its trials' configs.

    Raises
    ------
    ConfigError
        If a key is unknown or a value bad.
    """
    try:
        return TuneConfig.model_validate(raw)
    except ValidationError as error:
        raise config_mistake(
            error,
            TuneConfig,
            raw,
            where=where,
            remedy=_EXAMPLE,
            shared=("config", Config.model_fields),
        ) from None


def _override(raw: dict[str, Any], override: str) -> None:
    section, _, rest = override.strip().partition(".")
    if section in Config.model_fields:
        apply_overrides(raw, [f"config.{override.strip()}"])
    elif section == "space" and isinstance(raw.get("space"), dict):
        _override_space(raw["space"], rest)
    else:
        apply_overrides(raw, [override])


def _override_space(space: dict[str, Any], override: str) -> None:
    """Apply ``model.lr.high=0.1``, where the keys of the space hold dots themselves."""
    path, value = parse_override(override)
    own = [key for key in space if path == key or path.startswith(f"{key}.")]
    key = max(own, key=len, default=path)
    if path == key:
        space[key] = value
    else:
        # Under its last name, so that a value that is not a section is an error as elsewhere.
        name = key.rpartition(".")[2]
        inner = path.removeprefix(f"{key}.")
        set_key({name: space[key]}, f"{name}.{inner}", value, where=f"--set space.{override}")


def _refuse_what_it_trains_on(config: TuneConfig, trial: Config, *, where: str) -> None:
    """Refuse a model that would train on the kinds of anomalies that it is scored on."""
    trained_on = getattr(trial.model, "simulation", None)
    if config.objective.kind != "simulated" or trained_on is None:
        return
    shared = [c for c in config.objective.simulation.contents if c in trained_on.contents]
    if shared:
        raise ConfigError(
            where,
            expected="objective.simulation.contents that the model does not train on",
            found=f"{', '.join(shared)} in config.model.simulation.contents too",
            remedy="For example objective.simulation.contents=[brighter, darker] and "
            "model.simulation.contents=[slice, texture, deform].",
        )


def _refuse_other_slices(config: TuneConfig, first: Config, trial: Config, *, where: str) -> None:
    """Refuse trials whose objectives could not be compared, as they use different slices."""
    if config.objective.kind == "simulated" and _slices_of(trial) != _slices_of(first):
        raise ConfigError(
            where,
            expected="trials that are all scored on the same slices",
            found="a key that changes these slices",
            remedy="Set it under config, the same for all trials; or name validation subjects "
            "with objective.kind=labelled, which scores maps on the scan's own grid.",
        )


def _slices_of(trial: Config) -> tuple[Any, ...]:
    """The settings that decide the slices, apart from the split, which is checked with the data."""
    return trial.recipe, trial.data.model_dump(exclude={"split", "calibration", "cache"})


def _refuse_ties(config: TuneConfig, ends: Sequence[Config], *, where: str) -> None:
    """Refuse a dimension that the objective ignores: its trials would tie.

    ``ends`` are configs that differ in one dimension only.
    """
    objective = config.objective
    for one, other in itertools.combinations(ends, 2):
        key, _, _ = first_difference(one.to_dict(), other.to_dict())
        same = one.model_dump(exclude=objective.ignores) == other.model_dump(
            exclude=objective.ignores
        )
        if key and same:
            raise ConfigError(
                where,
                expected=f"values that affect objective.kind={objective.kind}, which scores "
                f"{objective.scores}",
                found=f"values that differ in {key}, which does not affect it",
                remedy="Set it under config, the same for all trials.",
            )
