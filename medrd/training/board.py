"""The board on which the command and its workers leave word for each other, in an actor of Ray.

This module imports nothing, so that the actor starts at once.
"""

from __future__ import annotations


class Board:
    """Whether the workers have begun, and whether they are to stop.

    Calls come one after another, so that either the workers hear of a stop, or the command learns
    that none was there to hear it.
    """

    def __init__(self) -> None:
        self._begun = False
        self._stopping = False

    def begin(self) -> bool:
        """Called by the first worker; whether it is to begin."""
        self._begun = not self._stopping
        return self._begun

    def has_begun(self) -> bool:
        """Whether the workers are at work."""
        return self._begun

    def stop(self) -> bool:
        """Called by the command; whether there are workers that will stop."""
        self._stopping = True
        return self._begun

    def is_stopping(self) -> bool:
        """Whether the workers are to save and stop."""
        return self._stopping
