"""Work done by this process, and outcomes put in order."""

from __future__ import annotations

import threading

from medrd.runner.runner import HERE, in_order


class Task:
    """Work that notes what it does and in which thread."""

    devices = ("--device", ("auto",))

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.read_next = threading.Event()

    def open(self) -> Task:
        self.steps.append("open")
        return self

    def read(self, item: int, /) -> int:
        assert threading.current_thread() is not threading.main_thread()
        self.steps.append(f"read {item}")
        if item:
            self.read_next.set()
        return 10 * item

    def finish(self, loaded: int, /) -> int:
        assert threading.current_thread() is threading.main_thread()
        if loaded == 0:  # the next item is read although this one is not finished
            assert self.read_next.wait(timeout=60)
        self.steps.append(f"finish {loaded}")
        return loaded + 1

    def name(self, item: int, /) -> str:
        return str(item)

    def lost(self, item: int, reason: str, /) -> int:
        raise AssertionError(reason)


def test_this_process_opens_the_work_once_and_reads_ahead() -> None:
    task = Task()
    assert list(HERE.map(task, [0, 1, 2])) == [(0, 1), (1, 11), (2, 21)]
    assert task.steps[0] == "open"
    assert task.steps.index("read 1") < task.steps.index("finish 0")
    assert task.steps.count("open") == 1


def test_a_request_to_stop_finishes_the_item_under_way() -> None:
    task = Task()
    seen: list[int] = []
    for index, _ in HERE.map(task, [0, 1, 2], lambda: bool(seen)):
        seen.append(index)
    assert seen == [0]
    assert [step for step in task.steps if "finish" in step] == ["finish 0"]


def test_outcomes_are_put_in_order_as_soon_as_they_can_be() -> None:
    taken: list[int] = []

    def results() -> object:
        for index in (1, 0, 3, 2, 5):
            taken.append(index)
            yield index, f"outcome {index}"

    ordered = in_order(results())  # type: ignore[arg-type]
    assert next(ordered) == "outcome 0"
    assert taken == [1, 0]
    # What comes after a gap, as after a stop, has no place.
    assert list(ordered) == ["outcome 1", "outcome 2", "outcome 3"]
