"""What the command line says while it works: the standard library's logging, on standard error."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

_PLAIN = "%(message)s"
_VERBOSE = "%(asctime)s %(name)s: %(message)s"


class StandardError(logging.Handler):
    """Writes to what standard error is at the time.

    While a bar is shown, rich stands in its place and puts each line above the bar; a handler
    that kept the stream of its first day would write into the bar.
    """

    @property
    def stream(self) -> TextIO:
        """Where lines go."""
        return sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            self.stream.write(self.format(record) + "\n")
            self.stream.flush()
        except Exception:
            self.handleError(record)


def set_up_logging(*, verbose: bool, quiet: bool) -> None:
    """Log to standard error: warnings only if quiet, details with the time if verbose.

    Other libraries' warnings are shown too. A program that has set up logging itself keeps what
    it has, but for medrd's own level.
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
