"""Make names of files and models drawable in figures."""

from __future__ import annotations

from functools import cache

from matplotlib import font_manager

_UNKNOWN = "?"


def drawable(text: str) -> str:
    """Text that matplotlib draws unchanged and without a warning.

    Characters that the default font lacks (and bytes of a name that are not text) become ``?``;
    ``$`` is escaped, because two of them would begin a formula.
    """
    known = _characters()
    shown = "".join(each if ord(each) in known or each == "\n" else _UNKNOWN for each in text)
    return shown.replace("$", r"\$")


@cache
def _characters() -> frozenset[int]:
    """The code points of the default font."""
    path = font_manager.findfont(font_manager.FontProperties())
    return frozenset(font_manager.get_font(path).get_charmap())
