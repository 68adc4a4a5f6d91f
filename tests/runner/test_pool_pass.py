"""A pool's bookkeeping on a stand-in for Ray: what is begun, done again, and given up.

With Ray itself: tests/runner/test_pool.py.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medrd.errors import ConfigError, LeakageError, ModelError
from medrd.run.signals import InterruptedRunError
from medrd.runner import pool_pass as pool_round
from medrd.runner.actor import lost_input
from medrd.runner.cluster import Cluster, ray_cluster, settle_environment
from medrd.runner.pool import Pool, Share
from medrd.runner.pool_pass import LostItem

Make = Callable[[], Callable[[Any], Any]]


class Died(BaseException):
    """Ends a process; Ray then raises what it is called with."""


def die() -> Any:
    from ray.exceptions import ActorDiedError

    raise Died(ActorDiedError())


def short_of_memory() -> Any:
    from ray.exceptions import OutOfMemoryError

    raise Died(OutOfMemoryError("the node was running low on memory"))


@dataclass(eq=False)
class Call:
    """What an actor is asked; it works when its answer is fetched."""

    number: int
    arguments: tuple[Any, ...]
    work: Callable[[], Any]


class StandIn:
    """Ray's five functions in this process. Who was asked first answers first, but slow items last.

    Attributes
    ----------
    asked, under_way
        Items that were given to actors, and those of them that have not been answered.
    begun, ended
        How many actors.
    """

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.under_way: set[Any] = set()
        self.slow: set[Any] = set()
        self.begun = self.ended = 0
        self._numbers = count()

    def put(self, value: Any) -> Any:
        return value

    def remote(self, **share: float) -> Callable[[Any], Any]:
        return lambda kind: SimpleNamespace(remote=lambda make: self._begin(kind(make)))

    def _begin(self, actor: Any) -> Any:
        self.begun += 1
        return SimpleNamespace(
            ready=SimpleNamespace(remote=lambda: self._ask(actor.ready)),
            do=SimpleNamespace(remote=lambda item: self._ask(actor.do, item)),
        )

    def _ask(self, work: Callable[..., Any], *items: Any) -> Call:
        self.asked.extend(items)
        self.under_way.update(items)
        return Call(next(self._numbers), items, partial(work, *items))

    def wait(self, calls: list[Call], num_returns: int, timeout: float) -> Any:
        first = min(calls, key=lambda call: (bool(self.slow & {*call.arguments}), call.number))
        return [first], [call for call in calls if call is not first]

    def get(self, call: Call) -> Any:
        from ray.exceptions import RayTaskError

        try:
            return call.work()
        except Died as death:
            raise death.args[0] from None
        except Exception as error:
            raise RayTaskError("do", f"its traceback there: {error}", error) from None
        finally:
            self.under_way.difference_update(call.arguments)

    def kill(self, actor: Any) -> None:
        self.ended += 1


@pytest.fixture
def ray() -> Any:
    """Ray itself, which reads the environment when it is imported."""
    settle_environment()
    import ray

    return ray


@pytest.fixture
def stand_in(ray: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    found = StandIn()
    for name in ("put", "remote", "wait", "get", "kill"):
        monkeypatch.setattr(ray, name, getattr(found, name))
    yield found
    assert found.ended == found.begun  # none is left behind


def pool(make: Make, actors: int, **options: Any) -> Pool[Any, Any]:
    return Pool(make, Share(actors=actors), Cluster({"CPU": 8.0}, grows=True), **options)


def same(item: Any) -> Any:
    return item


def failing(item: Any, failure: Callable[[], Any]) -> Make:
    """Work that one item fails."""
    return lambda: lambda each: failure() if each == item else each


def raising(error: BaseException) -> Callable[[], Any]:
    def work() -> Any:
        raise error

    return work


# --- Processes that do not get ready ---


def some_places(good: Callable[[int], bool], failure: Callable[[], Any]) -> Make:
    """What fails where a process begins that is not good, by how many began before it."""
    numbers = count()
    return lambda: same if good(next(numbers)) else failure()


FAILURES = [
    (die, ConfigError, "5 that died before, the last one by ActorDiedError"),
    (raising(ModelError("m", expected="a", found="b", remedy="c")), ModelError, "expected a"),
    (raising(RuntimeError("no driver")), Exception, "no driver"),
]


@pytest.mark.parametrize(("failure", "kind", "text"), FAILURES)
def test_bad_places_cost_no_healthy_pool_anything(
    stand_in: StandIn, failure: Callable[[], Any], kind: type[Exception], text: str
) -> None:
    make = some_places(lambda number: number < 6, failure)
    results = dict(pool(make, 8).map(range(200)))
    assert results == {item: item for item in range(200)}
    assert stand_in.begun == 8  # no other is begun at once


@pytest.mark.parametrize(("failure", "kind", "text"), FAILURES)
def test_where_no_place_is_good_that_is_an_error(
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    failure: Callable[[], Any],
    kind: type[Exception],
    text: str,
) -> None:
    monkeypatch.setattr(pool_round, "_LOOK_S", 0.0)
    monkeypatch.setattr(pool_round, "_LONGEST_PAUSE_S", 0.0)
    monkeypatch.setattr(pool_round, "_FIRST_PAUSE_S", 0.0)
    with pytest.raises(kind, match=text):
        dict(pool(some_places(lambda number: False, failure), 2).map("abc"))
    # And one that is good after a while is found.
    assert dict(pool(some_places(lambda number: number == 3, die), 2).map("abc"))[2] == "c"


# --- Items that end their process ---


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (die, "ActorDiedError"),
        (raising(RuntimeError("CUDA error: no such luck\nhint")), "RuntimeError: CUDA error: no"),
        (raising(InterruptedRunError("SIGTERM")), "InterruptedRunError: SIGTERM"),
    ],
)
def test_an_item_that_no_process_gets_through_is_given_up_alone(
    stand_in: StandIn,
    caplog: pytest.LogCaptureFixture,
    failure: Callable[[], Any],
    reason: str,
) -> None:
    results = dict(pool(failing("bad", failure), 2).map(["a", "bad", *"cdefgh"]))
    lost = results.pop(1)
    assert "".join(results.values()) == "acdefgh"
    assert isinstance(lost, LostItem)
    assert lost.attempts == 3
    assert lost.reason.startswith(reason)
    assert stand_in.begun == 2 + 3  # nobody knows what is left in a process after an error
    assert sum("it is done again" in record.message for record in caplog.records) == 2
    assert ("its traceback there" in caplog.text) == ("CUDA" in reason)
    error = lost_input(Path("s.nii.gz"), lost, limit="--max-voxels")
    assert f"3 that did not, the last one by {reason}" in str(error)


def test_one_sigterm_costs_one_beginning_and_a_stop_ends_all(stand_in: StandIn) -> None:
    signals = [signal.SIGTERM]

    def interrupted() -> str:
        if signals:
            signals.pop()
            raise InterruptedRunError("saved")
        return "done"

    assert dict(pool(failing("b", interrupted), 2).map("abc")) == {0: "a", 1: "done", 2: "c"}
    stopping: list[int] = []

    def stopped() -> None:
        stopping.append(1)
        raise InterruptedRunError("saved")

    with pytest.raises(InterruptedRunError, match="saved"):
        dict(pool(failing("b", stopped), 1, should_stop=lambda: bool(stopping)).map("abc"))


def test_a_node_that_a_cloud_takes_back_is_not_the_items_fault(stand_in: StandIn) -> None:
    from ray.exceptions import ActorDiedError

    taken_back = ActorDiedError()
    taken_back._preempted = True
    often = iter([Died(taken_back)] * 5)

    def fail() -> Any:
        for death in often:
            raise death
        return "done"

    assert dict(pool(failing("b", fail), 1).map("abc"))[1] == "done"


def test_what_a_user_must_mend_ends_all(stand_in: StandIn) -> None:
    leakage = LeakageError("s", expected="a", found="b", remedy="c")
    with pytest.raises(LeakageError):
        dict(pool(failing("b", raising(leakage)), 2).map("abc"))


def test_a_request_to_stop_finishes_what_is_under_way(stand_in: StandIn) -> None:
    seen: list[int] = []
    stopping = pool(lambda: same, 2, should_stop=lambda: bool(seen))
    for index, _ in stopping.map(range(9)):
        seen.append(index)
    assert seen == [0, 1]


# --- Memory ---


def too_large(stand_in: StandIn, *, even_alone: bool) -> Make:
    """An item that needs the memory of all."""
    return failing(
        "big",
        lambda: short_of_memory() if even_alone or stand_in.under_way != {"big"} else "done",
    )


@pytest.mark.parametrize("in_order", [False, True])
def test_an_item_too_large_beside_others_is_done_alone(
    stand_in: StandIn, caplog: pytest.LogCaptureFixture, in_order: bool
) -> None:
    items = ["a", "big", *"cdefghijkl"]
    chosen = pool(too_large(stand_in, even_alone=False), 4)
    if in_order:
        results = list(chosen.map_in_order(items))
    else:
        results = [result for _, result in sorted(chosen.map(items))]
        assert stand_in.asked[-1] == "big"  # others did not wait for it
    assert results == ["a", "done", *"cdefghijkl"]
    assert stand_in.begun == 4  # as they were too many for the node
    assert "big: its process has died for want of memory" in caplog.text


def test_an_item_too_large_even_alone_is_given_up(stand_in: StandIn) -> None:
    results = dict(pool(too_large(stand_in, even_alone=True), 3).map(["a", "big", *"cde"]))
    lost = results.pop(1)
    assert "".join(results.values()) == "acde"
    assert isinstance(lost, LostItem)
    assert lost.attempts == 2


def test_nothing_is_begun_for_a_reader_who_is_slow(stand_in: StandIn) -> None:
    """No more results wait than there are processes; in order, than two for each."""
    for taken, _ in enumerate(pool(lambda: same, 3).map(range(30)), start=1):
        assert len(stand_in.asked) <= taken + 3 - 1
    stand_in.asked.clear()
    stand_in.slow = {0}
    begun: list[list[int]] = []

    def work(item: int) -> int:
        if item == 0:
            begun.append(sorted(stand_in.asked))
        return item

    assert list(pool(lambda: work, 2).map_in_order(range(9))) == list(range(9))
    assert begun == [[0, 1, 2, 3]]


# --- Shares ---

ONE = {"CPU": 8.0}
GPUS = {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("share", "nodes", "actors"),
    [
        (Share(), [ONE], 8),
        (Share(cpus=3), [ONE], 2),
        (Share(cpus=3), [ONE] * 3, 6),  # none lies on two nodes
        (Share(), [GPUS], 2),
        (Share(gpus=0.5), [GPUS, ONE], 4),
        (Share(gpus=0.1), [{"CPU": 8.0, "GPU": 1.0}], 8),
        (Share(gpus=0), [GPUS, ONE], 16),
        (Share(actors=5), [{"CPU": 2.0}], 5),
    ],
)
def test_as_many_actors_as_there_is_room_for(
    stand_in: StandIn, share: Share, nodes: list[dict[str, float]], actors: int
) -> None:
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    cluster = Cluster(total, grows=False, nodes=tuple(nodes))
    assert Pool(lambda: same, share, cluster).actors == actors


def test_more_than_a_machine_has_is_refused_and_more_than_a_node_has_is_said(
    stand_in: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=r"--gpus: expected at most the 0 .* found 1"):
        Pool(lambda: same, Share(gpus=1), Cluster({"CPU": 2.0}, grows=False))
    nodes = ({"CPU": 4.0}, {"CPU": 4.0})
    Pool(lambda: same, Share(cpus=4), Cluster({"CPU": 8.0}, grows=True, nodes=nodes))
    assert not caplog.records
    Pool(lambda: same, Share(cpus=5), Cluster({"CPU": 8.0}, grows=True, nodes=nodes))
    assert "no room yet for 1 of 1 processes with 5 CPU each" in caplog.text


def test_a_cluster_that_is_joined_counts_living_nodes_and_hides_gpus(
    ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    nodes = [{"Alive": alive, "Resources": {"CPU": 4.0}} for alive in (True, False, True)]
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **options: asked.update(options))
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with ray_cluster("auto") as cluster:
        assert cluster.room({"CPU": 3.0}) == 2
    assert asked["runtime_env"] == {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}}


def test_gpus_follow_the_device() -> None:
    assert Share().on({"auto"}, key="--device") == Share()
    assert Share().on({"cpu"}, key="--device") == Share(gpus=0)
    assert Share().on({"cuda"}, key="--device") == Share(gpus=1)
    assert Share(gpus=0.5).on({"cuda", "cpu"}, key="--device") == Share(gpus=0.5)
    with pytest.raises(ConfigError, match=r"--device: .* found cuda:1"):
        Share().on({"cuda:1"}, key="--device")
    with pytest.raises(ConfigError, match="--gpus: expected none with --device cpu"):
        Share(gpus=1).on({"cpu"}, key="--device")
    with pytest.raises(ConfigError, match="--gpus: expected a fraction of one GPU"):
        Share(gpus=1.5)
