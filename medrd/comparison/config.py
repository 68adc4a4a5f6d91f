"""The config of ``medrd compare``: models × data sets × seeds, in one YAML file.

A cell's config is merged from these parts, where later ones override earlier ones: ``base``, the
data set's ``config``, the model's ``config``, and the model's ``where`` for the domain and for
the data set. A model whose ``teacher`` is a name has that one of ``teachers``. Every cell is
validated before the first one starts.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator

from medrd.config.load import apply_overrides, make_config, read_yaml
from medrd.config.mistakes import config_mistake
from medrd.config.sections import Config
from medrd.errors import ConfigError
from medrd.models.section import FilePath, Section, Text

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


class PhantomConfig(Section):
    """Simulated brains, made for the comparison."""

    kind: Literal["phantom"] = "phantom"
    subjects: int = Field(8, ge=4)
    seed: int = Field(0, ge=0)


class TexturesConfig(Section):
    """Generated pictures of textures with defects, in MVTec's layout."""

    kind: Literal["textures"] = "textures"
    categories: tuple[Literal["weave", "grain"], ...] = Field(("weave", "grain"), min_length=1)
    train: int = Field(40, ge=4)
    test_good: int = Field(8, ge=1)
    test_bad: int = Field(16, ge=1)
    size: int = Field(192, ge=64)
    seed: int = Field(0, ge=0)


class DataSetConfig(Section):
    """A data set of the comparison."""

    domain: str = Field(min_length=1)
    """Data sets of one domain are ranked together, for example ``brain`` or ``industrial``."""
    root: FilePath | None = None
    generate: PhantomConfig | TexturesConfig | None = Field(None, discriminator="kind")
    """Generate the data set instead of reading it from ``root``."""
    categories: Literal["each", "together"] = "each"
    """For pictures: one model per category, or one model for all categories."""
    folds: int | tuple[tuple[Text, ...], ...] | None = None
    """For scans: cross-validation, in which every subject is tested once. The number of folds, or
    the test subjects of each; ``data.split`` divides the rest into training and calibration."""
    also_test: dict[str, FilePath] = Field(default_factory=dict)
    """For scans: folders of further subjects, by the name that they get in the results. Every
    model that was trained on this data set is tested on all of them too, as on another site."""
    config: dict[str, Any] = Field(default_factory=dict)

    @field_validator("folds", mode="wrap")
    @classmethod
    def _check_folds(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            folds = handler(value)
        except ValidationError:  # pydantic would report one error for each type of the union
            raise ValueError(
                "write a number of folds (5), or a list of subject ids for each ([[a, b], [c]]; "
                "in quotes if an id looks like a number)"
            ) from None
        if folds is None:
            return None
        if (folds if isinstance(folds, int) else len(folds)) < 2:
            raise ValueError("write two folds or more")
        if isinstance(folds, tuple):
            if not all(folds):
                raise ValueError("an empty fold")
            subjects = [subject for fold in folds for subject in fold]
            if len(set(subjects)) < len(subjects):
                raise ValueError("a subject in two folds")
        return folds


class ComparedModelConfig(Section):
    """A model of the comparison."""

    config: dict[str, Any] = Field(default_factory=dict)
    where: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Overrides of ``config`` by the name of a domain or data set."""
    skip: tuple[str, ...] = ()
    """Names of domains and data sets on which the model is not run."""


class CompareConfig(Section):
    """A comparison."""

    name: str = "comparison"
    note: str = ""
    """Shown at the top of the results."""
    seeds: tuple[int, ...] = (0, 1, 2)
    base: dict[str, Any] = Field(default_factory=dict)
    teachers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Sections ``model.teacher`` by name, for all models with ``teacher: NAME``."""
    data_sets: dict[str, DataSetConfig] = Field(min_length=1)
    models: dict[str, ComparedModelConfig] = Field(min_length=1)
    resamples: int = Field(4000, ge=100)
    """Number of bootstrap resamples behind intervals and differences."""

    @field_validator("data_sets", "models")
    @classmethod
    def _check_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        others = [name for data in value.values() for name in getattr(data, "also_test", ())]
        if twice := {name for name in others if name in value or others.count(name) > 1}:
            raise ValueError(f"also_test names a data set that there is already: {min(twice)}")
        for name in [*value, *others]:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} names a folder, so only letters, digits and _ . + - are allowed"
                )
        return value

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("no seeds, or a seed twice")
        return value


@dataclass(frozen=True)
class Test:
    """An evaluation of a cell's model.

    Attributes
    ----------
    folder
        Holds ``evaluation/`` and the hashes of the inputs, relative to the comparison's folder.
    config
        Names the data and which of them are for testing.
    """

    data_set: str
    folder: Path
    config: Config


@dataclass(frozen=True)
class Cell:
    """One model on one data set (or one category or fold of it) with one seed."""

    model: str
    data_set: str
    domain: str
    category: str | None
    """The category or the fold, if any."""
    seed: int
    config: Config
    also_test: Mapping[str, Config] = field(default_factory=dict)
    """By data set: the config with which the trained model is evaluated on its subjects."""

    @property
    def name(self) -> str:
        """Model, data set, part and seed, for messages."""
        part = f"/{self.category}" if self.category else ""
        return f"{self.model} on {self.data_set}{part}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """The cell's run folder, relative to the comparison's folder."""
        parts = [self.data_set, *([self.category] if self.category else []), self.model]
        return Path("cells", *parts, f"seed{self.seed}")

    @property
    def tests(self) -> list[Test]:
        """What the trained model is evaluated on: its own data set's test side first."""
        others = [
            Test(name, self.folder / "also_test" / name, config)
            for name, config in self.also_test.items()
        ]
        return [Test(self.data_set, self.folder, self.config), *others]


def load_compare(path: str | Path, overrides: Sequence[str] = ()) -> CompareConfig:
    """Read a comparison and apply ``key.path=value`` overrides.

    Raises
    ------
    ConfigError
        Missing or damaged file, unknown key, bad value.
    """
    raw = read_yaml(Path(path))
    apply_overrides(raw, overrides)
    return make_compare(raw, where=str(path))


def make_compare(raw: Mapping[str, Any], *, where: str = "comparison") -> CompareConfig:
    """Validate a plain mapping; see :func:`load_compare`."""
    try:
        config = CompareConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        remedy = "See configs/compare/smoke.yaml for an example."
        if first["type"] == "missing" and len(first["loc"]) > 2:  # as by --set of a wrong name
            others = ", ".join(
                str(name) for name in raw[str(first["loc"][0])] if name != first["loc"][1]
            )
            remedy = f"Is {first['loc'][1]} misspelt? There are {others or 'no others'}."
        raise config_mistake(
            error,
            CompareConfig,
            raw,
            where=where,
            remedy=remedy,
            shared=("base", Config.model_fields),
        ) from None
    places = set(config.data_sets) | {data_set.domain for data_set in config.data_sets.values()}
    for name, model in config.models.items():
        for place in [*model.where, *model.skip]:
            if place not in places:
                raise ConfigError(
                    where,
                    expected=f"domains or data sets in models.{name}: {', '.join(sorted(places))}",
                    found=place,
                    remedy="Correct the name.",
                )
    for name, data_set in config.data_sets.items():
        if (data_set.root is None) == (data_set.generate is None):
            raise ConfigError(
                where,
                expected=f"data_sets.{name} to have either root or generate",
                found="neither" if data_set.root is None else "both",
                remedy=f"For your own data: --set data_sets.{name}.root=PATH.",
            )
    return config


def cell_config(
    config: CompareConfig,
    model: str,
    data_set: str,
    seed: int,
    *,
    root: Path,
    part: Mapping[str, Any] | None = None,
    where: str = "comparison",
) -> Config:
    """The resolved config of one cell.

    Parameters
    ----------
    part
        Overrides of the section ``data`` that select a category or a fold.

    Raises
    ------
    ConfigError
        The merged config is not valid; the message names the cell.
    """
    compared, data = config.models[model], config.data_sets[data_set]
    raw: dict[str, Any] = {}
    for layer in (
        config.base,
        data.config,
        compared.config,
        compared.where.get(data.domain, {}),
        compared.where.get(data_set, {}),
    ):
        raw = merge(raw, layer)
    raw = merge(raw, {"seed": seed, "data": {"root": str(root), **(part or {})}})
    section = raw.get("model")
    named = section.get("teacher") if isinstance(section, Mapping) else None
    if isinstance(named, str):
        if named not in config.teachers:
            raise ConfigError(
                f"{where}: {model} on {data_set}",
                expected=f"the name of one of the teachers: {', '.join(config.teachers) or 'none'}",
                found=named,
                remedy="Correct the name, or add it to the section teachers.",
            )
        raw["model"]["teacher"] = copy.deepcopy(config.teachers[named])
    return make_config(
        raw,
        where=f"{where}: {model} on {data_set}",
        remedy="Set it under base, or in the config of that model or data set.",
    )


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings into a new one; ``above`` wins, and lists are replaced as a whole."""
    result = copy.deepcopy(dict(below))
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merge(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result
