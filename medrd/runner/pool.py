"""Work on many items by processes that are made ready once each, on one machine or a cluster.

A pool of Ray's actors, one item at a time each: who dies takes one item with it, which others do
again (:mod:`medrd.runner.pool_pass`), and what is under way never exceeds the number of actors.
An actor reads while others compute; where the device should never wait, let several share one
(``Share.gpus`` of 0.5).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from medrd.errors import ConfigError
from medrd.runner.cluster import Cluster, refuse_too_much
from medrd.runner.pool_pass import LostItem, Round

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Item], Result]

AHEAD = 2
"""Items an actor, counted from the first that is not done, that may have been begun where results
are wanted in order: the others wait in this process's memory."""


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

    Raises
    ------
    ConfigError
        A part of several GPUs.
    """

    cpus: int = 1
    gpus: float | None = None
    actors: int | None = None

    def __post_init__(self) -> None:
        if self.gpus is not None and (self.gpus < 0 or (self.gpus > 1 and self.gpus % 1)):
            raise ConfigError(
                "--gpus",
                expected="a fraction of one GPU, or a whole number of them",
                found=f"{self.gpus:g}",
                remedy="Give 0.5 for two processes a GPU, or 1.",
            )

    def on(self, devices: Collection[str], *, key: str) -> Share:
        """What an actor gets whose work wants these devices, as ``train.device`` names them.

        Raises
        ------
        ConfigError
            A device by number, or GPUs for work that wants none; ``key`` asked for the devices.
        """
        for device in devices:
            if ":" in device:
                raise ConfigError(
                    key,
                    expected="auto, cpu or cuda with --ray, which gives each process its GPU",
                    found=device,
                    remedy="Use auto.",
                )
        if set(devices) == {"cpu"}:
            if self.gpus:
                raise ConfigError(
                    "--gpus",
                    expected=f"none with {key} cpu",
                    found=f"{self.gpus:g}",
                    remedy="Leave one of the two out.",
                )
            return replace(self, gpus=0.0)
        return replace(self, gpus=1.0) if "cuda" in devices and self.gpus is None else self


A_CORE_EACH = Share()


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
        self.actors = share.actors or max(1, cluster.room(wanted))
        self._make = ray.put(make)  # once, however many actors there are
        self._kind: Any = ray.remote(num_cpus=share.cpus, num_gpus=gpus)(_Actor)
        self._name_of = name_of
        self._should_stop = should_stop

    def map(self, items: Sequence[Item]) -> Iterator[tuple[int, Result | LostItem]]:
        """The position of each item and what came of it, in the order in which they are done.

        Raises
        ------
        Exception
            What ``make`` raised, if no actor got ready; MedrdError, if it was raised by the work
            on an item. Whatever else that raises ends the actor, as its death would.
        """
        with self._round(items) as round_:
            yield from round_.run()

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
            for index, result in round_.run():
                # Arrays are views of Ray's store, which is small, and would keep their place there.
                waiting[index] = copy.deepcopy(result)
                while given in waiting:
                    yield waiting.pop(given)
                    given += 1
                    round_.end = given + ahead

    @contextmanager
    def _round(self, items: Sequence[Item]) -> Iterator[Round[Item, Result]]:
        round_: Round[Item, Result] = Round(items, self._begin, self._name_of, self._should_stop)
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
