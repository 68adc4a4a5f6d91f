"""Work on many items by processes that are made ready once each, on one machine or a cluster.

A pool of Ray's actors, one item at a time each: who dies takes one item with it, which others do
again, and what is under way never exceeds the number of actors. An actor reads while others
compute; where the device should never wait, let several share one (``Share.gpus`` of 0.5).
"""

from __future__ import annotations

import copy
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from medrd.errors import ConfigError, MedrdError
from medrd.workflows.cluster import Cluster, refuse_too_much
from medrd.workflows.interrupt import InterruptedRunError

logger = logging.getLogger("medrd.ray")

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Item], Result]

ATTEMPTS = 3
"""As often an item is begun; it may be the item that kills."""
AHEAD = 2
"""Items an actor, counted from the first that is not done, that may have been begun where results
are wanted in order: the others wait in this process's memory."""
_LOOK_S = 0.2
_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Share:
    """What an actor gets.

    Attributes
    ----------
    cpus
        Cores.
    gpus
        A fraction shares one. None: a whole one where the cluster has any, else none.
    actors
        How many; None: as many as the cluster has room for.
    """

    cpus: int = 1
    gpus: float | None = None
    actors: int | None = None


A_CORE_EACH = Share()


@dataclass(frozen=True)
class LostItem:
    """An item that was given up: its process has died each time.

    Attributes
    ----------
    reason
        The last one, by Ray's account.
    """

    attempts: int
    reason: str


class Pool(Generic[Item, Result]):
    """Actors that do the same to many items.

    Parameters
    ----------
    make
        Called once in each actor's process; what it returns is called with each item there. It
        travels to the actor, and items and results travel each time.
    share
        What an actor gets.
    name_of
        An item's name in messages.
    should_stop
        Looked at all the time; True begins nothing more, and what is under way is finished.

    Raises
    ------
    ConfigError
        An actor asks for more than a machine alone has.
    """

    def __init__(
        self,
        make: Callable[[], Work[Item, Result]],
        share: Share,
        cluster: Cluster,
        *,
        name_of: Callable[[Item], str] = str,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        import ray

        gpus = (1.0 if cluster.amount("GPU") else 0.0) if share.gpus is None else share.gpus
        wanted = {"CPU": float(share.cpus), "GPU": gpus}
        refuse_too_much(cluster, wanted, key="--{name}", remedy="Lower --{name}.")
        self.actors = share.actors or _room(cluster, wanted)
        self._make = ray.put(make)  # once, however many actors there are
        self._kind: Any = ray.remote(num_cpus=share.cpus, num_gpus=gpus)(_Actor)
        self._name_of = name_of
        self._should_stop = should_stop

    def map(self, items: Sequence[Item]) -> Iterator[tuple[int, Result | LostItem]]:
        """The position of each item and what came of it, in the order in which they are done.

        Raises
        ------
        Exception
            Whatever ``make`` raised, or the work on an item.
        """
        with self._round(items) as round_:
            yield from round_.run(self._should_stop)

    def map_in_order(self, items: Sequence[Item]) -> Generator[Result | LostItem, None, None]:
        """What came of each item, in the items' order.

        A result waits for those before it, and new items are not begun while :data:`AHEAD` of
        them for each actor do: one slow item, or one that is done again, does not fill the memory.

        Raises
        ------
        Exception
            As of :meth:`map`.
        """
        ahead = AHEAD * self.actors
        waiting: dict[int, Result | LostItem] = {}
        given = 0
        with self._round(items) as round_:
            round_.end = ahead
            for index, result in round_.run(self._should_stop):
                # Arrays are views of Ray's store, which is small, and would keep their place there.
                waiting[index] = copy.deepcopy(result)
                while given in waiting:
                    yield waiting.pop(given)
                    given += 1
                    round_.end = given + ahead

    @contextmanager
    def _round(self, items: Sequence[Item]) -> Iterator[_Round[Item, Result]]:
        round_: _Round[Item, Result] = _Round(items, self._begin, self._name_of)
        try:
            round_.begin(min(self.actors, len(items)))
            yield round_
        finally:
            round_.dismiss()

    def _begin(self) -> Any:
        return self._kind.remote(self._make)


class _Actor:
    """What runs in an actor's process."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._make = make
        self._work: Callable[[Any], Any] | None = None

    def ready(self) -> None:
        """Apart from the beginning, where Ray would make of an error a mere death."""
        self._work = self._make()

    def do(self, item: Any) -> Any:
        assert self._work is not None  # it has been made ready
        return self._work(item)


class _Round(Generic[Item, Result]):
    """One pass over items: who does what, what is left, and how often it was tried.

    Attributes
    ----------
    end
        Items from this position on are not begun yet.
    """

    def __init__(
        self, items: Sequence[Item], begin: Callable[[], Any], name_of: Callable[[Item], str]
    ) -> None:
        self.end = len(items)
        self._items = items
        self._begin = begin
        self._name_of = name_of
        self._left = deque(range(len(items)))
        self._attempts = [0] * len(items)
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._busy: dict[Any, tuple[Any, int]] = {}
        self._quiet_since = time.monotonic()
        self._actors = self._stillborn = 0

    def begin(self, actors: int) -> None:
        """Have so many actors made ready."""
        self._actors = actors
        for _ in range(actors):
            self.add_actor()

    def add_actor(self) -> None:
        """One more, that will take items once it is ready."""
        actor = self._begin()
        self._starting[actor.ready.remote()] = actor

    def dismiss(self) -> None:
        """End all actors."""
        import ray

        for actor in (*self._idle, *self._starting.values(), *(a for a, _ in self._busy.values())):
            ray.kill(actor)

    def run(self, should_stop: Callable[[], bool]) -> Iterator[tuple[int, Result | LostItem]]:
        """Until nothing is left, or until what was begun is done."""
        import ray

        while True:
            while self._idle and self._left and self._left[0] < self.end and not should_stop():
                self._give(self._idle.pop(), self._left.popleft())
            if not self._busy and (not self._left or should_stop()):
                return
            known = [*self._busy, *self._starting]
            done, _ = ray.wait(known, num_returns=1, timeout=_LOOK_S)
            self._complain_if_nothing_moves(bool(done))
            for reference in done:
                if reference in self._starting:
                    self._take_in(reference)
                else:
                    yield from self._result_of(reference)

    def _give(self, actor: Any, index: int) -> None:
        self._attempts[index] += 1
        self._busy[actor.do.remote(self._items[index])] = (actor, index)

    def _take_in(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        answer = _answer_of(reference)
        if isinstance(answer, _Death):
            self._stillborn += 1
            if self._stillborn > ATTEMPTS * self._actors:
                raise ConfigError(
                    "Ray",
                    expected="processes that get ready",
                    found=f"{self._stillborn} that died before, the last one by {answer.reason}",
                    remedy="Look into Ray's logs (/tmp/ray/session_latest/logs).",
                )
            logger.warning("a process died before it was ready (%s)", answer.reason)
            self.add_actor()
        else:
            self._stillborn = 0
            self._idle.append(actor)

    def _result_of(self, reference: Any) -> Iterator[tuple[int, Result | LostItem]]:
        import ray

        actor, index = self._busy.pop(reference)
        answer = _answer_of(reference)
        if not isinstance(answer, _Death):
            self._idle.append(actor)
            yield index, answer
            return
        ray.kill(actor)  # it may be its node that is out of reach
        self.add_actor()
        name = self._name_of(self._items[index])
        if self._attempts[index] < ATTEMPTS:
            logger.warning("%s: its process has died (%s); it is done again", name, answer.reason)
            self._left.appendleft(index)
        else:
            yield index, LostItem(self._attempts[index], answer.reason)

    def _complain_if_nothing_moves(self, moved: bool) -> None:
        now = time.monotonic()
        if moved or self._busy:
            self._quiet_since = now
        elif now - self._quiet_since > _PATIENCE_S:
            self._quiet_since = now
            logger.warning("waiting for processes: they are starting, or no node has room")


@dataclass(frozen=True)
class _Death:
    """Of a process that owed an answer."""

    reason: str


def _answer_of(reference: Any) -> Any:
    """What an actor's call has returned, or the actor's death.

    Raises
    ------
    Exception
        What the code itself raised: that is no death.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        # Ours speak for themselves; of a bug Ray's error shows where in which process it was.
        if isinstance(cause, MedrdError | InterruptedRunError):
            raise cause from None
        raise
    except RayError as error:
        return _Death(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")


def _room(cluster: Cluster, wanted: dict[str, float]) -> int:
    """How many actors fit, by the sums over all nodes; at least one."""
    fits = [int(cluster.amount(n) / amount + 1e-9) for n, amount in wanted.items() if amount]
    return max(1, min(fits, default=1))
