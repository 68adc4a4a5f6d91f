"""Any name can stand in a figure."""

from __future__ import annotations

import io

import pytest

from medrd.draw.heat import dark_axes, write_title
from medrd.draw.text import drawable


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Müller_7", "Müller_7"),
        ("患者 7", "?? 7"),
        ("M\udcfcller", "M?ller"),
        ("a$\\frac$b", r"a\$\frac\$b"),
        ("two\nlines", "two\nlines"),
        ("tab\t\x00", "tab??"),
    ],
)
def test_a_title_of_any_characters_is_drawn_without_a_warning(name: str, shown: str) -> None:
    assert drawable(name) == shown
    figure, ax = dark_axes(2, 2)
    write_title(ax, drawable(name))
    figure.savefig(io.BytesIO(), format="png")
