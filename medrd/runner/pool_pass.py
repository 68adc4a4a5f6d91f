"""One pass of a pool over its items: who does what, what is left, and what if a process dies.

Nothing here computes. Whatever ends a process takes one item with it, which others do again;
one that never gets ready costs a place, which is tried again ever more seldom.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from medrd.errors import ConfigError, MedrdError
from medrd.run.signals import InterruptedRunError
from medrd.runner.cluster import Patience

logger = logging.getLogger("medrd.ray")

Item = TypeVar("Item")
Result = TypeVar("Result")

ATTEMPTS = 3
"""As often an item is begun; it may be the item that kills."""
_LOOK_S = 0.2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
"""Before another process is begun where one did not get ready: it may be its node's fault."""


@dataclass(frozen=True)
class LostItem:
    """An item that was given up: no process got through it.

    Attributes
    ----------
    reason
        What ended the last one, by Ray's account, or what it raised.
    """

    attempts: int
    reason: str


class Round(Generic[Item, Result]):
    """One pass over items.

    Parameters
    ----------
    begin
        Begins an actor.
    name_of
        An item's name in messages.
    should_stop
        True begins nothing more.

    Attributes
    ----------
    end
        Items from this position on are not begun yet.
    """

    def __init__(
        self,
        items: Sequence[Item],
        begin: Callable[[], Any],
        name_of: Callable[[Item], str],
        should_stop: Callable[[], bool],
    ) -> None:
        self.end = len(items)
        self._items = items
        self._begin = begin
        self._name_of = name_of
        self._should_stop = should_stop
        self._left = deque(range(len(items)))
        self._set_aside: deque[int] = deque()
        self._alone: int | None = None
        self._attempts = [0] * len(items)
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._busy: dict[Any, tuple[Any, int]] = {}
        self._actors = self._missing = self._stillborn = 0
        self._pause_s, self._pause_ends = _FIRST_PAUSE_S, 0.0
        self._patience = Patience()

    def begin(self, actors: int) -> None:
        """Have so many actors made ready."""
        self._actors = actors
        for _ in range(actors):
            self._add_actor()

    def dismiss(self) -> None:
        """End all actors."""
        import ray

        for actor in (*self._idle, *self._starting.values(), *(a for a, _ in self._busy.values())):
            ray.kill(actor)

    def run(self) -> Iterator[tuple[int, Result | LostItem]]:
        """Until nothing is left, or until what was begun is done."""
        import ray

        while True:
            stopping = self._should_stop()
            while self._idle and not stopping and (index := self._next()) is not None:
                self._give(self._idle.pop(), index)
            if not self._busy and (stopping or not (self._left or self._set_aside)):
                return
            # One at a time, lest those of a bad node follow each other without a pause.
            if self._missing and not self._starting and time.monotonic() >= self._pause_ends:
                self._missing -= 1
                self._add_actor()
            known = [*self._busy, *self._starting]
            if not known:  # Ray would not wait for nothing
                time.sleep(_LOOK_S)
                continue
            done, _ = ray.wait(known, num_returns=1, timeout=_LOOK_S)
            self._patience.see(at_work=bool(done or self._busy))
            for reference in done:
                if reference in self._starting:
                    self._take_in(reference)
                else:
                    yield from self._result_of(reference)

    def _next(self) -> int | None:
        """The item to be begun now, if there is one."""
        if self._alone is not None:
            return None
        if self._left and self._left[0] < self.end:
            return self._left.popleft()
        if self._set_aside and not self._busy:
            self._alone = self._set_aside.popleft()
        return self._alone

    def _give(self, actor: Any, index: int) -> None:
        self._attempts[index] += 1
        self._busy[actor.do.remote(self._items[index])] = (actor, index)

    def _add_actor(self) -> None:
        actor = self._begin()
        self._starting[actor.ready.remote()] = actor

    def _take_in(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        answer = _answer_of(reference)
        if isinstance(answer, _End):
            self._do_without(actor, answer)
        else:
            self._idle.append(actor)
            self._stillborn, self._pause_s, self._pause_ends = 0, _FIRST_PAUSE_S, 0.0

    def _do_without(self, actor: Any, end: _End) -> None:
        """Of an actor that did not get ready; others may, in other places or later."""
        import ray

        ray.kill(actor)
        self._stillborn += 1
        self._missing += 1
        self._pause_ends = time.monotonic() + self._pause_s
        if not self._starting:  # else several have failed at once
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        if not (self._idle or self._busy or self._starting):
            if end.error is not None:
                raise end.error
            if self._stillborn >= self._actors + ATTEMPTS:
                raise ConfigError(
                    "Ray",
                    expected="processes that get ready",
                    found=f"{self._stillborn} that died before, the last one by {end.reason}",
                    remedy="Look into Ray's logs (/tmp/ray/session_latest/logs).",
                )
        logger.warning("a process did not get ready (%s); it is tried again", end.reason)

    def _result_of(self, reference: Any) -> Iterator[tuple[int, Result | LostItem]]:
        import ray

        actor, index = self._busy.pop(reference)
        answer = _answer_of(reference)
        alone, self._alone = index == self._alone, None
        if not isinstance(answer, _End):
            self._idle.append(actor)
            yield index, answer
            return
        # Its node may be out of reach; and nobody knows what an error has left in a process.
        ray.kill(actor)
        if isinstance(answer.error, MedrdError) or (
            isinstance(answer.error, InterruptedRunError) and self._should_stop()
        ):
            raise answer.error
        if answer.preempted:  # which says nothing of the item
            self._attempts[index] -= 1
        name = self._name_of(self._items[index])
        if answer.of_memory and not alone:
            self._actors = max(1, self._actors - 1)
            logger.warning(
                "%s: its process has died for want of memory (%s); it is done again alone, and at "
                "most %d processes go on with the others",
                name,
                answer.reason,
                self._actors,
            )
            self._set_aside.append(index)
        elif self._attempts[index] < ATTEMPTS and not (answer.of_memory and alone):
            logger.warning("%s: its process has died (%s); it is done again", name, answer.reason)
            self._left.appendleft(index)
        else:
            if answer.error is not None:
                logger.error("%s", "".join(traceback.format_exception(answer.error)))
            yield index, LostItem(self._attempts[index], answer.reason)
        if len(self._idle) + len(self._busy) + len(self._starting) + self._missing < self._actors:
            self._add_actor()


@dataclass(frozen=True)
class _End:
    """Of a process that owed an answer.

    Attributes
    ----------
    error
        What its code has raised; None where it has died.
    of_memory
        Whether its node had too little.
    preempted
        Whether its node was taken back, as clouds do.
    """

    reason: str
    error: Exception | None = None
    of_memory: bool = False
    preempted: bool = False


def _answer_of(reference: Any) -> Any:
    """What an actor's call has returned, or what ended it."""
    import ray
    from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        # Ours speak for themselves; of a bug Ray's error shows where in which process it was.
        ours = isinstance(cause, MedrdError | InterruptedRunError)
        return _End(_in_words(cause), cause if ours else error)
    except RayError as error:
        return _End(
            _in_words(error),
            of_memory=isinstance(error, OutOfMemoryError),
            preempted=isinstance(error, RayActorError) and error.preempted,
        )


def _in_words(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
