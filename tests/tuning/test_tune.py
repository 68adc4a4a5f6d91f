"""``medrd tune`` on Ray: the cost of a failure, of a kill and of a stop, and the results.

Ray is started once, as a cluster of one node, for all but the command line.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from medrd.config import load_config
from medrd.errors import ConfigError
from medrd.run.signals import InterruptedRunError
from medrd.runner.cluster import Cluster, settle_environment
from medrd.training.train import train
from medrd.tuning import tune as tune_module
from medrd.tuning.config import make_tune
from medrd.tuning.trial import read_trial_metrics
from medrd.tuning.trials import Trial
from medrd.tuning.tune import tune
from waiting import wait_for
from warm_ray import warm_ray

DAE = {"name": "dae", "base": 4, "depth": 1, "lr": 0.001}


def make_saboteur() -> Callable[[], None]:
    """The hook that a worker process runs first. (Nested, so that it travels by value.)"""

    def sabotage() -> None:
        """A model with base 5 has no memory; with base 6 its process dies once, after an epoch."""
        import os
        import threading
        from pathlib import Path

        from medrd.tuning.config import TuneConfig

        trial_config = TuneConfig.trial_config

        def die_once(folder: Path) -> None:
            while not (folder / "reports.jsonl").exists():
                time.sleep(0.01)
            (folder / "died").touch()
            os.kill(os.getpid(), 9)

        def patched(self: TuneConfig, point: Any, *, where: str = "search") -> Any:
            config = trial_config(self, point, where=where)
            base = getattr(config.model, "base", None)
            if "/trials/" in where and base == 5:
                raise MemoryError
            if "/trials/" in where and base == 6 and not Path(where, "died").exists():
                threading.Thread(target=die_once, args=(Path(where),), daemon=True).start()
            return config

        TuneConfig.trial_config = patched  # type: ignore[method-assign]

    return sabotage


@pytest.fixture(scope="module")
def cluster(warm_workers: str) -> Iterator[str]:
    """A node of two cores, and this process connected to it; its address."""
    with warm_ray({"worker_process_setup_hook": make_saboteur()}) as nodes:
        yield nodes.address


@pytest.fixture
def raw(tiny_raw: dict[str, Any]) -> dict[str, Any]:
    """A search whose trials take a second each."""
    tiny_raw["recipe"]["size"] = 32
    tiny_raw["train"]["epochs"] = 2
    return {
        "config": tiny_raw | {"model": DAE},
        "space": {"scoring.sigma_px": {"kind": "uniform", "low": 0.5, "high": 60}},
        "objective": {"copies": 1, "max_slices": 8},
        "stopping": {"kind": "none"},
    }


def test_a_trial_fails_alone_and_a_process_that_dies_goes_on(
    cluster: str, raw: dict[str, Any], tmp_path: Path
) -> None:
    models = {
        "good": DAE,
        "dies": DAE | {"base": 6},
        "no epochs": {"name": "patchcore"},
        # The last one, so that Ray need not replace its process.
        "no memory": DAE | {"base": 5},
    }
    raw["space"] = {"model": {"kind": "choice", "values": list(models.values())}}
    raw["search"] = {"algorithm": "grid"}
    out = tmp_path / "out"
    names = list(models)
    trials = dict(zip(names, tune(make_tune(raw), out), strict=True))
    assert [trial.point["model"] for trial in trials.values()] == list(models.values())

    assert {name: trial.status for name, trial in trials.items()} == {
        "good": "finished",
        "no memory": "failed",
        "dies": "finished",
        "no epochs": "finished",
    }
    assert trials["no memory"].reason == "MemoryError"
    rows = csv.DictReader((out / "trials.csv").read_text(encoding="utf-8").splitlines())
    assert [row["reason"] for row in rows] == [trial.reason for trial in trials.values()]
    died = out / "trials" / trials["dies"].name
    assert (died / "died").exists()
    assert trials["dies"].epochs == 2
    assert trials["no epochs"].epochs == 1

    # The best is a plain config, and a plain training with it gives the very same model.
    best = max((t for t in trials.values() if t.objective is not None), key=objective_of)
    config = load_config(out / "best.yaml")
    assert config.model.model_dump(mode="json").items() >= best.point["model"].items()
    for name in ("dies", "best"):
        run = died / "run" if name == "dies" else out / "best.yaml"
        config = load_config(run / "config.yaml" if run.is_dir() else run)
        weights = (run / "model" if run.is_dir() else out / "best") / "model.safetensors"
        again = train(config, tmp_path / name) / "model" / "model.safetensors"
        assert again.read_bytes() == weights.read_bytes()


def objective_of(trial: Trial) -> float:
    return trial.objective or 0.0


def test_optuna_searches_and_bad_trials_are_stopped_early(
    cluster: str, raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw["search"] = {"algorithm": "optuna", "samples": 4, "concurrent": 1}
    raw["stopping"] = {"grace_epochs": 1, "reduction": 2}
    config, out = make_tune(raw), tmp_path / "out"
    trials = tune(config, out)
    assert len(trials) == 4
    assert {trial.status for trial in trials} == {"finished", "stopped"}
    assert all((t.epochs == 2) == (t.status == "finished") for t in trials)
    assert len({trial.point["scoring.sigma_px"] for trial in trials}) == 4
    # Nothing is left to do: Ray is not started, and nothing changes.
    monkeypatch.setattr(tune_module, "ray_cluster", lambda *a, **k: pytest.fail("started again"))
    assert tune(config, out, resume=True) == trials


def test_a_search_that_is_stopped_goes_on_with_more_trials_and_other_resources(
    cluster: str,
    raw: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Stopped by SIGTERM after two epochs of the second trial; then its folder is moved."""
    raw["config"]["train"]["epochs"] = 8
    search = {"algorithm": "random", "concurrent": 1}
    names: dict[str, None] = {}

    def stop_in_the_second(record: logging.LogRecord) -> bool:
        found = re.match(r"trial (\w+): \w+, epoch (\d+),", record.getMessage())
        if found:
            names[found[1]] = None
            if len(names) == 2 and found[2] == "2":
                os.kill(os.getpid(), signal.SIGTERM)
        return True

    with monkeypatch.context() as patch:
        patch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "0")  # else it would go on until the next save
        patch.setattr(logging.getLogger("medrd.tune"), "filters", [stop_in_the_second])
        caplog.set_level(logging.INFO, "medrd.tune")
        with pytest.raises(InterruptedRunError, match="--resume"):
            tune(make_tune(raw | {"search": search | {"samples": 2}}), tmp_path / "out")
    first, second = names
    table = (tmp_path / "out" / "trials.csv").read_text(encoding="utf-8").splitlines()
    assert [row["status"] for row in csv.DictReader(table)] == ["finished", "unfinished"]
    before = {
        name: read_trial_metrics(tmp_path / "out" / "trials" / name) for name in (first, second)
    }
    assert len(before[first]) == 8
    assert 2 <= len(before[second]) < 8

    out = (tmp_path / "out").rename(tmp_path / "moved")
    more = {"search": search | {"samples": 3}, "resources": {"cpus": 0.5}}
    trials = tune(make_tune(raw | more), out, resume=True)
    assert [trial.status for trial in trials] == ["finished"] * 3
    assert [trial.name for trial in trials[:2]] == [first, second]
    assert len({trial.point["scoring.sigma_px"] for trial in trials}) == 3
    for trial in trials:
        reports = read_trial_metrics(out / "trials" / trial.name)
        assert [report.epoch for report in reports] == list(range(1, 9))
        known = before.get(trial.name, [])
        assert reports[: len(known)] == known  # seconds and all: those epochs were not done again
    assert not (tmp_path / "out").exists()


# --- Killed, and resumed ---


def listed() -> dict[int, tuple[int, str]]:
    """Parent and command line of every process, by process id."""
    done = subprocess.run(PS, capture_output=True, text=True, check=True)
    return processes(done.stdout)


def processes(text: str) -> dict[int, tuple[int, str]]:
    rows = (line.split(maxsplit=2) for line in text.splitlines())
    return {int(pid): (int(parent), command) for pid, parent, command in rows}


def descendants(pid: int, there: dict[int, tuple[int, str]]) -> dict[int, str]:
    """Command lines of a process's children, and of their children."""
    found: dict[int, str] = {}
    while more := {p: c for p, (q, c) in there.items() if q in (pid, *found) and p not in found}:
        found |= more
    return found


def left_of(processes: dict[int, str]) -> list[str]:
    """Command lines of those of the processes that still run."""
    return [command for pid, (_, command) in listed().items() if pid in processes]


PS = ["ps", "-ww", "-eo", "pid=,ppid=,args="]
KILL = """
import os, pathlib, signal, subprocess, threading, time
import pytest, warm_ray
warm_ray.start_warm(pytest.MonkeyPatch(), {address!r})
def kill():
    while not any(len(path.read_text().splitlines()) >= 3
                  for path in pathlib.Path({out!r}).glob("trials/*/reports.jsonl")):
        time.sleep(0.02)
    there = subprocess.run({ps!r}, capture_output=True, text=True, check=True).stdout
    pathlib.Path({note!r}).write_text(f"{{os.getpid()}}\\n{{there}}")
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=kill, daemon=True).start()
"""
"""Kill medrd once there are three epochs; which processes there were is noted."""


def test_killed_with_kill_9_a_search_goes_on_from_its_checkpoints(
    cluster: str,
    warm_workers: str,
    medrd: Callable[..., Any],
    raw: dict[str, Any],
    tmp_path: Path,
) -> None:
    """Killed on this machine alone, resumed on a cluster."""
    raw["config"]["train"]["epochs"] = 8
    raw["search"] = {"algorithm": "random", "samples": 1, "concurrent": 1}
    path, out, note = tmp_path / "search.yaml", tmp_path / "out", tmp_path / "there.txt"
    path.write_text(yaml.safe_dump(raw))
    prelude = KILL.format(address=warm_workers, out=str(out), ps=PS, note=str(note))
    killed = medrd("tune", path, "--out", out, prelude=prelude)
    assert killed.code == -9, killed.stderr
    pid, text = note.read_text(encoding="utf-8").split("\n", maxsplit=1)
    rays = descendants(int(pid), processes(text))
    assert any("raylet" in command for command in rays.values())
    dashboards = [command for command in rays.values() if "dashboard.py" in command]
    assert all("--disable-frontend" in command for command in dashboards)
    # Ray's own agents take a minute to see that all is over; they hold nothing of ours.
    wait_for(lambda: not [c for c in left_of(rays) if "Agent" not in c], seconds=90, every=0.5)
    (reports,) = out.glob("trials/*/reports.jsonl")
    before = reports.read_text(encoding="utf-8").splitlines()
    assert 3 <= len(before) < 8

    again = ["tune", path, "--out", out, "--resume", "--address", cluster]
    done = medrd(*again)
    assert done.code == 0, done.stderr
    assert "1 finished" in done.stdout
    assert done.stdout.splitlines()[-1] == str(out / "best.yaml")
    lines = reports.read_text(encoding="utf-8").splitlines()
    assert lines[: len(before)] == before  # seconds and all: those epochs were not done again
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 9))
    run = reports.parent / "run"
    plain = train(load_config(run / "config.yaml"), tmp_path / "plain")
    weights = Path("model", "model.safetensors")
    assert (plain / weights).read_bytes() == (run / weights).read_bytes()
    assert list((out / "ray").rglob("events.out.tfevents*"))  # for TensorBoard


# --- Clusters and resources ---


def test_an_address_at_which_nobody_answers_is_an_error(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    raw["config"]["data"]["cache"] = str(tmp_path / "cache")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as unheard:  # bound, and not listening
        unheard.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unheard.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"--address.*{address}.*ray start --head"):
            tune(make_tune(raw), tmp_path / "out", address=address)
    # On a cluster too the slices are prepared once, before trials would all do it.
    assert len({path.parent for path in (tmp_path / "cache").rglob("*.npy")}) == 4


def test_ray_takes_the_example_of_a_cluster_and_its_commands() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config
    from ray.scripts.scripts import cli

    path = Path(__file__).parents[2] / "configs" / "cluster" / "ssh.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert "docker" not in content
    validate_config(prepare_config(content))
    for command in content["head_start_ray_commands"] + content["worker_start_ray_commands"]:
        words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=.*", word)]
        assert words[0] == "/shared/medrd/.venv/bin/ray"
        cli.commands[words[1]].make_context(words[1], words[2:])  # knows the verb and its options


def test_resources_that_are_not_there_are_an_error_and_not_waited_for(raw: dict[str, Any]) -> None:
    config = make_tune(raw | {"resources": {"cpus": 3, "gpus": 0.5}})
    with pytest.raises(ConfigError, match=r"resources\.cpus.*at most the 2"):
        tune_module.refuse_small_cluster(config, Cluster({"CPU": 2.0, "GPU": 1.0}, grows=False))
    with pytest.raises(ConfigError, match=r"resources\.gpus"):
        tune_module.refuse_small_cluster(config, Cluster({"CPU": 4.0}, grows=False))
    tune_module.refuse_small_cluster(config, Cluster({"CPU": 2.0}, grows=True))


def test_no_usage_statistics_are_sent() -> None:
    settle_environment()
    from ray._common.usage.usage_lib import usage_stats_enabled

    assert not usage_stats_enabled()


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_dashboard_of_a_cluster_that_is_joined_is_an_error(
    search_raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    address = "10.0.0.1:6379"
    if by == "environment":
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=f"--dashboard: .*{address}"):
        tune(
            make_tune(search_raw),
            tmp_path / "out",
            address=address if by == "argument" else None,
            dashboard=True,
        )
    assert not (tmp_path / "out").exists()
