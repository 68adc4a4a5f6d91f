"""The fenced blocks of a documentation page, and the comments that describe them.

A comment right above a block is for that block, ``snippets`` instead of ``snippet`` for the page::

    <!-- snippet not run: needs a cluster -->         parsed only, and why
    <!-- snippet with: 20 epochs => 1 epoch; a => b --> replaced before it is run
    <!-- snippet exits with: 3 -->                    what the last command's exit code is
    <!-- snippet shows: run/model/model.json -->      the block has this file's keys, or, as
                                                      text, this folder's names

Readers of the page see none of them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

_COMMENT = re.compile(r"<!--\s*(snippets?) (not run|with|exits with|shows):\s*(.*?)\s*-->", re.S)
_LOOKALIKE = re.compile(r"<!--\s*snippet")


@dataclass(frozen=True)
class Snippet:
    """A fenced block.

    Attributes
    ----------
    line
        Of the page, from 1: where the block begins.
    language
        What stands behind the fence.
    not_run
        Why it is not run; None if it is.
    shows
        The file or folder that it is a picture of.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None = None
    exit_code: int = 0
    shows: str | None = None

    @property
    def place(self) -> str:
        """File and line, for messages and editors."""
        return f"{self.page.name}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """The words of each command of a shell block, comments left out."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def read_snippets(page: Path) -> list[Snippet]:
    """The blocks of a page in their order.

    Raises
    ------
    ValueError
        A comment about snippets that means nothing where it stands.
    """
    of_page: dict[str, str] = {}
    of_block: dict[str, str] = {}
    snippets = []
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block":
            found = _COMMENT.findall(token.content)
            if len(found) != len(_LOOKALIKE.findall(token.content)):
                raise ValueError(f"{page.name}: not understood: {token.content.strip()}")
            for scope, key, value in found:
                (of_page if scope == "snippets" else of_block)[key] = value
        elif token.type == "fence":
            assert token.map is not None
            marks = of_page | of_block
            text = token.content
            place = f"{page.name}:{token.map[0] + 1}"
            for old, new in _pairs(of_block.get("with"), place):
                if old not in text:  # else what was replaced runs as it stands, for hours
                    raise ValueError(f"{place}: {old} is not in the block")
                text = text.replace(old, new)
            for old, new in _pairs(of_page.get("with"), place):
                text = text.replace(old, new)
            snippets.append(
                Snippet(
                    page,
                    token.map[0] + 1,
                    token.info.strip(),
                    text,
                    marks.get("not run"),
                    int(marks.get("exits with", 0)),
                    marks.get("shows"),
                )
            )
            of_block = {}
        elif token.level == 0 and of_block:
            raise ValueError(f"{page.name}: no block follows {of_block}")
    return snippets


def _pairs(replacements: str | None, place: str) -> Iterator[tuple[str, str]]:
    """``a => b; c => d``."""
    for pair in filter(str.strip, (replacements or "").split(";")):
        old, arrow, new = (part.strip() for part in pair.partition("=>"))
        if not arrow:
            raise ValueError(f"{place}: expected OLD => NEW, found {pair}")
        yield old, new
