"""Let only one process at a time work in a resumable folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medrd.errors import ConfigError

logger = logging.getLogger("medrd")

_LOCK = ".medrd.lock"


@contextmanager
def lock_folder(folder: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Lock a folder; the lock ends with the process, however it ends.

    Parameters
    ----------
    what
        The kind of work, for messages: ``comparison``, ``search``.
    wait
        Wait for another process to release the lock, as after a kill, instead of failing.

    Raises
    ------
    ConfigError
        Another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with (folder / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ConfigError(
                folder,
                expected=f"a folder in which no other {what} is running",
                found=f"another {what} is running in it",
                remedy="Wait for it to finish, or choose another --out.",
            ) from None
        except OSError as error:  # the file system may not support locks
            logger.warning("%s cannot be locked (%s)", folder, error.strerror)
        yield
