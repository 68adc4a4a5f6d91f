"""Runs work in Ray actors, on this machine or on a cluster.

Each actor sets the work up once and has one item at a time. If its process or node dies, a new
actor gets the same item. Ray is imported inside the functions, so that everything else works
without it.
"""

from __future__ import annotations

import copy
import logging
import traceback
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from medrd.errors import ConfigError, MedrdError
from medrd.run.signals import InterruptedRunError
from medrd.runner.cluster import (
    StallWarning,
    enter,
    given_address,
    ray_cluster,
    refuse_too_much,
)
from medrd.runner.runner import Work, Worker, never

logger = logging.getLogger("medrd.ray")

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

RETRIES = 2
"""Retries of an item after its process died, as the item itself may kill processes. Ray's own
``max_task_retries`` would also count attempts of a restarted actor that its dying node refused,
before the item had any effect."""
_LOOK_S = 0.2


@dataclass(frozen=True)
class Ray:
    """Ray actors with equal resources; see :class:`medrd.runner.runner.Runner`.

    Attributes
    ----------
    cpus
        Cores of each actor, and its threads.
    gpus
        GPUs of each actor; with a fraction, actors share one. None: a whole GPU if the cluster has
        any.
    actors
        Number of actors; None: as many as fit on the cluster.
    address
        Address of a Ray cluster (``auto`` on one of its nodes). None: ``RAY_ADDRESS``, or else a
        local Ray for the duration of the call.

    Raises
    ------
    ConfigError
        ``gpus`` is a fraction above 1.
    """

    cpus: int = 1
    gpus: float | None = None
    actors: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.gpus is not None and (self.gpus < 0 or (self.gpus > 1 and self.gpus % 1)):
            raise ConfigError(
                "--gpus",
                expected="a fraction of one GPU, or a whole number of them",
                found=f"{self.gpus:g}",
                remedy="Give 0.5 for two processes per GPU, or 1.",
            )

    def map(
        self,
        work: Work[Item, Outcome],
        items: Sequence[Item],
        should_stop: Callable[[], bool] = never,
    ) -> Generator[tuple[int, Outcome], None, None]:
        """See :meth:`medrd.runner.runner.Runner.map`.

        An item whose process died is tried again :data:`RETRIES` times and then given up. An item
        on which the work raised an unexpected error is given up at once.

        Raises
        ------
        ConfigError
            No cluster answers at the address, this machine has too few resources, GPUs are
            requested for work on the CPU, the device has a number, or no actor can be set up.
        """
        gpus = self._gpus_for(*work.devices)
        if not items:
            return
        with ray_cluster(given_address(self.address)) as cluster:
            import ray

            if gpus is None:
                gpus = 1.0 if cluster.amount("GPU") else 0.0
            each = {"CPU": float(self.cpus), "GPU": gpus}
            refuse_too_much(cluster, each, key="--{name}", remedy="Lower --{name}.")
            kind: Any = ray.remote(num_cpus=self.cpus, num_gpus=gpus)(_Actor)
            order = ray.put((work, Path.cwd(), self.cpus))
            actors = self.actors or max(1, cluster.room(each))
            pool = _Pool(kind, order, work, items)
            yield from pool.run(min(actors, len(items)), should_stop)

    def _gpus_for(self, key: str, devices: Collection[str]) -> float | None:
        """GPUs of each actor for work on these devices; None: one if there are any."""
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
                    remedy="Remove one of the two options.",
                )
            return 0.0
        return 1.0 if "cuda" in devices and self.gpus is None else self.gpus


class _Actor:
    """Runs in its own process."""

    _worker: Worker[Any, Any]

    def open(self, order: list[Any]) -> None:
        """Set the work up. Ray would report an error in ``__init__`` only as a death.

        Parameters
        ----------
        order
            A reference to the work, the caller's folder and the number of threads. It is in a list
            so that Ray does not resolve it before this process sees the caller's folder.
        """
        import ray
        import torch

        work, folder, threads = ray.get(order[0])
        enter(folder)
        torch.set_num_threads(threads)
        self._worker = work.open()

    def do(self, item: Any) -> Any:
        return self._worker.finish(self._worker.read(item))


class _Pool:
    """The actors, and the items that remain for them."""

    def __init__(self, kind: Any, order: Any, work: Work[Any, Any], items: Sequence[Any]) -> None:
        self._kind, self._order = kind, [order]
        self._work, self._items = work, items
        self._left = deque(range(len(items)))
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, int]] = {}
        self._deaths: Counter[int] = Counter()
        """Item -> number of processes that died or were interrupted while working on it."""
        self._dead_starts = 0
        """Number of consecutive processes that died before they were set up, as on a dying node."""

    def run(
        self, actors: int, should_stop: Callable[[], bool]
    ) -> Generator[tuple[int, Any], None, None]:
        import ray

        stall = StallWarning()
        try:
            for _ in range(actors):
                self._add_actor()
            while True:
                if should_stop():
                    self._left.clear()
                while self._idle and self._left:
                    self._begin(self._idle.pop(), self._left.popleft())
                if not self._left:
                    self._dismiss(*self._idle, *self._starting.values())
                    self._idle.clear()
                    self._starting.clear()
                if not (self._left or self._busy):
                    return
                done, _ = ray.wait([*self._busy, *self._starting], timeout=_LOOK_S)
                stall.check(at_work=bool(done or self._busy))
                for reference in done:
                    if reference in self._starting:
                        self._welcome(reference)
                    else:
                        yield from self._result(reference)
        finally:
            busy = (actor for actor, _ in self._busy.values())
            self._dismiss(*self._idle, *self._starting.values(), *busy)

    def _add_actor(self) -> None:
        actor = self._kind.remote()
        self._starting[actor.open.remote(self._order)] = actor

    def _begin(self, actor: Any, index: int) -> None:
        item = self._items[index]
        call = actor.do.options(name=self._work.name(item)).remote(item)  # named in Ray's log
        self._busy[call] = actor, index

    def _welcome(self, reference: Any) -> None:
        """Give an actor work, or continue without it if it could not be set up."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        actor = self._starting.pop(reference)
        try:
            ray.get(reference)
        except RayError as error:
            self._dismiss(actor)
            if not isinstance(error, RayTaskError) and self._dead_starts < RETRIES:
                self._dead_starts += 1
                self._add_actor()
                return
            if not (self._idle or self._busy or self._starting):
                raise _mendable(error) from None
            logger.warning("a process could not be set up and is left out: %s", _in_words(error))
        else:
            self._dead_starts = 0
            self._idle.append(actor)

    def _result(self, reference: Any) -> Iterator[tuple[int, Any]]:
        """An item's position and outcome; nothing if the item is to be tried again."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        actor, index = self._busy.pop(reference)
        try:
            # A copy: arrays would be views that keep their place in Ray's store.
            outcome = copy.deepcopy(ray.get(reference))
        except RayError as error:
            self._dismiss(actor)  # the error may have left it in a bad state
            cause = getattr(error, "cause", None)
            # Work that SIGTERM interrupts saves itself, and continues when it is tried again.
            died = not isinstance(error, RayTaskError) or isinstance(cause, InterruptedRunError)
            if isinstance(cause, MedrdError):
                raise cause from None
            self._deaths[index] += died
            again = died and self._deaths[index] <= RETRIES
            if again:
                self._left.appendleft(index)
            if self._left:
                self._add_actor()
            if again:
                return
            if died:
                reason = f"{RETRIES + 1} processes that died on it ({type(error).__name__})"
            else:
                logger.error("%s", "".join(traceback.format_exception(error)))
                reason = f"an unexpected error: {_in_words(error)}"
            yield index, self._work.lost(self._items[index], reason)
        else:
            self._idle.append(actor)
            yield index, outcome

    def _dismiss(self, *actors: Any) -> None:
        import ray

        for actor in actors:
            ray.kill(actor)


def _mendable(error: Exception) -> Exception:
    """The error of a call for which no actor could be set up."""
    from ray.exceptions import RayTaskError

    if isinstance(error, RayTaskError):
        cause = error.cause
        # For a bug, Ray's error shows the process and the line.
        return cause if isinstance(cause, MedrdError) else error
    return ConfigError(
        "Ray",
        expected="processes that can be set up",
        found=f"processes that died before they could work ({type(error).__name__})",
        remedy="Look into Ray's logs (/tmp/ray/session_latest/logs).",
    )


def _in_words(error: Exception) -> str:
    error = getattr(error, "cause", None) or error
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
