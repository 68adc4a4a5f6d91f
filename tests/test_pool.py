"""A pool of Ray's processes: ``medrd predict --ray``, ``evaluate --ray`` and ``compare --ray``.

What comes out is what the plain verbs make, and nothing is lost with a node that dies.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from medrd.cli import app
from medrd.config import make_config
from medrd.config.compare import make_compare
from medrd.errors import ConfigError, LeakageError, ModelError
from medrd.workflows import pool as pool_module
from medrd.workflows import predict_on_ray as module
from medrd.workflows.actor import lost_input
from medrd.workflows.cluster import Cluster, ray_cluster, settle_environment
from medrd.workflows.compare import compare
from medrd.workflows.evaluate import evaluate
from medrd.workflows.evaluate_on_ray import evaluate_on_ray
from medrd.workflows.pool import LostItem, Pool, Share
from medrd.workflows.predict import predict
from medrd.workflows.predict_on_ray import predict_on_ray
from medrd.workflows.train import train
from tiny import make_tiny_raw, write_tiny_subject

STORE = 100 * 2**20
SCANS = 24


def make_saboteur(folder: str) -> Callable[[], None]:
    """What a worker process does first. (Nested, so that it travels by value.)"""

    def sabotage() -> None:
        """On a node that is named in the folder, scans stall between their map and their mask, or
        between their map and their judgement."""
        import time
        from pathlib import Path

        if not any(Path(folder).iterdir()):
            return
        import ray

        from medrd.workflows import examine
        from medrd.workflows.scans import OpenedScan

        write_mask, judge = OpenedScan.write_mask, examine.judge

        def stall(name: str) -> None:
            node = ray.get_runtime_context().get_node_id()
            if Path(folder, node).exists():
                Path(folder, f"{node}.stalled").write_text(name)
                time.sleep(600)

        def write_mask_later(self: OpenedScan, path: Path, mask: Any) -> None:
            stall(path.name)
            write_mask(self, path, mask)

        def judge_later(name: str, *args: Any, **rest: Any) -> Any:
            stall(name)
            return judge(name, *args, **rest)

        OpenedScan.write_mask = write_mask_later  # type: ignore[method-assign]
        examine.judge = judge_later

    return sabotage


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a file named like a node makes scans stall there."""
    return tmp_path_factory.mktemp("orders")


@pytest.fixture(scope="module")
def nodes(bytecode: None, orders: Path) -> Iterator[Any]:
    """Two nodes of one core each, and this process connected to them."""
    settle_environment()
    import ray
    from ray.cluster_utils import Cluster as Nodes

    node = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    nodes = Nodes(initialize_head=True, head_node_args=node)
    nodes.add_node(num_cpus=1, object_store_memory=STORE)
    ray.init(
        nodes.address,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": make_saboteur(str(orders))},
    )
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def run(tiny_root: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The calibrated intensity baseline: nothing to wait for."""
    raw = make_tiny_raw(tiny_root, tiny_cache)
    raw["recipe"] |= {"size": 32, "normalise": "rank"}
    raw |= {"model": {"name": "intensity"}, "scoring": {"sigma_px": 2}}
    return train(make_config(raw), tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 tiny subjects, and a file that is none."""
    root = tmp_path_factory.mktemp("scans")
    for i in range(SCANS):
        write_tiny_subject(root / f"tiny_{i:02}", f"tiny_{i:02}", seed=i)
    (root / "tiny_99").mkdir()
    (root / "tiny_99" / "tiny_99_flair.nii.gz").write_text("not a scan")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.startswith(".")
    }


def wait_for(condition: Callable[[], bool], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_node_that_dies_in_the_middle_costs_nothing(
    nodes: Any,
    run: Path,
    scans: Path,
    orders: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every byte is that of the plain verb, which has no Ray."""
    here = predict(run, [scans], tmp_path / "here")
    assert len(here.done) == SCANS

    victim = nodes.add_node(num_cpus=1, object_store_memory=STORE)
    (orders / victim.node_id).touch()
    stalled = orders / f"{victim.node_id}.stalled"
    out = tmp_path / "there"
    at_work: list[str] = []

    def kill() -> None:
        wait_for(lambda: stalled.exists() and len(list(out.rglob("*.json"))) > 3, seconds=300)
        at_work.append(stalled.read_text(encoding="utf-8").removesuffix("_mask.nii.gz"))
        at_work.extend(p.name for p in out.rglob(f"{at_work[0]}*"))
        nodes.remove_node(victim, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with caplog.at_level(logging.WARNING, logger="medrd"):
            there = predict_on_ray(run, [scans], out)
    finally:
        killer.join()
    name, *half = at_work
    assert half == [f"{name}_anomaly.nii.gz"]  # it was between two of its files
    (said,) = (r.message for r in caplog.records if "it is done again" in r.message)
    assert re.fullmatch(rf"{name}: its process has died \(Actor\w+Error: .*\); .*", said)
    assert contents(out) == contents(tmp_path / "here")
    assert [path.relative_to(out) for path in there.done] == [
        path.relative_to(tmp_path / "here") for path in here.done
    ]
    assert [error.to_dict() for error in there.errors] == [e.to_dict() for e in here.errors]
    assert len(json.loads((out / "errors.json").read_text(encoding="utf-8"))) == 1

    # What is there is not done again, and what is missing is; by the command line too.
    (out / there.done[0]).unlink()
    (orders / victim.node_id).unlink()
    command = ["predict", run, scans, "--out", out, "--actors", 1]
    again = CliRunner().invoke(app, [str(word) for word in command])
    assert again.exit_code == 3
    # (Ray's last words on the node may come between two of our uses of it.)
    assert [line for line in again.stdout.splitlines() if str(tmp_path) in line] == [
        str(there.done[0])
    ]
    assert f"1 predicted, {SCANS - 1} already there, 1 failed" in again.stderr
    assert contents(out) == contents(tmp_path / "here")


def numbers(folder: Path) -> dict[str, Any]:
    """An evaluation's files, without what depends on the clock: speed, and pages that name it."""
    found: dict[str, Any] = {n: c for n, c in contents(folder).items() if not n.endswith(".md")}
    found["metrics.json"] = json.loads(found["metrics.json"])
    assert found["metrics.json"].pop("images_per_s") > 0
    return found


def test_an_evaluation_is_that_of_the_plain_verb_though_a_node_dies(
    nodes: Any,
    scans: Path,
    orders: Path,
    tiny_cache: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of a network and of the baseline beside it; one subject cannot be read."""
    raw = make_tiny_raw(scans, tiny_cache)
    sides = {"train": [0, 1], "calibration": [2, 3], "test": [*range(10, 20), 99]}
    raw["data"]["split"] = {side: [f"tiny_{i:02}" for i in those] for side, those in sides.items()}
    raw["recipe"] |= {"size": 32}
    raw["model"] = {"name": "dae", "base": 4, "depth": 1}
    raw["train"]["epochs"] = 1
    config = make_config(raw)
    run = train(config, tmp_path / "run")
    evaluate(run, config, tmp_path / "here")

    victim = nodes.add_node(num_cpus=1, object_store_memory=STORE)
    (orders / victim.node_id).touch()
    stalled = orders / f"{victim.node_id}.stalled"
    at_work: list[str] = []

    def kill() -> None:
        wait_for(stalled.exists, seconds=300)
        at_work.append(stalled.read_text(encoding="utf-8"))
        nodes.remove_node(victim, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with caplog.at_level(logging.WARNING, logger="medrd.ray"):
            evaluate_on_ray(run, config, tmp_path / "there")
    finally:
        killer.join()
        (orders / victim.node_id).unlink()
    said = [r.message for r in caplog.records if "it is done again" in r.message]
    assert [text.split(":")[0] for text in said] == at_work
    here = numbers(tmp_path / "here")
    assert {"subjects.json", "units/all.npz", "errors.json"} <= set(here)
    assert here["metrics.json"]["counts"]["subjects"] == 10
    assert numbers(tmp_path / "there") == here

    twin = config.to_dict()
    twin["data"]["split"]["test"] = ["tiny_04", "tiny_05"]
    shutil.copytree(scans, tmp_path / "twins")
    for kind in ("flair", "seg"):
        copied = scans / "tiny_00" / f"tiny_00_{kind}.nii.gz"
        shutil.copy(copied, tmp_path / "twins" / "tiny_05" / f"tiny_05_{kind}.nii.gz")
    twin["data"]["root"] = str(tmp_path / "twins")
    with pytest.raises(LeakageError, match=r"tiny_05: .*as tiny_00"):
        evaluate_on_ray(run, make_config(twin), tmp_path / "twin", share=Share(actors=1))


def test_pictures_are_evaluated_so_too_and_reported(
    nodes: Any, picture_raw: dict[str, Any], tmp_path: Path
) -> None:
    """By the command line."""
    picture_raw |= {"model": {"name": "intensity"}, "scoring": {"sigma_px": 2}}
    del picture_raw["train"]
    config = make_config(picture_raw)
    run = train(config, tmp_path / "run")
    evaluate(run, config, tmp_path / "here", report=True)
    path = tmp_path / "weave.yaml"
    path.write_text(yaml.safe_dump(picture_raw))
    command = ["evaluate", run, path, "--out", tmp_path / "there", "--actors", 2, "--report"]
    done = CliRunner().invoke(app, [str(word) for word in command])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "there" / "report.html").is_file()
    here, there = (
        {name: content for name, content in numbers(tmp_path / side).items() if ".html" not in name}
        for side in ("here", "there")
    )
    assert {name for name in here if name.startswith("cases/")}
    assert there == here


def test_what_ray_prints_does_not_stand_among_results(
    nodes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with ray_cluster(None):
        print("a raylet died")
    print("result")
    assert capsys.readouterr() == ("result\n", "a raylet died\n")


def test_a_model_that_is_another_on_a_node_is_an_error(
    nodes: Any, run: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An actor's error arrives as it was raised there."""
    other = Path(shutil.copytree(run, tmp_path / "other"))
    described = json.loads((other / "model" / "model.json").read_text(encoding="utf-8"))
    described["training"]["seed"] = 99
    (other / "model" / "model.json").write_text(json.dumps(described))
    do = partial(module._do, other, Share(actors=1), None)
    with pytest.raises(ModelError, match=r"expected the model \w{12} on every node"):
        predict(run, [scans], tmp_path / "out", do=do)


def make_deadly() -> Callable[[], Callable[[str], str]]:
    """Work that does not survive one of its items. (Nested, so that it travels by value.)"""

    def make() -> Callable[[str], str]:
        def work(item: str) -> str:
            import os

            if item == "deadly":
                os._exit(1)
            return item.upper()

        return work

    return make


def test_an_item_that_kills_each_time_is_given_up_alone(
    nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "ATTEMPTS", 2)
    there = Cluster({"CPU": 2.0}, grows=True)
    pool: Pool[str, str] = Pool(make_deadly(), Share(actors=1), there)
    results = dict(pool.map(["a", "deadly", "b"]))
    lost = results.pop(1)
    assert results == {0: "A", 2: "B"}
    assert isinstance(lost, LostItem)
    assert lost.attempts == 2
    assert "Actor" in lost.reason
    error = lost_input(Path("s.nii.gz"), lost, limit="--max-voxels")
    assert "2 processes that died of it" in str(error)


def test_a_request_to_stop_finishes_what_is_under_way(nodes: Any) -> None:
    seen: list[int] = []
    there = Cluster({"CPU": 2.0}, grows=True)
    pool: Pool[str, str] = Pool(
        make_deadly(), Share(actors=1), there, should_stop=lambda: bool(seen)
    )
    for index, _ in pool.map(["a", "b", "c"]):
        seen.append(index)
    assert seen == [0]


def make_patient(folder: str) -> Callable[[], Callable[[int], int]]:
    """Work whose first item waits for a sign, and which leaves a trace of what was begun."""

    def make() -> Callable[[int], int]:
        def work(item: int) -> int:
            import time
            from pathlib import Path

            Path(folder, str(item)).touch()
            while item == 0 and not Path(folder, "go").exists():
                time.sleep(0.01)
            return item

        return work

    return make


def test_in_order_few_results_wait_for_a_slow_one(nodes: Any, tmp_path: Path) -> None:
    there = Cluster({"CPU": 2.0}, grows=True)
    pool: Pool[int, int] = Pool(make_patient(str(tmp_path)), Share(), there)
    begun: set[str] = set()

    def watch() -> None:
        wait_for(lambda: {p.name for p in tmp_path.iterdir()} >= set("0123"), seconds=300)
        time.sleep(0.5)
        begun.update(p.name for p in tmp_path.iterdir())
        (tmp_path / "go").touch()

    watcher = threading.Thread(target=watch)
    watcher.start()
    results = list(pool.map_in_order(range(9)))
    watcher.join()
    assert results == list(range(9))
    assert begun == set("0123")  # twice as many as there are processes


@pytest.mark.parametrize(
    ("share", "there", "actors"),
    [
        (Share(), {"CPU": 8.0}, 8),
        (Share(cpus=3), {"CPU": 8.0}, 2),
        (Share(), {"CPU": 8.0, "GPU": 2.0}, 2),
        (Share(gpus=0.5), {"CPU": 8.0, "GPU": 2.0}, 4),
        (Share(gpus=0.1), {"CPU": 8.0, "GPU": 1.0}, 8),
        (Share(gpus=0), {"CPU": 8.0, "GPU": 2.0}, 8),
        (Share(actors=5), {"CPU": 2.0}, 5),
    ],
)
def test_as_many_actors_as_there_is_room_for(
    nodes: Any, share: Share, there: dict[str, float], actors: int
) -> None:
    assert Pool(make_deadly(), share, Cluster(there, grows=False)).actors == actors


def test_more_than_a_machine_has_is_an_error_and_not_waited_for(nodes: Any) -> None:
    with pytest.raises(ConfigError, match=r"--gpus: expected at most the 0 .* found 1"):
        Pool(make_deadly(), Share(gpus=1), Cluster({"CPU": 2.0}, grows=False))


def test_cells_side_by_side_are_the_cells_of_the_plain_verb(
    nodes: Any, tiny_root: Path, tiny_cache: Path, tmp_path: Path
) -> None:
    """One of them cannot work, and fails alone."""
    part = make_tiny_raw(tiny_root, tiny_cache)
    root = part["data"].pop("root")
    part["recipe"] |= {"size": 32, "normalise": "rank"}
    models = {
        "intensity": {"model": {"name": "intensity"}},
        "broken": {"model": {"name": "dae", "base": 4, "depth": 1, "lr": 1e30}},
    }
    raw = {
        "name": "tiny",
        "seeds": [0, 1],
        "resamples": 100,
        "data_sets": {"scans": {"domain": "brain", "root": root, "config": part}},
        "models": {name: {"config": config} for name, config in models.items()},
    }
    here = compare(make_compare(raw), tmp_path / "here")
    path, out = tmp_path / "tiny.yaml", tmp_path / "there"
    path.write_text(yaml.safe_dump(raw))
    done = CliRunner().invoke(app, ["compare", str(path), "--out", str(out), "--ray"])
    assert done.exit_code == 3, done.output
    there = compare(make_compare(raw), out)  # finds them done, and tries again what failed
    assert [cell.metrics for cell in there.cells] == [cell.metrics for cell in here.cells]
    assert [cell.error for cell in there.cells] == [cell.error for cell in here.cells]
    assert sum(cell.error is None for cell in here.cells) == 2
    assert there.intervals == here.intervals
