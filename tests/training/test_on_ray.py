"""``medrd train --workers``: the run of one process, though a worker is killed on the way."""

from __future__ import annotations

import json
import logging
import os
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
from medrd.errors import ConfigError, ModelError
from medrd.run.folder_lock import alone_in
from medrd.run.signals import InterruptedRunError, StopRequest
from medrd.runner.cluster import Cluster, settle_environment
from medrd.training import on_ray as module
from medrd.training.on_ray import train_on_ray
from medrd.training.train import train

DAE = {"name": "dae", "base": 4, "depth": 1, "lr": 0.001}
STORE = 100 * 2**20
LOCK = ".medrd.lock"


def killing(folder: Path) -> Callable[[dict[str, Any]], None]:
    """What a worker does, but the second one dies once. (Nested, so that it travels by value.)"""

    def work(settings: dict[str, Any]) -> None:

        import torch.distributed as dist

        from medrd.training.loop import Loop, Place
        from medrd.training.on_ray import _work

        iteration, dead = Loop.iteration, folder / "dead"

        def patched(self: Loop, slices: Any, place: Place, count: int | None = None) -> Any:
            """In the second epoch."""
            if (place.epoch, place.batch) == (1, 2) and dist.get_rank() == 1 and not dead.exists():
                dead.touch()
                os.kill(os.getpid(), 9)
            return iteration(self, slices, place, count)

        Loop.iteration = patched  # type: ignore[method-assign]
        _work(settings)

    return work


def listening() -> Callable[[dict[str, Any]], None]:
    """What a worker does, but after a batch each waits for a stop. (Nested, too.)"""

    def work(settings: dict[str, Any]) -> None:

        from medrd.training.loop import Loop, Place
        from medrd.training.on_ray import _is_over, _work

        iteration = Loop.iteration

        def patched(self: Loop, slices: Any, place: Place, count: int | None = None) -> Any:
            losses = iteration(self, slices, place, count)
            deadline = time.monotonic() + 60
            while not _is_over(settings["order"]) and time.monotonic() < deadline:
                time.sleep(0.02)
            return losses

        Loop.iteration = patched  # type: ignore[method-assign]
        _work(settings)

    return work


@pytest.fixture(scope="module")
def ray_here(prompt_ray: None) -> Iterator[None]:
    """Ray with two cores, and this process connected to it."""
    settle_environment()
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # an end is seen only then
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
def alone(tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process; read only."""
    config = make_config(small(yaml.safe_load(tiny_yaml.read_text(encoding="utf-8"))))
    return train(config, tmp_path_factory.mktemp("alone") / "run")


def names(run: Path) -> set[str]:
    files = (path for path in run.rglob("*") if path.is_file() and path.name != LOCK)
    return {str(path.relative_to(run)) for path in files if "tfevents" not in path.name}


def reports(run: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def assert_same_run(run: Path, reference: Path) -> None:
    """Files, weights, course of the loss and threshold; rounding apart."""
    assert names(run) == names(reference)
    weights, wanted = (load_file(r / "model" / "model.safetensors") for r in (run, reference))
    assert weights.keys() == wanted.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(weights[key], tensor, rtol=1e-3, atol=1e-5)
    for found, line in zip(reports(run), reports(reference), strict=True):
        assert found["epoch"] == line["epoch"]
        assert found["losses"] == pytest.approx(line["losses"], rel=1e-4)
    told, described = (
        json.loads((r / "model" / "model.json").read_text(encoding="utf-8"))
        for r in (run, reference)
    )
    assert told["training"] == described["training"]
    assert told["calibration"]["threshold"] == pytest.approx(
        described["calibration"]["threshold"], rel=1e-3
    )


def test_a_killed_worker_costs_an_epoch_and_the_run_is_that_of_one_process(
    ray_here: None,
    alone: Path,
    raw: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "_work", killing(tmp_path))
    with caplog.at_level(logging.INFO, logger="medrd"):
        run = train_on_ray(make_config(raw), tmp_path / "run", workers=2)
    assert (tmp_path / "dead").exists()
    assert_same_run(run, alone)
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))["workers"]
    assert record == {
        "count": 2,
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "restarts": 1,
    }
    said = [r.message for r in caplog.records]
    assert said.count("a worker has died; all go on from the last checkpoint") == 1
    assert [m[:8] for m in said if m.startswith("epoch ")] == ["epoch 1:", "epoch 2:"]


class AskedOnceTheyWork(StopRequest):
    """A stop; until a worker waits for the run's lock, another process holds it."""

    def __init__(self, run: Path) -> None:
        run.mkdir()
        self.run, self.waited, self.held = run, False, ExitStack()
        self.held.enter_context(alone_in(run, "training"))

    def __bool__(self) -> bool:
        locks = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
        lock = f":{(self.run / LOCK).stat().st_ino} "
        if not self.waited and any("-> FLOCK" in line and lock in line for line in locks):
            self.waited = True
            assert not list(self.run.glob(".runs.*/starts.jsonl"))
            self.held.close()
        return any(self.run.glob(".runs.*/starts.jsonl"))


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="asks Linux who waits for a lock")
def test_a_stop_saves_and_one_process_goes_on(
    ray_here: None,
    alone: Path,
    raw: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stop is asked for when they begin, and heard after the batch that is under way."""
    config, out = make_config(raw), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(module, "_work", listening())
        asked = AskedOnceTheyWork(out)
        patch.setattr("medrd.training.train.stop_on_signals", lambda: nullcontext(asked))
        with pytest.raises(InterruptedRunError, match=r"in epoch 1 of 2; .* --workers 2$"):
            train_on_ray(config, out, workers=2, resume=True)
    assert asked.waited
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    assert (saved["epoch"], saved["batch"]) == (0, 1)
    assert {path.name for path in out.iterdir() if path.name.startswith(".")} == {LOCK}
    train(config, out, resume=True)
    assert_same_run(out, alone)


def test_what_goes_wrong_in_a_worker_is_the_callers_error(
    ray_here: None, raw: dict[str, Any], tmp_path: Path
) -> None:
    raw["model"] = DAE | {"lr": 1e30}
    with pytest.raises(ModelError, match=r"epoch 1, batch \d: expected a finite loss") as error:
        train_on_ray(make_config(raw), tmp_path / "run", workers=1)
    assert "Lower the model's learning rate" in error.value.remedy


class Trains:
    """Stands for workers that hear a stop."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch

    def goes_on(self, wait_s: float) -> bool:
        return (self.scratch / "nobody").exists() or not (self.scratch / "stop").exists()


def test_where_no_workers_are_it_is_said_and_a_stop_is_heard(
    raw: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("medrd.runner.cluster._STALL_S", -1)
    order = module._Order(make_config(raw), tmp_path, "", tmp_path, tmp_path, cpus=1, gpu=False)
    (tmp_path / "nobody").touch()
    asked = iter([False, False, True])
    module._follow(Trains(tmp_path), order, 2, lambda: next(asked))  # type: ignore[arg-type]
    assert [m.startswith("waiting for processes") for m in caplog.messages] == [True, True]
    # With somebody there it is passed on, and their end waited for.
    (tmp_path / "nobody").unlink()
    (tmp_path / "stop").unlink()
    module._follow(Trains(tmp_path), order, 2, lambda: True)  # type: ignore[arg-type]
    assert (tmp_path / "stop").exists()
    assert len(caplog.messages) == 2


def test_a_run_whose_epochs_are_done_needs_no_workers(
    alone: Path, raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill in calibration."""
    config, out = make_config(raw), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("medrd.training.train.calibrate_as", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(config, out)
    monkeypatch.setattr(module, "ray_cluster", lambda *a, **k: pytest.fail("Ray was begun"))
    assert_same_run(train_on_ray(config, out, workers=2, resume=True), alone)


@pytest.mark.parametrize(
    ("change", "workers", "message"),
    [
        ({"train": {"compile": True}}, 2, r"train\.compile: expected false with --workers"),
        ({"train": {"device": "cuda:1"}}, 2, r"train\.device: .* found cuda:1"),
        ({"train": {"batch_size": 2}}, 3, r"train\.batch_size: .* each of 3 workers"),
        ({"model": {"name": "intensity"}}, 2, "--workers: expected a model that is trained"),
        ({"train": {"batch_size": 64}}, 27, r"--workers: .* healthy slices \(26\)"),
    ],
)
def test_what_workers_cannot_do_is_said_before_ray_is_begun(
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
    assert module._share_of(machine, 4, None, "auto") == (4, True)
    assert module._share_of(machine, 4, 2, "cpu") == (2, False)
    several = Cluster({"CPU": 16.0}, grows=True)
    assert module._share_of(several, 4, None, "auto") == (1, False)
    assert module._share_of(several, 4, 3, "auto") == (3, False)
    for workers, cpus, there in ((5, None, 4), (4, 5, 16)):
        with pytest.raises(ConfigError, match=f"--workers: .* the {there} of this .* or --cpus"):
            module._share_of(machine, workers, cpus, "cuda")
