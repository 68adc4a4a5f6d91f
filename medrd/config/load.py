"""Load a config from YAML, and report a mistake in one line.

A detector's own section needs torch, so the others are checked first: a wrong key of theirs is
reported at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError, create_model

from medrd.config.mistakes import config_mistake
from medrd.config.sections import Config
from medrd.config.unused import unused_keys
from medrd.config.yaml_text import DoubledKeyError, parse_yaml
from medrd.errors import ConfigError
from medrd.models.section import Section

_OTHERS: Final[dict[str, Any]] = {
    name: (field.annotation, field)
    for name, field in Config.model_fields.items()
    if name != "model"
}
_Others = create_model("_Others", __base__=Section, **_OTHERS)


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
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            path,
            expected="a YAML config file",
            found="nothing there" if isinstance(error, FileNotFoundError) else error.strerror or "",
            remedy="Give the path of a config.",
        ) from None
    try:
        raw = parse_yaml(content)
    except DoubledKeyError as error:
        raise _doubled(path, error) from None
    except yaml.YAMLError as error:
        raise ConfigError(
            path, expected="valid YAML", found=str(error), remedy="Correct that line."
        ) from None
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(
            path,
            expected="a mapping of sections",
            found=type(raw).__name__,
            remedy="Write key: value, with a space after the colon; see configs/brats/rd4ad.yaml.",
        )
    return raw


def _doubled(where: str | Path, error: DoubledKeyError) -> ConfigError:
    return ConfigError(
        where,
        expected="every key once in its section",
        found=str(error),
        remedy="Merge the two: YAML keeps only the last one.",
    )


def make_config(
    raw: dict[str, Any],
    overrides: list[str] | tuple[str, ...] = (),
    *,
    where: str = "config",
    remedy: str = "Set {key} in the file or with --set {key}=VALUE.",
) -> Config:
    """Validate a plain mapping with ``key.path=value`` overrides; see :func:`load_config`.

    ``where`` and ``remedy`` are for messages: the file, and where to set a key that is wrong.
    """
    try:
        raw = json.loads(json.dumps(raw, default=str))  # a deep copy of plain types
    except (TypeError, ValueError, RecursionError) as error:  # YAML can have lists as keys
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
            remedy="Write key: value, with a space after the colon; see configs/brats/rd4ad.yaml.",
        )
    apply_overrides(raw, overrides)
    _name_variants(raw)
    try:
        _Others.model_validate({key: value for key, value in raw.items() if key != "model"})
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise config_mistake(error, Config, raw, where=where, remedy=remedy) from None
    _refuse_unused(config, overrides)
    return config


def _refuse_unused(config: Config, overrides: Sequence[str]) -> None:
    """Raise ConfigError for a ``--set`` that changes nothing; a file may hold such keys."""
    unused = unused_keys(config)
    for override in overrides:
        key, _ = parse_override(override)
        if key in unused:
            raise ConfigError(
                f"--set {override}",
                expected="a key that has an effect",
                found=f"one that is not used, since {unused[key]}",
                remedy="Leave it out, or change the other key too.",
            )


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


# Sections with variants: the key that tells which, and its default.
_VARIANTS: Final = {
    "data": ("kind", "volumes"),
    "recipe": ("kind", "volumes"),
    "model": ("name", "rd4ad"),
}


def _name_variants(raw: dict[str, Any]) -> None:
    """Fill in missing variant names; a recipe takes the kind of its data, and vice versa."""
    kinds = [raw[s].get("kind") for s in ("data", "recipe") if isinstance(raw.get(s), dict)]
    kind = next((k for k in kinds if k is not None), None)
    for section, (key, default) in _VARIANTS.items():
        if raw.get(section) is None:
            raw[section] = {}
        if isinstance(raw[section], dict):
            raw[section].setdefault(key, kind if key == "kind" and kind is not None else default)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of plain data; the hash used in every result."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
