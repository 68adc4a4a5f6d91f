"""``medrd train --workers``: workers that die, stop or fail, and what they cannot do."""

from __future__ import annotations

import json
import logging
import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from medrd.config import make_config
from medrd.data.slices import HealthySlices
from medrd.errors import ConfigError, ModelError
from medrd.run.cohort import load_cohort, try_sides
from medrd.run.device import choose_execution
from medrd.run.folder_lock import lock_folder
from medrd.run.signals import InterruptedRunError, StopRequest
from medrd.runner.cluster import Cluster, settle_environment
from medrd.training import on_ray as module
from medrd.training.board import Board
from medrd.training.fit import fit
from medrd.training.on_ray import resources_each, train_on_ray
from medrd.training.setup import Training, build_detector_for
from medrd.training.train import train
from medrd.training.worker import Worker
from workers import in_processes, without_compiler

DAE = {"name": "dae", "base": 4, "depth": 1, "lr": 0.001}
STORE = 100 * 2**20
LOCK = ".medrd.lock"


def killing(folder: Path) -> Callable[[dict[str, Any]], Any]:
    """A worker, of which the second dies once in the second epoch. (Nested, so that it travels by
    value.)"""
    leave_out_compiler = without_compiler()

    def work(settings: dict[str, Any]) -> Any:
        import torch.distributed as dist

        from medrd.training.loop import Loop
        from medrd.training.on_ray import work

        leave_out_compiler()
        iteration, dead = Loop.iteration, folder / "dead"

        def patched(self: Loop, slices: Any, position: Any, **weight: float) -> Any:
            here = (position.epoch, position.batch, dist.get_rank())
            if here == (1, 2, 1) and not dead.exists():
                dead.touch()
                os.kill(os.getpid(), 9)
            return iteration(self, slices, position, **weight)

        Loop.iteration = patched  # type: ignore[method-assign]
        return work(settings)

    return work


def listening(folder: Path) -> Callable[[dict[str, Any]], Any]:
    """A worker that waits for a stop after its first batch."""
    leave_out_compiler = without_compiler()

    def work(settings: dict[str, Any]) -> Any:
        import ray

        from medrd.training.loop import Loop
        from medrd.training.on_ray import work

        leave_out_compiler()
        iteration, board = Loop.iteration, settings["order"].board

        def patched(*args: Any, **weight: float) -> Any:
            losses = iteration(*args, **weight)
            (folder / "working").touch()
            deadline = time.monotonic() + 60
            while not ray.get(board.is_stopping.remote()) and time.monotonic() < deadline:
                time.sleep(0.02)
            return losses

        Loop.iteration = patched  # type: ignore[method-assign]
        return work(settings)

    return work


def leave_out_helpers(patch: pytest.MonkeyPatch) -> None:
    """Spare each group of workers the processes for preempted nodes, for data sets of Ray's and for
    what a dead controller leaves, which import pandas."""
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    create = DataParallelTrainer._create_default_callbacks
    helpers = ("DatasetsCallback", "PlacementGroupCleanerCallback")
    patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    patch.setattr(
        DataParallelTrainer,
        "_create_default_callbacks",
        lambda self: [each for each in create(self) if type(each).__name__ not in helpers],
    )


@pytest.fixture(scope="module")
def ray_here(prompt_ray: None) -> Iterator[None]:
    """Ray with two cores, and this process connected to it."""
    settle_environment()
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # an end is seen only then
        leave_out_helpers(patch)
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=STORE,
            log_to_driver=False,
        )
        yield
        ray.shutdown()


@pytest.fixture
def raw(tiny_raw: dict[str, Any]) -> dict[str, Any]:
    return small(tiny_raw)


def small(raw: dict[str, Any]) -> dict[str, Any]:
    """A run with simulated noise whose batches of 5 cannot be halved."""
    raw["recipe"]["size"] = 32
    raw["train"] |= {"epochs": 2, "batch_size": 5}
    return raw | {"model": DAE}


@pytest.fixture(scope="module")
def whole(tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two workers that nobody disturbed, made without Ray; read only."""
    config = make_config(small(yaml.safe_load(tiny_yaml.read_text(encoding="utf-8"))))
    out = tmp_path_factory.mktemp("whole")
    cohort = load_cohort(config)
    cached, _ = try_sides(cohort, ("train",), config)
    subjects = [cached[subject.id] for subject in cohort.side("train")]
    slices = HealthySlices(subjects, margin=config.data.healthy_margin)
    execution = choose_execution("cpu", "fp32")

    def work(worker: Worker) -> None:
        detector = execution.place(build_detector_for(config))
        training = Training(config, out, slices, detector, execution)
        fit(training, should_stop=lambda: False, worker=worker)

    (out / "config.yaml").write_text(config.to_yaml())
    in_processes(2, tmp_path_factory.mktemp("meeting"), work)
    return train(config, out, resume=True)  # calibrates and saves


def names(run: Path) -> set[str]:
    files = (path for path in run.rglob("*") if path.is_file() and path.name != LOCK)
    return {str(path.relative_to(run)) for path in files if "tfevents" not in path.name}


def reports(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_killed_worker_costs_an_epoch_and_changes_nothing(
    whole: Path,
    ray_here: None,
    raw: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "work", killing(tmp_path))
    with caplog.at_level(logging.INFO, logger="medrd"):
        run = train_on_ray(make_config(raw), tmp_path / "run", workers=2)
    assert (tmp_path / "dead").exists()
    assert names(run) == names(whole)
    weights, wanted = (load_file(r / "model" / "model.safetensors") for r in (run, whole))
    for key, tensor in wanted.items():
        torch.testing.assert_close(weights[key], tensor, rtol=1e-5, atol=1e-7)
    for found, line in zip(reports(run), reports(whole), strict=True):
        assert found["losses"] == pytest.approx(line["losses"], rel=1e-6)
    told = json.loads((run / "run.json").read_text(encoding="utf-8"))["workers"]
    assert told == {"count": 2, "device": "cpu", "precision": "fp32", "threads": 1, "restarts": 1}
    said = [r.message for r in caplog.records]
    assert said.count("a worker has died; all workers restart from the last checkpoint") == 1
    assert [m[:8] for m in said if m.startswith("epoch ")] == ["epoch 1:", "epoch 2:"]


class AskedOnceTheyWork(StopRequest):
    """A stop that is asked for after the first batch; until a worker waits for the run's lock,
    another process holds it."""

    def __init__(self, run: Path, working: Path) -> None:
        run.mkdir()
        self.run, self.working, self.waited, self.held = run, working, False, ExitStack()
        self.held.enter_context(lock_folder(run, "training"))

    def __bool__(self) -> bool:
        locks = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
        lock = f":{(self.run / LOCK).stat().st_ino} "
        if not self.waited and any("-> FLOCK" in line and lock in line for line in locks):
            self.waited = True
            assert not self.working.exists()
            self.held.close()
        return self.working.exists()


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="asks Linux who waits for a lock")
def test_a_stop_saves_and_one_process_continues(
    ray_here: None, raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = make_config(raw), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(module, "work", listening(tmp_path))
        asked = AskedOnceTheyWork(out, tmp_path / "working")
        patch.setattr("medrd.training.train.stop_on_signals", lambda: nullcontext(asked))
        with pytest.raises(InterruptedRunError, match=r"in epoch 1 of 2; .* --workers 2$"):
            train_on_ray(config, out, workers=2, resume=True)
    assert asked.waited
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    assert (saved["epoch"], saved["batch"]) == (0, 1)
    assert {path.name for path in out.iterdir() if path.name.startswith(".")} == {LOCK}
    train(config, out, resume=True)
    assert [line["epoch"] for line in reports(out)] == [1, 2]
    assert (out / "model" / "model.json").is_file()


def test_an_error_of_ours_in_a_worker_is_found_in_that_of_ray_train() -> None:
    """The test of a stop has Ray Train itself wrap such an error."""
    from ray.train import WorkerGroupError

    error = ModelError("epoch 1", expected="a finite loss", found="nan", remedy="Lower model.lr.")
    lost = RuntimeError("Connection closed by peer")
    sent = pickle.loads(pickle.dumps(error))
    assert module.raised_by_a_worker(WorkerGroupError("died", {0: lost, 1: sent})) is sent
    assert (str(sent), sent.remedy) == (str(error), "Lower model.lr.")
    assert module.raised_by_a_worker(WorkerGroupError("died", {0: lost})) is None


def test_a_stop_is_heard_by_the_workers_or_known_to_be_unheard() -> None:
    board = Board()
    assert not board.has_begun()
    assert board.begin()
    assert board.has_begun()
    assert not board.is_stopping()
    assert board.stop()
    assert board.is_stopping()
    board = Board()
    assert not board.stop()
    assert not board.begin()  # who comes later must not train on


class Group:
    """Stands for workers that wait for room, or that work until they are stopped."""

    def __init__(self, working: bool) -> None:
        self.working, self.stopped = working, False

    def is_alive(self, wait_s: float) -> bool:
        return not self.stopped

    def has_begun(self) -> bool:
        return self.working

    def stop(self) -> bool:
        self.stopped = self.working
        return self.working


@pytest.mark.parametrize("working", [True, False])
def test_a_stop_is_waited_for_only_where_workers_hear_it(
    working: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("medrd.runner.cluster.STALL_S", -1)
    asked = iter([False, True, True])
    news = module.News(tmp_path, lambda *a, **k: None, 0)
    group = Group(working)
    assert module.follow(group, lambda: next(asked), news) is working  # type: ignore[arg-type]
    assert len(list(asked)) == 1
    waiting = [m for m in caplog.messages if m.startswith("waiting for processes")]
    assert len(waiting) == (0 if working else 1)


def test_a_run_whose_epochs_are_done_needs_no_workers(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed in calibration is resumed."""
    config, out = make_config(raw), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("medrd.training.train.calibrate", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(config, out)
    monkeypatch.setattr(module, "ray_cluster", lambda *a, **k: pytest.fail("Ray was begun"))
    train_on_ray(config, out, workers=2, resume=True)
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["workers"] is None


@pytest.mark.parametrize(
    ("change", "workers", "message"),
    [
        ({"train": {"compile": True}}, 2, r"train\.compile: expected false with --workers"),
        ({"train": {"device": "cuda:1"}}, 2, r"train\.device: .* found cuda:1"),
        ({"train": {"batch_size": 5}}, 3, r"train\.batch_size: .* 2 slices for each of 3 workers"),
        ({"model": {"name": "intensity"}}, 2, "--workers: expected a model that is trained"),
        ({"train": {"batch_size": 64}}, 14, r"--workers: .* every 2 of the 26 healthy slices"),
    ],
)
def test_what_workers_cannot_do_is_refused_before_ray_starts(
    raw: dict[str, Any],
    change: dict[str, Any],
    workers: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ray_cluster", lambda *a, **k: pytest.fail("Ray was begun"))
    for section, content in change.items():
        raw[section] = raw[section] | content if section == "train" else content
    with pytest.raises(ConfigError, match=message):
        train_on_ray(make_config(raw), tmp_path / "run", workers=workers)


def test_each_worker_gets_a_gpu_where_there_are_any() -> None:
    machine = Cluster({"CPU": 16.0, "GPU": 4.0}, grows=False)
    assert resources_each(machine, 4, None, "auto") == (4, True)
    assert resources_each(machine, 4, 2, "cpu") == (2, False)
    several = Cluster({"CPU": 16.0}, grows=True)
    assert resources_each(several, 4, None, "auto") == (1, False)
    assert resources_each(several, 4, 3, "auto") == (3, False)
    for workers, cpus, there in ((5, None, 4), (4, 5, 16)):
        with pytest.raises(ConfigError, match=f"--workers: .* the {there} of this .* or --cpus"):
            resources_each(machine, workers, cpus, "cuda")
