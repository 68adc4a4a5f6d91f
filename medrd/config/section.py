"""Base class of the sections of a config, and types of their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator


class Section(BaseModel):
    """A part of a config; it refuses unknown keys and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def home_expanded(path: Path) -> Path:
    """A path whose leading ``~`` or ``~user`` is that home folder. Raises ValueError."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{error}: write the whole path") from None


def _as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("write a text, in quotes if it looks like a number")
    return value


FilePath = Annotated[Path, AfterValidator(home_expanded)]
"""A path, in which ``~`` is the home folder."""
Text = Annotated[str, PlainValidator(_as_text)]
"""A name or a path that may hold bytes which are no text (PEP 383); pydantic's own ``str`` refuses
them."""
