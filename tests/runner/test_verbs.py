"""``medrd predict --ray``, ``evaluate --ray`` and ``compare --ray`` with real Ray processes.

The results are those of the plain verbs, and nothing is lost with a node that dies.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from folders import contents
from medrd.cli import app
from medrd.comparison.compare import compare
from medrd.comparison.config import make_compare
from medrd.config import make_config
from medrd.errors import LeakageError
from medrd.evaluation.evaluate import evaluate
from medrd.prediction.predict import predict
from medrd.run.model_folder import Model
from medrd.runner.cluster import job_environment, ray_cluster, settle_environment
from medrd.runner.on_ray import Ray
from medrd.training.train import train
from tiny import brighter_copies, make_tiny_raw, write_tiny_subject
from waiting import wait_for
from warm_ray import STORE_BYTES, warm_ray

NODE = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": STORE_BYTES}
SOON_DEAD = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
"""A killed node is known to be dead after 2 s, not after 15."""
SCANS = 8


def make_saboteur(folder: str) -> Callable[[], None]:
    """The setup hook of worker processes. (Nested, so that it is pickled by value.)"""

    def sabotage() -> None:
        """Scans stall between their map and their mask on the node that the folder names. Others
        wait until one does."""
        from pathlib import Path

        orders = Path(folder)
        if not any(orders.iterdir()):
            return
        import ray

        from medrd.data.brains.opened import OpenedScan

        write_mask = OpenedScan.write_mask

        def write_mask_later(self: OpenedScan, path: Path, mask: Any) -> None:
            here = Path(orders, ray.get_runtime_context().get_node_id())
            if here.exists():
                here.with_suffix(".stalled").write_text(path.name.removesuffix("_mask.nii.gz"))
                time.sleep(600)
            while any(orders.iterdir()) and not any(orders.glob("*.stalled")):
                time.sleep(0.05)
            write_mask(self, path, mask)

        OpenedScan.write_mask = write_mask_later  # type: ignore[method-assign]

    return sabotage


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a file named like a node makes work stall on that node."""
    return tmp_path_factory.mktemp("orders")


@pytest.fixture(scope="module")
def nodes(warm_workers: str, orders: Path) -> Iterator[Any]:
    """A node of one core and, to Ray, one GPU, and this process connected to it."""
    settle_environment()
    environment, threads = job_environment(), torch.get_num_threads()
    torch.set_num_threads(1)  # as many as a process on a node has
    with pytest.MonkeyPatch.context() as patch:
        for name in environment["env_vars"]:  # as on nodes that were not begun here
            patch.delenv(name)
        environment["worker_process_setup_hook"] = make_saboteur(str(orders))
        with warm_ray(environment, **NODE, _system_config=SOON_DEAD) as nodes:
            yield nodes
    torch.set_num_threads(threads)


@contextmanager
def doomed_node(nodes: Any, orders: Path, when: Callable[[], bool]) -> Iterator[list[str]]:
    """One more node, on which a scan stalls; killed then, once ``when`` says so. The scan."""
    at_work: list[str] = []
    victim = nodes.add_node(**NODE)
    (orders / victim.node_id).touch()
    stalled = orders / f"{victim.node_id}.stalled"

    def kill() -> None:
        try:
            wait_for(lambda: stalled.exists() and when(), seconds=600)
            at_work.append(stalled.read_text(encoding="utf-8"))
        finally:
            nodes.remove_node(victim, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield at_work
    finally:
        killer.join()
        for order in orders.iterdir():
            order.unlink()


@pytest.fixture(scope="module")
def run(tiny_root: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose sums depend on the number of threads; trained enough to have a threshold."""
    raw = make_tiny_raw(tiny_root, tiny_cache)
    raw["recipe"] |= {"size": 32}
    raw["train"]["epochs"] = 1
    return train(make_config(raw), tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny subjects, and a file that is none."""
    root = tmp_path_factory.mktemp("scans")
    for i in range(SCANS):
        write_tiny_subject(root / f"tiny_{i:02}", f"tiny_{i:02}", seed=i)
    (root / "tiny_99").mkdir()
    (root / "tiny_99" / "tiny_99_flair.nii.gz").write_text("not a scan")
    return root


def test_a_node_that_dies_in_the_middle_costs_nothing(
    nodes: Any,
    run: Path,
    scans: Path,
    orders: Path,
    tmp_path: Path,
) -> None:
    """Every byte is that of the plain verb, which has no Ray."""
    here = predict(run, [scans], tmp_path / "here")
    assert len(here.done) == SCANS

    out = tmp_path / "there"
    written: list[str] = []

    def some_are_done() -> bool:
        written[:] = [path.name for path in out.rglob("tiny*.*")]
        return sum(name.endswith(".json") for name in written) > 3

    with doomed_node(nodes, orders, some_are_done) as at_work:
        there = predict(run, [scans], out, runner=Ray())
    (name,) = at_work
    # It was between two of its files.
    assert [each for each in written if each.startswith(name)] == [f"{name}_anomaly.nii.gz"]
    assert contents(out) == contents(tmp_path / "here")
    assert [path.relative_to(out) for path in there.done] == [
        path.relative_to(tmp_path / "here") for path in here.done
    ]
    assert [error.to_dict() for error in there.errors] == [e.to_dict() for e in here.errors]
    assert len(json.loads((out / "errors.json").read_text(encoding="utf-8"))) == 1

    # What is there is not done again, and what is missing is; by the command line too.
    (out / there.done[0]).unlink()
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


def test_an_evaluation_is_that_of_the_plain_verb(
    nodes: Any, scans: Path, tiny_cache: Path, tmp_path: Path
) -> None:
    """A network and the baseline are evaluated; one subject cannot be read."""
    raw = make_tiny_raw(scans, tiny_cache)
    sides = {"train": [0, 1], "calibration": [2, 3], "test": [*range(4, 8), 99]}
    raw["data"]["split"] = {side: [f"tiny_{i:02}" for i in those] for side, those in sides.items()}
    raw["recipe"] |= {"size": 32}
    raw["model"] = {"name": "dae", "base": 4, "depth": 1}
    raw["train"]["epochs"] = 1
    config = make_config(raw)
    run = train(config, tmp_path / "run")
    evaluate(run, config, tmp_path / "here")

    evaluate(run, config, tmp_path / "there", runner=Ray())
    here = numbers(tmp_path / "here")
    assert {"subjects.json", "units/all.npz", "errors.json"} <= set(here)
    assert here["metrics.json"]["counts"]["subjects"] == 4
    assert numbers(tmp_path / "there") == here

    twin = config.to_dict()
    twin["data"]["split"]["test"] = ["tiny_04", "tiny_05"]
    shutil.copytree(scans, tmp_path / "twins")
    for kind in ("flair", "seg"):
        copied = scans / "tiny_00" / f"tiny_00_{kind}.nii.gz"
        shutil.copy(copied, tmp_path / "twins" / "tiny_05" / f"tiny_05_{kind}.nii.gz")
    twin["data"]["root"] = str(tmp_path / "twins")
    with pytest.raises(LeakageError, match=r"tiny_05: .*as tiny_00"):
        evaluate(run, make_config(twin), tmp_path / "twin", runner=Ray(actors=1))


def test_pictures_are_evaluated_so_too_and_reported(
    nodes: Any, picture_raw: dict[str, Any], tmp_path: Path
) -> None:
    """The command line gives the same results."""
    picture_raw |= {"model": {"name": "intensity"}, "scoring": {"sigma_px": 2}}
    del picture_raw["train"]
    config = make_config(picture_raw)
    run = train(config, tmp_path / "run")
    evaluate(run, config, tmp_path / "here", report=True)
    path = tmp_path / "weave.yaml"
    path.write_text(yaml.safe_dump(picture_raw))
    command = ["evaluate", run, path, "--out", tmp_path / "there", "--ray", "--report"]
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


def test_cells_are_those_of_the_plain_verb(
    nodes: Any, tiny_root: Path, tiny_cache: Path, tmp_path: Path
) -> None:
    """One of the cells cannot work, and fails alone."""
    part = make_tiny_raw(tiny_root, tiny_cache)
    root = part["data"].pop("root")
    part["recipe"] |= {"size": 32, "normalise": "rank"}
    dae = {"name": "dae", "base": 4, "depth": 1}
    raw = {
        "name": "tiny",
        "seeds": [0],
        "resamples": 100,
        "data_sets": {"scans": {"domain": "brain", "root": root, "config": part}},
        "models": {
            "dae": {"config": {"model": dae}},
            "broken": {"config": {"model": dae | {"lr": 1e30}}},
        },
    }
    here = compare(make_compare(raw), tmp_path / "here")
    path, out = tmp_path / "tiny.yaml", tmp_path / "there"
    path.write_text(yaml.safe_dump(raw))
    command = ["compare", str(path), "--out", str(out), "--ray"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 3, done.output
    there = compare(make_compare(raw), out)  # finds them done, and tries again what failed
    assert [cell.metrics for cell in there.cells] == [cell.metrics for cell in here.cells]
    assert [cell.error for cell in there.cells] == [cell.error for cell in here.cells]
    assert [cell.error is None for cell in here.cells] == [True, False]
    assert there.intervals == here.intervals


def test_sigterm_finishes_the_scans_under_way_and_keeps_what_is_done(
    medrd: Callable[..., Any], quick: Model, scan: Path, tmp_path: Path
) -> None:
    """Ray would have put a handler of its own, which ends the command without a message."""
    out = tmp_path / "out"
    scans = brighter_copies(scan, 20)
    prelude = f"""
import os, pathlib, signal, threading, time
def stop():
    while not list(pathlib.Path({str(out)!r}).glob("*.json")):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=stop, daemon=True).start()
"""
    done = medrd("predict", quick.folder, *scans, "--out", out, "--actors", 1, prelude=prelude)
    assert done.code == 130, done.stderr
    kept = len(list(out.glob("*.json")))
    assert 1 <= kept < 20
    assert f"stopped after {kept} of 20 scans; finished ones are kept" in done.stderr
