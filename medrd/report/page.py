"""Web pages that need nothing but themselves: templates filled, styles and scripts inside."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from medrd.errors import OutputError
from medrd.volumes import write_text

NOTICE = "Research use only; not a medical device."
_GENERATOR = '<meta name="generator" content="medrd '


def render(template: str, **values: Any) -> str:
    """A template of ``report/templates`` as text; every value is escaped."""
    values = {"version": version("medrd"), "notice": NOTICE, **values}
    return _environment().get_template(template).render(values)


def write_page(path: Path, html: str) -> None:
    """Write a page, atomically, over nothing but an earlier page of medrd's.

    One that says the same already is left alone.

    Raises
    ------
    OutputError
        Another file of that name is there, or the page cannot be written.
    """
    if path.exists() and not is_own_page(path):
        raise OutputError(
            path,
            expected="a free name, or an earlier report of medrd",
            found="a file that medrd did not write",
            remedy="Move the file away.",
        )
    if not path.exists() or path.read_text(encoding="utf-8") != html:
        write_text(path, html)


def as_base64(content: bytes) -> str:
    """For data URIs and scripts; its letters need no escaping."""
    return base64.b64encode(content).decode("ascii")


@cache
def packed_niivue() -> str:
    """The viewer, compressed: a third of its size in every page."""
    return as_base64(gzip.compress(_static("niivue/niivue.umd.js").encode(), mtime=0))


def is_own_page(path: Path) -> bool:
    """Whether medrd wrote this page."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return _GENERATOR in file.read(1000)
    except OSError:
        return False


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("medrd", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = _static
    return environment


@cache
def _static(name: str) -> str:
    """A file of ``report/static``; templates mark those as safe that are scripts and styles."""
    return (files("medrd.report") / "static" / name).read_text(encoding="utf-8")
