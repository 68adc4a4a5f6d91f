"""Treat SIGTERM and Ctrl-C as a request to stop at the next safe point."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger("medrd")


class InterruptedRunError(Exception):
    """The user asked to stop; progress so far has been saved."""

    exit_code = 130


class StopRequest:
    """A flag set by a signal and checked between steps."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within the block, SIGTERM and the first Ctrl-C only set the request.

    A second Ctrl-C stops at once. Outside the main thread, where Python does not allow signal
    handlers, nothing changes.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: FrameType | None) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested = True
        logger.warning("stopping at the next safe point; press Ctrl-C (again) to stop at once")

    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
