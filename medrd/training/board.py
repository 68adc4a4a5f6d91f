"""The board through which the command and its workers exchange signals: a Ray actor.

This module imports nothing, so that the actor starts at once.
"""

from __future__ import annotations


class Board:
    """Records that the workers have started, and that they should stop.

    Calls are serialised, so either the workers see a request to stop, or the command learns that
    there are no workers yet.
    """

    def __init__(self) -> None:
        self._begun = False
        self._stopping = False

    def begin(self) -> bool:
        """Called by the first worker; False if it must not start."""
        self._begun = not self._stopping
        return self._begun

    def has_begun(self) -> bool:
        """True if the workers have started."""
        return self._begun

    def stop(self) -> bool:
        """Called by the command; True if there are workers that will stop."""
        self._stopping = True
        return self._begun

    def is_stopping(self) -> bool:
        """True if the workers should save and stop."""
        return self._stopping
