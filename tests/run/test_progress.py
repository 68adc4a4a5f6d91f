"""Progress messages: bars in a terminal, lines elsewhere, none with --quiet."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from medrd.run.logs import StandardError, set_up_logging
from medrd.run.progress import progress

Medrd = Callable[..., Any]


class Screen(io.StringIO):
    """Standard error that is a terminal or not."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    @property
    def lines(self) -> list[str]:
        """The written text, without codes that move the cursor or set colours."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())
        return plain.replace("\r", "\n").split("\n")


@contextmanager
def own_logging() -> Iterator[logging.Logger]:
    """Set logging up as in a medrd process, despite pytest's handlers."""
    root, medrd = logging.getLogger(), logging.getLogger("medrd")
    before, level, medrd_level = root.handlers[:], root.level, medrd.level
    root.handlers[:] = []
    try:
        yield root
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        medrd.setLevel(medrd_level)


def screen(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> Screen:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    shown = Screen(terminal=terminal)
    monkeypatch.setattr("sys.stderr", shown)
    return shown


def test_a_terminal_gets_a_bar_and_log_lines_stay_whole_above_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with own_logging():
        set_up_logging(verbose=False, quiet=False)  # before the screen is there: it may change
        shown = screen(monkeypatch, terminal=True)
        with progress("counting sheep", 3) as advance:
            logging.getLogger("medrd.test").warning("a wolf")
            advance(2, note="so far")
            advance()
    assert "a wolf" in [line.strip() for line in shown.lines]
    assert any("counting sheep" in line and "3/3" in line for line in shown.lines)


@pytest.mark.parametrize(
    ("terminal", "quiet", "said"),
    [(True, True, ""), (False, True, ""), (False, False, "counting sheep (3)\n")],
)
def test_without_a_terminal_there_is_one_line_and_when_quiet_none(
    monkeypatch: pytest.MonkeyPatch, *, terminal: bool, quiet: bool, said: str
) -> None:
    with own_logging():
        shown = screen(monkeypatch, terminal=terminal)
        set_up_logging(verbose=False, quiet=quiet)
        with progress("counting sheep", 3) as advance:
            advance(3, note="done")
    assert shown.getvalue() == said


@pytest.mark.parametrize("terminal", [True, False])
def test_of_nothing_to_do_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> None:
    with own_logging():
        shown = screen(monkeypatch, terminal=terminal)
        set_up_logging(verbose=False, quiet=False)
        with progress("counting sheep", 0):
            pass
    assert shown.getvalue() == ""


def test_it_may_be_set_up_again_and_leaves_somebody_elses_logging_alone() -> None:
    with own_logging() as root:
        for verbose in (True, False):
            set_up_logging(verbose=verbose, quiet=False)
        (handler,) = root.handlers
        assert isinstance(handler, StandardError)

        theirs = logging.NullHandler()
        root.handlers[:] = [theirs]
        set_up_logging(verbose=True, quiet=False)
        assert root.handlers == [theirs]


def test_verbose_says_what_was_found_and_chosen_with_the_time(
    medrd: Medrd, tiny_run: Path, tiny_root: Path, tmp_path: Path
) -> None:
    scan = tiny_root / "tiny_4"
    plain = medrd("predict", tiny_run, scan, "--out", tmp_path / "plain")
    verbose = medrd("--verbose", "predict", tiny_run, scan, "--out", tmp_path / "verbose")
    for said in ("model rd4ad", "computing on cpu", "slices in", "wrote "):
        assert re.search(rf"(?m)^\d\d:\d\d:\d\d medrd\.\w+: .*{said}", verbose.stderr)
        assert said not in plain.stderr
    assert verbose.stdout == f"{tmp_path / 'verbose' / 'tiny_4.json'}\n"


def test_quiet_says_warnings_and_errors_only(
    medrd: Medrd, tiny_run: Path, tiny_root: Path, tmp_path: Path
) -> None:
    inputs = [tiny_root / "tiny_4", tmp_path / "nothing.nii.gz"]
    done = medrd("--quiet", "predict", tiny_run, *inputs, "--out", tmp_path / "maps")
    assert done.code == 3
    lines = done.stderr.splitlines()
    assert any("nothing.nii.gz" in line for line in lines)
    assert not any(line.startswith("predicting") for line in lines)


def test_verbose_and_quiet_exclude_each_other(medrd: Medrd) -> None:
    done = medrd("-v", "-q", "doctor")
    assert done.code == 2
    assert "exclude" in done.stderr
