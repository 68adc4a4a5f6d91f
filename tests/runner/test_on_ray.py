"""Ray actors with items that fail, that kill their process, or whose results are not awaited."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from medrd.errors import ConfigError, LeakageError, ModelError
from medrd.run.signals import InterruptedRunError
from medrd.runner.cluster import Cluster, ray_cluster, refuse_too_much, settle_environment
from medrd.runner.on_ray import Ray
from warm_ray import warm_ray


@pytest.fixture(scope="module")
def ray(warm_workers: str) -> Iterator[Any]:
    """Ray on this machine: two cores, and one GPU as far as Ray knows."""
    with warm_ray(num_gpus=1):
        import ray

        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield ray


@dataclass(frozen=True)
class Task:
    """Work of which each item is done by calling it, or by returning it."""

    opening: Callable[[], None] | None = None
    devices: tuple[str, Collection[str]] = ("--device", ("auto",))

    def open(self) -> Task:
        if self.opening is not None:
            self.opening()
        return self

    def read(self, item: Any, /) -> Any:
        return item

    def finish(self, item: Any, /) -> Any:
        return item() if callable(item) else item

    def name(self, item: Any, /) -> str:
        return f"item {item}"

    def lost(self, item: Any, reason: str, /) -> str:
        return f"lost: {reason}"


def outcomes(runner: Ray, items: list[Any], task: Task | None = None) -> list[Any]:
    return [outcome for _, outcome in sorted(runner.map(task or Task(), items))]


def die() -> None:
    """Die like a process that the kernel kills for lack of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_item_that_fails_costs_no_other_item_anything(
    ray: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def bug() -> None:
        raise RuntimeError("CUDA error: no such luck\nhint")

    def interrupted() -> str:  # as a training that saves itself on SIGTERM
        if not (tmp_path / "saved").exists():
            (tmp_path / "saved").touch()
            raise InterruptedRunError("saved")
        return "gone on"

    def terminated() -> str:
        if not (tmp_path / "begun").exists():
            (tmp_path / "begun").touch()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return "done"

    items = [os.getpid, bug, os.getpid, interrupted, terminated, 1, die, *range(2, 8)]
    first, buggy, second, again, whole, *others = outcomes(Ray(actors=1), items)
    assert buggy == "lost: an unexpected error: RuntimeError: CUDA error: no such luck"
    assert "in bug" in caplog.text  # its traceback
    assert first != second  # nobody knows what an error leaves in a process
    assert (again, whole) == ("gone on", "done")
    assert others[1].startswith("lost: 3 processes that died on it (Actor")
    assert [*others[:1], *others[2:]] == list(range(1, 8))


def test_what_the_user_must_mend_ends_all(ray: Any) -> None:
    def leak() -> None:
        raise LeakageError("s", expected="a", found="b", remedy="c")

    with pytest.raises(LeakageError, match="s: expected a; found b"):
        outcomes(Ray(actors=1), [leak, 1])


def test_a_process_that_cannot_be_set_up_is_left_out(
    ray: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_once() -> None:
        try:
            (tmp_path / "failed").touch(exist_ok=False)
        except FileExistsError:
            return
        raise RuntimeError("no driver")

    assert outcomes(Ray(actors=2), [1, 2, 3], Task(fail_once)) == [1, 2, 3]
    assert "could not be set up and is left out: RuntimeError: no driver" in caplog.text

    def fail() -> None:
        raise ModelError("m", expected="a", found="b", remedy="c")

    with pytest.raises(ModelError, match="m: expected a; found b"):
        outcomes(Ray(actors=2), [1, 2, 3], Task(fail))
    with pytest.raises(ConfigError, match=r"Ray: .* found processes that died"):
        outcomes(Ray(actors=1), [1], Task(die))


def test_a_request_to_stop_finishes_what_is_under_way(ray: Any) -> None:
    seen: list[int] = []
    for index, _ in Ray(actors=1).map(Task(), list(range(9)), lambda: bool(seen)):
        seen.append(index)
    assert seen == [0]
    assert not list(Ray().map(Task(), list(range(9)), lambda: True))


@pytest.mark.parametrize(("gpus", "seen"), [(0, ""), (1, "0")])
def test_a_process_sees_the_gpus_that_it_was_given_and_no_other(
    ray: Any, gpus: float, seen: str
) -> None:
    def visible() -> str | None:
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    assert outcomes(Ray(gpus=gpus, actors=1), [visible]) == [seen]


# --- Resources ---

ONE = {"CPU": 8.0}
GPUS = {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("cpus", "gpus", "nodes", "room"),
    [
        (1, 0, [ONE], 8),
        (3, 0, [ONE], 2),
        (3, 0, [ONE] * 3, 6),  # none spans two nodes
        (1, 1, [GPUS], 2),
        (1, 0.5, [GPUS, ONE], 4),
        (1, 0.1, [{"CPU": 8.0, "GPU": 1.0}], 8),
        (1, 0, [GPUS, ONE], 16),
    ],
)
def test_as_many_processes_as_there_is_room_for(
    cpus: float, gpus: float, nodes: list[dict[str, float]], room: int
) -> None:
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    cluster = Cluster(total, grows=False, nodes=tuple(nodes))
    assert cluster.room({"CPU": cpus, "GPU": gpus}) == room


def test_more_than_a_machine_has_is_refused_and_a_cluster_is_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = {"key": "--{name}", "remedy": "Lower --{name}."}
    with pytest.raises(ConfigError, match=r"--gpus: expected at most the 0 .* found 1"):
        refuse_too_much(Cluster({"CPU": 2.0}, grows=False), {"CPU": 1, "GPU": 1}, **options)
    nodes = ({"CPU": 4.0}, {"CPU": 4.0})
    cluster = Cluster({"CPU": 8.0}, grows=True, nodes=nodes)
    refuse_too_much(cluster, {"CPU": 4}, **options)
    assert not caplog.records
    refuse_too_much(cluster, {"CPU": 5}, **options)
    assert "lacks resources for 1 of 1 processes with 5 CPU each" in caplog.text


def test_a_cluster_that_is_joined_counts_living_nodes_and_hides_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settle_environment()
    import ray

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


@pytest.mark.parametrize(
    ("devices", "gpus", "text"),
    [
        ({"cuda:1"}, None, "--device: .* found cuda:1"),
        ({"cpu"}, 1, "--gpus: expected none with --device cpu"),
    ],
)
def test_devices_that_do_not_go_with_ray_are_refused_before_it_starts(
    devices: set[str], gpus: float | None, text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        next(Ray(gpus=gpus).map(Task(devices=("--device", devices)), [1]))
    with pytest.raises(ConfigError, match="--gpus: expected a fraction of one GPU"):
        Ray(gpus=1.5)
