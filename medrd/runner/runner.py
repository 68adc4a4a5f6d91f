"""Runners of work: one interface for every command that processes many items.

A command describes its work (:class:`Work`) and gives it to a :class:`Runner`: :class:`Here`, which
is this process, or :class:`medrd.runner.on_ray.Ray`, which is many.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from medrd.errors import InputError
from medrd.run.read_ahead import read_ahead

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
_Item_contra = TypeVar("_Item_contra", contravariant=True)
_Outcome_co = TypeVar("_Outcome_co", covariant=True)


def never() -> bool:
    """The ``should_stop`` of work that is never stopped."""
    return False


class Worker(Protocol[_Item_contra, _Outcome_co]):
    """Work that has been set up in a process, with the model loaded.

    An error of one item is returned as its outcome. A raised error ends the whole call.
    """

    def read(self, item: _Item_contra, /) -> Any:
        """Read an item. May run in a thread while another item is being finished."""
        ...

    def finish(self, loaded: Any, /) -> _Outcome_co:
        """Process what :meth:`read` returned."""
        ...


class Work(Protocol[_Item_contra, _Outcome_co]):
    """A picklable description of what is done to each item."""

    @property
    def devices(self) -> tuple[str, Collection[str]]:
        """The devices that the work runs on (``auto``, ``cpu``, ``cuda``, ``cuda:1``), after the
        option or the config key that named them."""
        ...

    def open(self) -> Worker[_Item_contra, _Outcome_co]:
        """Set the work up; called once in each process.

        Raises
        ------
        MedrdError
            The process lacks what the work needs, such as the model's file.
        """
        ...

    def name(self, item: _Item_contra, /) -> str:
        """The item's name in messages."""
        ...

    def lost(self, item: _Item_contra, reason: str, /) -> _Outcome_co:
        """The outcome of an item that was given up because no process could finish it."""
        ...


class Runner(Protocol):
    """Runs work on many items."""

    def map(
        self,
        work: Work[Item, Outcome],
        items: Sequence[Item],
        should_stop: Callable[[], bool] = never,
    ) -> Generator[tuple[int, Outcome], None, None]:
        """Do the work on every item.

        Parameters
        ----------
        should_stop
            Polled. Once it returns true, no further item is started; running ones are finished.

        Yields
        ------
        tuple
            An item's position and its outcome, in the order in which items are finished.

        Raises
        ------
        MedrdError
            What ``work.open`` raised, or what the work raised on an item.
        """
        ...


class Here:
    """Runs work in this process, one item at a time, and reads the next one meanwhile."""

    def map(
        self,
        work: Work[Item, Outcome],
        items: Sequence[Item],
        should_stop: Callable[[], bool] = never,
    ) -> Generator[tuple[int, Outcome], None, None]:
        """See :meth:`Runner.map`; outcomes come in the order of the items.

        The work is opened at once, so that its errors come before any progress is shown.
        """
        worker = work.open()
        return (each for each in enumerate(work_through(worker, items, should_stop)))


HERE = Here()


def work_through(
    worker: Worker[Item, Outcome], items: Sequence[Item], should_stop: Callable[[], bool] = never
) -> Iterator[Outcome]:
    """The outcomes of a worker that has been set up already, in the order of the items."""
    for _, loaded in read_ahead(items, worker.read):
        if should_stop():
            return
        outcome = worker.finish(loaded)
        del loaded  # to free memory while the next is read
        yield outcome


def in_order(results: Iterable[tuple[int, Outcome]]) -> Iterator[Outcome]:
    """The outcomes of :meth:`Runner.map` in the order of the items.

    Each outcome waits in memory for those before it.
    """
    waiting: dict[int, Outcome] = {}
    due = 0
    for index, outcome in results:
        waiting[index] = outcome
        while due in waiting:
            yield waiting.pop(due)
            due += 1


def lost_input(file: Path, reason: str, *, limit: str) -> InputError:
    """The error of an input that no process could finish.

    Parameters
    ----------
    limit
        The option or config key that limits the size of an input.
    """
    return InputError(
        file,
        expected="an input that a process can finish",
        found=reason,
        remedy="It may need more memory than there is: start fewer processes with --actors, or "
        f"refuse inputs of its size with {limit}. The log has the error, and Ray's logs "
        "(/tmp/ray/session_latest/logs) show what killed a process.",
    )
