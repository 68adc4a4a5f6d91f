"""Explain in plain words what is wrong with a value in a config, and where."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

from medrd.errors import ConfigError
from medrd.models.detectors import DETECTORS, detector_class
from medrd.models.settings import ModelSection

_SECTION: Final = "a section of keys, such as {key: value}"
_TEXT: Final = "a text, in quotes if it looks like a number or like yes or no"
_WORDS: Final = {
    "model_type": _SECTION,
    "model_attributes_type": _SECTION,
    "dict_type": _SECTION,
    "tuple_type": "a list, such as [a, b]",
    "string_type": _TEXT,
    "path_type": _TEXT,
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "missing": "a value, which has no default",
}
"""pydantic's type of an error -> what was expected."""
_SHOWN_CHARACTERS: Final = 80


def config_mistake(
    error: ValidationError,
    model: type[BaseModel],
    raw: Any,
    *,
    where: str | Path,
    remedy: str,
    shared: tuple[str, Collection[str]] = ("", ()),
) -> ConfigError:
    """pydantic's first error as a ConfigError.

    Parameters
    ----------
    model, raw
        The class, and the value that was validated against it.
    remedy
        The remedy, with ``{key}`` for the key. For an unknown key, the nearest known one is
        suggested instead.
    shared
        The key of a section that holds plain configs, and the sections of these.
    """
    first = error.errors()[0]
    loc = list(first["loc"])
    if first["type"] == "union_tag_invalid":
        loc.append(first["ctx"]["discriminator"].strip("'"))
    parts = _parts(loc, raw, model)
    key = ".".join(parts) or "config"
    if first["type"] == "extra_forbidden":
        return ConfigError(
            where,
            expected="known keys",
            found=f"unknown key {key}",
            remedy=_hint(key, str(loc[-1]), _known(model, loc), model, shared),
        )
    # A list is set as a whole.
    if parts:
        remedy = remedy.format(key=re.sub(r"\.\d+(\..*)?$", "", key))
    else:  # keys of several sections do not fit each other, and no key is called config
        remedy = "Change one of these keys in the file or with --set."
    value = first.get("input")
    if first["type"] == "union_tag_invalid":
        value = value.get(str(loc[-1])) if isinstance(value, dict) else value
    words = _words(first)
    if words:
        return ConfigError(
            where, expected=f"a valid {key}: {words}", found=_shown(value), remedy=remedy
        )
    shown = "" if isinstance(value, dict) else f" (found {_shown(value)})"
    return ConfigError(
        where,
        expected=f"a valid {key}",
        found=f"{first['msg'].removeprefix('Value error, ')}{shown}",
        remedy=remedy,
    )


def _words(error: Any) -> str:
    """What was expected, if this does not depend on what was found."""
    if error["type"] == "union_tag_invalid":
        return f"one of {error['ctx']['expected_tags']}"
    if error["type"] == "union_tag_not_found":
        tag = error["ctx"]["discriminator"].strip("'")
        return f"a section with {tag}, which tells what it is"
    if error["type"] == "too_short":
        return f"at least {error['ctx']['min_length']} value"
    if error["type"] in _WORDS:
        return _WORDS[error["type"]]
    for start in ("Input should be ", "Value error, write "):
        if error["msg"].startswith(start):
            return str(error["msg"].removeprefix(start))
    return ""


def _shown(value: Any) -> str:
    """A value, roughly as it would be written in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return f"a section with {', '.join(map(str, value)) or 'no keys'}"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _parts(loc: Sequence[int | str], raw: Any, model: type[BaseModel]) -> list[str]:
    """The keys of a place in ``raw``, without the tags of unions that pydantic adds.

    The last of them may not be in ``raw``: required, or with a default that is not valid.
    """
    parts, node, sections = [], raw, [model]
    for part in loc:
        known = any(part in section.model_fields for section in sections)
        keys = node if isinstance(node, Mapping) else ()
        places = range(len(node)) if isinstance(node, list | tuple) else ()
        sections = _inside(sections, part)
        if part in keys or part in places:
            node = node[part]
        elif not known:
            continue
        parts.append(str(part))
    return parts


def _hint(
    key: str,
    last: str,
    known: Sequence[str],
    model: type[BaseModel],
    shared: tuple[str, Collection[str]],
) -> str:
    """A suggestion for an unknown key."""
    section, _, inner = last.partition(".")
    if inner and section in known:
        return f"Write {section}: and below it, indented, {inner}: …; only --set takes dots."
    near = difflib.get_close_matches(last.lower(), known, n=1)
    if near:
        return f"Did you mean {near[0]}?"
    place, sections = shared
    if sections:
        elsewhere = {f"{place}.{last}"} if key in sections else set()
    else:
        elsewhere = {path for path in _paths(model) if path.rpartition(".")[2] == last}
    if len(elsewhere) == 1 and key not in elsewhere:
        return f"Did you mean {elsewhere.pop()}?"
    return f"Known here: {', '.join(known)}."


def _known(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The keys of the section in which the last part of ``loc`` stands."""
    sections = [model]
    for part in loc[:-1]:
        sections = _inside(sections, part)
    return sorted({name for section in sections for name in section.model_fields})


def _inside(sections: list[type[BaseModel]], part: int | str) -> list[type[BaseModel]]:
    """The sections that a part of a place leads to."""
    inner = [
        each
        for section in sections
        if part in section.model_fields
        for each in _sections_in(section.model_fields[str(part)].annotation)
    ]
    # Otherwise it is the tag of a union, a name in a mapping, or a place in a list.
    tagged = [section for section in sections if part in _tags(section)]
    return inner or tagged or sections


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if annotation is ModelSection:
        return [detector_class(name).section for name in DETECTORS]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [each for inner in get_args(annotation) for each in _sections_in(inner)]


def _tags(section: type[BaseModel]) -> set[Any]:
    fields = (section.model_fields.get(name) for name in ("kind", "name"))
    return {tag for field in fields if field for tag in get_args(field.annotation)}


def _paths(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """All keys of a config, with dots, those of outer sections first."""
    fields = model.model_fields.items()
    yield from (f"{above}{name}" for name, _ in fields)
    for name, field in fields:
        for section in _sections_in(field.annotation):
            yield from _paths(section, f"{above}{name}.")
