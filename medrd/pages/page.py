"""Web pages that need nothing but themselves: templates filled, styles and scripts inside."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from medrd.files import write_text
from medrd.run.output_folder import OutputFolder

NOTICE = "Research use only; not a medical device."
_GENERATOR = '<meta name="generator" content="medrd '
_STAMP = re.compile(r'<meta name="medrd" content="([^"]*)">')
_HEAD_CHARACTERS = 20_000
"""In which a page says what it is."""


def render(template: str, **values: Any) -> str:
    """A template of ``pages/templates`` as text; every value is escaped.

    A value ``stamp`` is not shown, but can be read again: :func:`read_stamp`.
    """
    values = {"version": version("medrd"), "notice": NOTICE, "stamp": None, **values}
    return _environment().get_template(template).render(values)


def write_page(path: Path, text: str) -> None:
    """Write a page, atomically, over nothing but an earlier page of medrd's.

    One that says the same already is left alone.

    Raises
    ------
    OutputError
        Another file of that name is there, or the page cannot be written.
    """
    OutputFolder(path.parent).refuse_taken(
        [path], ours=is_own_page(path), result="report", remedy="Move the file away."
    )
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def as_base64(content: bytes) -> str:
    """For data URIs and scripts; its letters need no escaping."""
    return base64.b64encode(content).decode("ascii")


@cache
def packed_niivue() -> str:
    """The viewer, compressed: a third of its size in every page."""
    return as_base64(gzip.compress(_static("niivue/niivue.umd.js").encode(), mtime=0))


def is_own_page(path: Path) -> bool:
    """Whether medrd wrote this page."""
    return _GENERATOR in _head(path)


def read_stamp(path: Path) -> Any:
    """What a page was stamped with as it was rendered, as of JSON; None without a stamp."""
    found = _STAMP.search(_head(path))
    try:
        return json.loads(html.unescape(found[1])) if found else None
    except ValueError:
        return None


def _head(path: Path) -> str:
    """The beginning of a page; nothing where it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_HEAD_CHARACTERS)
    except OSError:
        return ""


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("medrd", "pages/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = _static
    return environment


@cache
def _static(name: str) -> str:
    """A file of ``pages/static``; templates mark those as safe that are scripts and styles."""
    return (files("medrd.pages") / "static" / name).read_text(encoding="utf-8")
