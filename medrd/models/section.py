"""Base class of the sections of a config, and types of their values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainValidator,
    model_validator,
)


class Section(BaseModel):
    """A part of a config; it refuses unknown keys and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """An empty section, or one that is commented out, means its defaults."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            return value
        fields = cls.model_fields
        return {
            key: _without_bool(each, fields[key].annotation) if key in fields else each
            for key, each in value.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """The section in plain types, as in a YAML file."""
        result: dict[str, Any] = self.model_dump(mode="json")
        return result


def _without_bool(value: Any, annotation: Any) -> Any:
    """Turn booleans into text for numeric fields, since pydantic would take true for 1."""
    if isinstance(value, list | tuple):
        return type(value)(_without_bool(each, annotation) for each in value)
    numeric = {int, float} & _types(annotation) and not {bool, str, Any} & _types(annotation)
    return str(value).lower() if isinstance(value, bool) and numeric else value


def _types(annotation: Any) -> set[Any]:
    inner = get_args(annotation)
    return set().union(*map(_types, inner)) if inner else {annotation}


def expanded(path: Path) -> Path:
    """A path whose leading ``~`` or ``~user`` is that home folder, and in which ``$NAME`` is that
    variable, if it is set. Raises ValueError."""
    try:
        return Path(os.path.expandvars(path)).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{error}: write the whole path") from None


def _possible(value: Any) -> Any:
    """A value that is not a path is refused; an empty one would be the current folder."""
    if isinstance(value, str):
        try:
            encoded = os.fsencode(value)
        except UnicodeEncodeError:
            raise ValueError("characters that no path can have") from None
        if not encoded.strip() or b"\0" in encoded:
            raise ValueError("write a path (. is the current folder)")
    return value


def _as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("write a text, in quotes if it looks like a number")
    return value


FilePath = Annotated[Path, BeforeValidator(_possible), AfterValidator(expanded)]
"""A path, in which ``~`` is the home folder and ``$NAME`` a variable of the environment."""
Text = Annotated[str, PlainValidator(_as_text)]
"""A name or a path that may hold bytes which are not text (PEP 383); pydantic's own ``str`` refuses
them."""
