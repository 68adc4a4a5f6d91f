"""One process at a time in a folder that goes on where it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medrd.errors import ConfigError

logger = logging.getLogger("medrd")

_LOCK = ".medrd.lock"


@contextmanager
def alone_in(folder: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder; the lock ends with the process, however that ends.

    Parameters
    ----------
    what
        What is done there, for messages: ``comparison``, ``search``.
    wait
        Wait for another process to let go, as after a kill, instead of failing.

    Raises
    ------
    ConfigError
        Another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with (folder / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ConfigError(
                folder,
                expected=f"a folder in which no other {what} is at work",
                found="one that is",
                remedy="Wait for it, or give another --out.",
            ) from None
        except OSError as error:  # of the file system, which may know no locks
            logger.warning("%s cannot be locked (%s)", folder, error.strerror)
        yield
