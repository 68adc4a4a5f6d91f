"""Load a config from YAML, and report a mistake in one line.

This module does not import torch, so a wrong key is reported at once.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from medrd.config.models import MODELS
from medrd.config.sections import (
    Config,
    DataConfig,
    PictureDataConfig,
    PictureRecipeConfig,
    RecipeConfig,
)
from medrd.config.yaml_text import DoubledKeyError, parse_yaml
from medrd.errors import ConfigError


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read a config and apply ``key.path=value`` overrides (values are YAML).

    A relative ``data.root``, ``data.cache`` or ``model.teacher.file`` is relative to the current
    folder, as on a command line.

    Raises
    ------
    ConfigError
        A missing or damaged file, an unknown key (the message suggests the nearest known one), or
        an invalid value.
    """
    return make_config(read_yaml(Path(path)), overrides, where=str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        found = "nothing there" if isinstance(error, FileNotFoundError) else str(error)
        raise ConfigError(
            path, expected="a YAML config file", found=found, remedy="Give the path of a config."
        ) from None
    try:
        raw = parse_yaml(text)
    except DoubledKeyError as error:
        raise _doubled(path, error) from None
    except yaml.YAMLError as error:
        raise ConfigError(
            path,
            expected="valid YAML",
            found=str(error),
            remedy="Correct the line that the message names.",
        ) from None
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(
            path,
            expected="a mapping of sections",
            found=type(raw).__name__,
            remedy="See configs/brats/rd4ad.yaml for an example.",
        )
    return raw


def _doubled(where: str | Path, error: DoubledKeyError) -> ConfigError:
    return ConfigError(
        where,
        expected="every key once in its section",
        found=str(error),
        remedy="Join the two: YAML takes the last one alone.",
    )


def make_config(
    raw: dict[str, Any], overrides: list[str] | tuple[str, ...] = (), *, where: str = "config"
) -> Config:
    """Validate a plain mapping with ``key.path=value`` overrides; see :func:`load_config`."""
    try:
        raw = json.loads(json.dumps(raw, default=str))  # a deep copy of plain types
    except (TypeError, ValueError) as error:  # YAML can hold dates as keys, and cycles
        raise ConfigError(
            where,
            expected="sections, words, numbers and lists",
            found=str(error),
            remedy="See configs/brats/rd4ad.yaml for an example.",
        ) from None
    if not isinstance(raw, dict):  # a model.json may hold anything
        raise ConfigError(
            where,
            expected="a mapping of sections",
            found=type(raw).__name__,
            remedy="See configs/brats/rd4ad.yaml for an example.",
        )
    apply_overrides(raw, overrides)
    _name_variants(raw)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(part) for part in first["loc"]]
        if parts[:1] and parts[0] in _VARIANTS:
            del parts[1:2]  # the tag of pydantic's union: model.rd4ad.lr -> model.lr
        key = ".".join(parts) or "config"
        if first["type"] == "extra_forbidden":
            known = _sibling_keys(raw, parts)
            near = difflib.get_close_matches(parts[-1], known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(known)}."
            raise ConfigError(
                where, expected="known keys", found=f"unknown key {key}", remedy=hint
            ) from None
        value = first.get("input")
        shown = "" if isinstance(value, dict) else f" (found {value!r})"
        raise ConfigError(
            where,
            expected=f"a valid {key}",
            found=f"{first['msg'].removeprefix('Value error, ')}{shown}",
            remedy=f"Set {key} in the file or with --set {key}=VALUE.",
        ) from None


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set each ``key.path=value`` in a plain mapping; values are YAML. Raises ConfigError."""
    for override in overrides:
        key, value = parse_override(override)
        set_key(raw, key, value, where=f"--set {override}")


def parse_override(override: str) -> tuple[str, Any]:
    """Split ``key.path=value`` into its path and its value, parsed as YAML. Raises ConfigError."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"--set {override}",
            expected="key.path=value",
            found=override,
            remedy="For example --set data.root=/data/brats --set train.epochs=20.",
        )
    try:
        value = parse_yaml(text)
    except DoubledKeyError as error:
        raise _doubled(f"--set {override}", error) from None
    except yaml.YAMLError:
        value = text
    # YAML 1.1 reads 1e-3 as a string; people mean the number.
    if isinstance(value, str) and "e" in value.lower():
        with contextlib.suppress(ValueError):
            value = float(value)
    return key.strip(), value


def set_key(raw: dict[str, Any], key: str, value: Any, *, where: str) -> None:
    """Set ``key.path`` in nested mappings and create missing sections.

    Raises
    ------
    ConfigError
        A part of the path is not a section.
    """
    node = raw
    *sections, last = key.split(".")
    for section in sections:
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            raise ConfigError(
                where,
                expected=f"{section} to be a section",
                found=repr(child),
                remedy="Check the key's path.",
            )
        node = child
    node[last] = value


def mistake(error: ValidationError, key: str, *, where: str, remedy: str) -> ConfigError:
    """pydantic's first error at a key, as a one-line ConfigError."""
    first = error.errors()[0]
    unknown = first["type"] == "extra_forbidden"
    return ConfigError(
        where,
        expected="known keys" if unknown else f"a valid {key}",
        found=f"unknown key {key}" if unknown else first["msg"].removeprefix("Value error, "),
        remedy=remedy,
    )


# Sections with variants: the discriminating key, its default, and the variants.
_VARIANTS: Final[dict[str, tuple[str, str, Mapping[str, type[BaseModel]]]]] = {
    "data": ("kind", "volumes", {"volumes": DataConfig, "pictures": PictureDataConfig}),
    "recipe": ("kind", "volumes", {"volumes": RecipeConfig, "pictures": PictureRecipeConfig}),
    "model": ("name", "rd4ad", MODELS),
}


def _name_variants(raw: dict[str, Any]) -> None:
    """Fill in missing variant names; a recipe takes the kind of its data, and vice versa."""
    kinds = [raw[s].get("kind") for s in ("data", "recipe") if isinstance(raw.get(s), dict)]
    kind = next((k for k in kinds if k is not None), None)
    for section, (key, default, _) in _VARIANTS.items():
        value = kind if key == "kind" and kind is not None else default
        if isinstance(raw.setdefault(section, {}), dict):
            raw[section].setdefault(key, value)


def _sibling_keys(raw: dict[str, Any], parts: list[str]) -> list[str]:
    model: Any = Config
    for part in parts[:-1]:
        if part in _VARIANTS and model is Config:
            key, default, variants = _VARIANTS[part]
            model = variants[(raw.get(part) or {}).get(key, default)]
        else:
            model = model.model_fields[part].annotation
    return sorted(model.model_fields)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of plain data; the hash used in every result."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
