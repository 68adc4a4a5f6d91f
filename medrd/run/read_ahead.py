"""Reads the next item in a thread while the current one is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    items: Sequence[Item], read: Callable[[Item], Result]
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the result of ``read``.

    At most three results are alive: the caller's last, the one given out, and the next.
    """

    with ThreadPoolExecutor(max_workers=1) as pool:
        pending: Future[Result] | None = None
        for i, item in enumerate(items):
            result = (pending or pool.submit(read, item)).result()
            # Dropped before the next item is read; otherwise a third result would stay alive.
            pending = pool.submit(read, items[i + 1]) if i + 1 < len(items) else None
            yield item, result
            del result
