"""Warnings of other libraries on the command line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WARN = """
import warnings
from medrd.run.logs import set_up_logging
set_up_logging(verbose={verbose}, quiet={quiet})
warnings.warn("the driver\\nis too old")
import matplotlib
matplotlib.get_configdir()
"""


@pytest.mark.parametrize(
    ("verbose", "quiet", "lines"), [(False, True, 0), (False, False, 1), (True, False, 2)]
)
def test_a_librarys_warning_is_one_line_and_none_if_quiet(
    verbose: bool, quiet: bool, lines: int
) -> None:
    """matplotlib complains of a home folder that it cannot write to, in two lines of its own."""
    environment = os.environ | {"HOME": "/proc/nowhere", "MPLCONFIGDIR": "/proc/nowhere"}
    code = WARN.format(verbose=verbose, quiet=quiet)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    shown = done.stderr.splitlines()
    assert ("the driver is too old" in done.stderr) == (not quiet)
    assert len(shown) >= lines if verbose else len(shown) == lines
