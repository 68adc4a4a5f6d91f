"""Logging of the command line, to standard error, with the standard library."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import TextIO

_PLAIN = "%(message)s"
_VERBOSE = "%(asctime)s %(name)s: %(message)s"


class StandardError(logging.Handler):
    """A handler that writes to the current ``sys.stderr``.

    While a progress bar is shown, rich replaces ``sys.stderr`` and prints each line above the bar;
    a handler that kept the original stream would write into the bar.
    """

    @property
    def stream(self) -> TextIO:
        """The stream to write to."""
        return sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            self.stream.write(self.format(record) + "\n")
            self.stream.flush()
        except Exception:  # as logging's own handlers do: a failed log line must not end the work
            self.handleError(record)


def _one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning without the line of code that raised it, which tells users nothing."""
    return " ".join(str(message).split())


def set_up_logging(*, verbose: bool, quiet: bool) -> None:
    """Log to standard error: warnings only if quiet, details with the time if verbose.

    Warnings of other libraries are shown too, one line each, but not if quiet; matplotlib's
    messages about its folders and fonts only if verbose. If the program has already set up logging,
    only medrd's own level is changed.
    """
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    logging.getLogger("medrd").setLevel(level)
    root = logging.getLogger()
    if all(isinstance(handler, StandardError) for handler in root.handlers):
        root.handlers.clear()
        handler = StandardError()
        handler.setFormatter(logging.Formatter(_VERBOSE if verbose else _PLAIN, "%H:%M:%S"))
        root.addHandler(handler)
        root.setLevel(logging.WARNING)
        logging.getLogger("matplotlib").setLevel(logging.WARNING if verbose else logging.ERROR)
        logging.getLogger("py.warnings").setLevel(logging.ERROR if quiet else logging.WARNING)
        warnings.formatwarning = _one_line
        logging.captureWarnings(True)
