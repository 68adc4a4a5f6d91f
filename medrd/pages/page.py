"""Self-contained web pages: filled templates that include their styles and scripts."""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
import re
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from medrd.files import write_text
from medrd.run.output_folder import OutputFolder

NOTICE = "Research use only; not a medical device."
_GENERATOR = '<meta name="generator" content="medrd '
_STAMP = re.compile(r'<meta name="medrd" content="([^"]*)">')
_HEAD_CHARACTERS = 20_000
"""The generator and the stamp of a page are within so many characters."""


def render(template: str, **values: Any) -> str:
    """Fill a template of ``pages/templates``; every value is escaped.

    The value ``stamp`` is not shown; :func:`read_stamp` reads it from the page.
    """
    values = {"version": version("medrd"), "notice": NOTICE, "stamp": None, **values}
    return _environment().get_template(template).render(values)


def write_page(path: Path, text: str) -> None:
    """Write a page atomically, unless it is unchanged; only pages by medrd are replaced.

    Raises
    ------
    OutputError
        The file exists and is not a page by medrd, or the page cannot be written.
    """
    OutputFolder(path.parent).refuse_taken(
        [path], ours=is_own_page(path), result="report", remedy="Move the file away."
    )
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def link_to(path: PurePath) -> str:
    """The relative URL of a file: its name's bytes, whatever their encoding."""
    return quote(os.fsencode(path.as_posix()))


def as_base64(content: bytes) -> str:
    """Base64 as text, for data URIs and scripts; it needs no escaping."""
    return base64.b64encode(content).decode("ascii")


@cache
def packed_niivue() -> str:
    """The viewer's script, compressed to a third of its size, as base64."""
    return as_base64(gzip.compress(_static("niivue/niivue.umd.js").encode(), mtime=0))


def is_own_page(path: Path) -> bool:
    """True if medrd wrote this page."""
    return _GENERATOR in _head(path)


def read_stamp(path: Path) -> Any:
    """The decoded stamp with which a page was rendered; None if it has none."""
    stamp = _STAMP.search(_head(path))
    try:
        return json.loads(html.unescape(stamp[1])) if stamp else None
    except ValueError:
        return None


def _head(path: Path) -> str:
    """The beginning of a page; empty if it cannot be read."""
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
    """Read a file of ``pages/static``; templates mark scripts and styles as safe."""
    return (files("medrd.pages") / "static" / name).read_text(encoding="utf-8")
