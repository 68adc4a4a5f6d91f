"""``medrd train --workers``: the run of one process, though a worker is killed on the way."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from medrd.config import make_config
from medrd.errors import ConfigError, ModelError
from medrd.workflows import train_on_ray as module
from medrd.workflows.cluster import Cluster, settle_environment
from medrd.workflows.interrupt import InterruptedRunError, StopRequest
from medrd.workflows.train import train
from medrd.workflows.train_on_ray import train_on_ray

DAE = {"name": "dae", "base": 4, "depth": 1, "lr": 0.001}
STORE = 100 * 2**20


def make_saboteur(folder: str) -> Callable[[], None]:
    """What a worker process does first. (Nested, so that it travels by value.)"""

    def sabotage() -> None:
        """The second worker dies in the second epoch if the folder orders it, once."""
        import os
        from pathlib import Path

        order = Path(folder, "die")
        if not order.exists():
            return
        import torch.distributed as dist

        from medrd.workflows.loop import Loop, Place

        iteration = Loop.iteration

        def patched(self: Loop, slices: Any, place: Place, count: int | None = None) -> Any:
            if (place.epoch, place.batch) == (1, 2) and dist.get_rank() == 1 and order.exists():
                order.rename(Path(folder, "dead"))
                os.kill(os.getpid(), 9)
            return iteration(self, slices, place, count)

        Loop.iteration = patched  # type: ignore[method-assign]

    return sabotage


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a file makes a worker die."""
    return tmp_path_factory.mktemp("orders")


@pytest.fixture(scope="module")
def ray_here(bytecode: None, orders: Path) -> Iterator[None]:
    """Ray with two cores, and this process connected to it."""
    settle_environment()
    import ray

    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=STORE,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": make_saboteur(str(orders))},
    )
    yield
    ray.shutdown()


@pytest.fixture
def raw(tiny_raw: dict[str, Any]) -> dict[str, Any]:
    """A run with simulated noise whose batches of 5 cannot be halved."""
    tiny_raw["recipe"]["size"] = 32
    tiny_raw["train"] |= {"epochs": 3, "batch_size": 5}
    return tiny_raw | {"model": DAE}


def names(run: Path) -> set[str]:
    return {
        str(p.relative_to(run)) for p in run.rglob("*") if p.is_file() and "tfevents" not in p.name
    }


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
    orders: Path,
    raw: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = make_config(raw)
    alone = train(config, tmp_path / "alone")
    (orders / "die").touch()
    caplog.clear()  # of what the training alone has said
    with caplog.at_level(logging.INFO, logger="medrd"):
        run = train_on_ray(config, tmp_path / "run", workers=2)
    assert (orders / "dead").exists()
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
    assert [m[:8] for m in said if m.startswith("epoch ")] == ["epoch 1:", "epoch 2:", "epoch 3:"]


def test_a_stop_saves_and_one_process_goes_on(
    ray_here: None, raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop is asked for before anyone works: it is heard after the first batch."""
    config, out = make_config(raw), tmp_path / "run"
    with monkeypatch.context() as patch:
        asked = StopRequest()
        asked.requested = True
        patch.setattr("medrd.workflows.train.stop_on_signals", lambda: nullcontext(asked))
        with pytest.raises(InterruptedRunError, match=r"in epoch 1 of 3; .* --workers 2$"):
            train_on_ray(config, out, workers=2)
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    assert (saved["epoch"], saved["batch"]) == (0, 1)
    assert {path.name for path in out.iterdir() if path.name.startswith(".")} == set()
    train(config, out, resume=True)
    assert_same_run(out, train(config, tmp_path / "alone"))


def test_what_goes_wrong_in_the_workers_is_the_callers_error(
    ray_here: None, raw: dict[str, Any], tmp_path: Path
) -> None:
    raw["model"] = DAE | {"lr": 1e30}
    with pytest.raises(ModelError, match=r"epoch 1, batch \d: expected a finite loss") as error:
        train_on_ray(make_config(raw), tmp_path / "run", workers=2)
    assert "Lower the model's learning rate" in error.value.remedy


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
    assert module._share_of(machine, 4, "auto") == (4, True)
    assert module._share_of(machine, 4, "cpu") == (4, False)
    assert module._share_of(Cluster({"CPU": 16.0}, grows=True), 4, "auto") == (1, False)
    with pytest.raises(ConfigError, match="--workers: expected at most the 4 of this machine"):
        module._share_of(machine, 5, "cuda")
