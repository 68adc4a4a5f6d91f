"""The gain of several processes, the overhead of Ray, and the bottleneck of a large cluster.

Everything is measured in one run on simulated brains. Each process has one core, so two processes
are compared with one of the same kind, which is measured again at the end: their difference shows
how much the machine's speed varies. What counts are the ratios. There must be as many idle cores
as processes. docs/scaling.md explains the numbers.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --only pieces --device cuda     # the network's step on a GPU
    python benchmarks/scaling.py --smoke                         # a quick test; meaningless numbers
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scan_pieces import Pieces, Site, clock, job_in, measure_pieces, print_paper, print_pieces

from medrd.config import make_config
from medrd.data.cases import Case
from medrd.data.kinds import kind_of
from medrd.evaluation.subject import EvaluatedModel, make_scorers
from medrd.phantom.cohort import write_cohort
from medrd.prediction.case import CasePredictor
from medrd.prediction.predict import predict
from medrd.run.device import choose_execution
from medrd.run.model_folder import load_model
from medrd.run.table import markdown_table
from medrd.runner.cluster import ray_cluster
from medrd.runner.on_ray import Ray
from medrd.training.metrics_log import read_epochs
from medrd.training.on_ray import train_on_ray
from medrd.training.train import train
from medrd.tuning.config import make_tune
from medrd.tuning.tune import tune

BRAINS = 5
"""Number of subjects for training, including one for calibration."""
PARTS = ("pieces", "predict", "train", "tune")


# --- Ray's own cost ---


def measure_scores(run: Path, raw: dict[str, Any], scans: Path) -> float:
    """MB that an evaluation's process sends back of a scan under one model, as they travel.

    The median of three scans.
    """
    model = load_model(run)
    config = make_config(raw | {"data": raw["data"] | {"root": str(scans)}})
    subjects = kind_of(config.recipe).subjects(config)[:3]
    threshold = model.calibration.threshold if model.calibration else None
    (scorer,) = make_scorers(model, "cpu", [EvaluatedModel("model", config, threshold)])
    outcomes = (scorer.finish(subject, scorer.read(subject)) for subject in subjects)
    return statistics.median(len(pickle.dumps(each, protocol=5)) for each in outcomes) / 1e6


def print_sent(pieces: Pieces, scores_mb: float) -> None:
    rows = [
        ["predict", f"{pieces.answer_kb / 1e3:.4f}"],
        ["evaluate, for each model", f"{scores_mb:.1f}"],
    ]
    print("\n" + markdown_table(["a process sends back of a scan", "MB"], rows) + "\n")


class Echo:
    """Work that does nothing; see :class:`medrd.runner.runner.Work`."""

    devices = ("--device", ("cpu",))

    def open(self) -> Echo:
        return self

    def read(self, case: Case, /) -> Case:
        return case

    def finish(self, case: Case, /) -> Case:
        return case

    def name(self, case: Case, /) -> str:
        return case.subject.id

    def lost(self, case: Case, reason: str, /) -> Case:
        raise RuntimeError(reason)


@dataclass(frozen=True)
class Calls:
    """Ray's work where nothing is done.

    Attributes
    ----------
    begin_s
        Time until a process has answered once.
    way_s
        Time of a call to a single process, in both directions.
    caller_s
        The command's own processor time per call, independent of the number of processes.
    """

    begin_s: float
    way_s: float
    caller_s: float


def measure_ray(cases: list[Case], count: int) -> Calls:
    """Measure ``count`` calls with the data that ``medrd predict`` sends."""
    start = time.perf_counter()
    times = []
    for _ in Ray(actors=1).map(Echo(), [cases[i % len(cases)] for i in range(count)]):
        times.append((time.perf_counter(), time.process_time()))
    (first, first_cpu), (last, last_cpu) = times[0], times[-1]
    return Calls(first - start, (last - first) / (count - 1), (last_cpu - first_cpu) / (count - 1))


# --- One and two processes ---


def print_predict(run: Path, brains: list[Path], folder: Path, processes: int) -> None:
    """Scans a second: without Ray, with and without reading ahead; with one process; several."""

    def on_ray(actors: int) -> float:
        out = folder / f"actors{actors}"
        predict(run, brains, out, device="cpu", runner=Ray(actors=actors))
        return scans_per_s(out, len(brains), actors)

    first = one_by_one(run, brains, folder / "first")
    one = on_ray(1)
    here = folder / "here"
    predict(run, brains, here, device="cpu")
    ahead = scans_per_s(here, len(brains), 1)
    several = on_ray(processes)
    again = one_by_one(run, brains, folder / "again")
    base = (first + again) / 2
    rows = [
        ["one after the other, without Ray", "1", f"{first:.3f}", "1"],
        ["the same once more, at the end", "1", f"{again:.3f}", "1"],
        ["the plain verb, which reads ahead", "2", f"{ahead:.3f}", f"{ahead / base / 2:.2f}"],
        ["one process of Ray's", "1", f"{one:.3f}", f"{one / base:.2f}"],
        [
            f"{processes} of Ray's",
            str(processes),
            f"{several:.3f}",
            f"{several / base / processes:.2f}",
        ],
    ]
    header = ["predict", "cores", "scans/s", "efficiency"]
    print("\n## medrd predict\n\n" + markdown_table(header, rows))
    print(f"\nRay costs {1 / one - 1 / base:+.3f} s a scan\n")


def one_by_one(run: Path, brains: list[Path], out: Path) -> float:
    """Scans per second of one process that works like a Ray process, without Ray."""
    model = load_model(run)
    cases = model.kind.find(brains, frame=None, series=None).cases
    worker = CasePredictor(model, job_in(out, "cpu"))
    for case in cases:
        worker.finish(worker.read(case))
    return scans_per_s(out, len(brains), 1)


def scans_per_s(out: Path, scans: int, processes: int) -> float:
    """Scans per second without start-up: after each process has written one record.

    Start-up, such as loading the model, is left out without Ray too.
    """
    records = [path for path in out.rglob("*.json") if path.name != "errors.json"]
    assert len(records) == scans
    times = sorted(path.stat().st_mtime for path in records)  # when each was written
    return (scans - processes) / (times[-1] - times[processes - 1])


def print_train(raw: dict[str, Any], folder: Path, processes: int) -> None:
    """Slices a second of the last epoch, with the same batches."""
    config = make_config(raw)
    counts = (1, processes, 1)
    speeds, seconds = [], []
    for number, workers in enumerate(counts):
        out = folder / f"train{number}"
        with clock() as spent:
            if workers == 1:
                train(config, out)
            else:
                train_on_ray(config, out, workers=workers, cpus=1)
        speeds.append(read_epochs(out)[-1].slices_per_s)
        seconds.append(spent[0])
    base = (speeds[0] + speeds[-1]) / 2
    rows = [
        [str(n), f"{speed:.2f}", f"{spent:.0f}", f"{speed / base / n:.2f}"]
        for n, speed, spent in zip(counts, speeds, seconds, strict=True)
    ]
    header = ["workers", "slices/s in the last epoch", "s in all", "efficiency"]
    print("\n## medrd train\n\n" + markdown_table(header, rows))


def print_tune(raw: dict[str, Any], folder: Path, processes: int, trials: int) -> None:
    """Trials an hour, from the first one's beginning on."""
    counts = (1, processes, 1)
    rates = []
    for number, concurrent in enumerate(counts):
        out = folder / f"tune{number}"
        content = {
            "config": raw,
            "space": {"scoring.sigma_px": {"kind": "uniform", "low": 1, "high": 6}},
            "search": {"algorithm": "random", "samples": trials, "concurrent": concurrent},
            "stopping": {"kind": "none"},
        }
        done = tune(make_tune(content), out)
        assert all(trial.status == "finished" for trial in done)
        begun = [p.stat().st_mtime for p in out.glob("trials/*/run/config.yaml")]
        ended = [p.stat().st_mtime for p in out.glob("trials/*/run/run.json")]
        rates.append(3600 * trials / (max(ended) - min(begun)))
    base = (rates[0] + rates[-1]) / 2
    rows = [[str(n), f"{r:.1f}", f"{r / base / n:.2f}"] for n, r in zip(counts, rates, strict=True)]
    header = ["trials at a time", "trials/h", "efficiency"]
    print("\n## medrd tune\n\n" + markdown_table(header, rows))


def base_config(root: Path, cache: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The model that all is measured with, on the phantoms."""
    model: dict[str, Any] = {"name": args.model}
    if args.smoke:
        model = {"name": "dae", "base": 4, "depth": 2}
    return {
        "data": {
            "root": str(root),
            "cache": str(cache),
            "split": {"train": BRAINS - 1, "calibration": 1, "test": 0},
        },
        "recipe": {"size": 64 if args.smoke else args.size},
        "model": model,
        "train": {"epochs": 2, "batch_size": args.batch_size, "device": "cpu"},
    }


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="rd4ad")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--scans", type=int, default=12)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="of the network's piece")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--smoke", action="store_true")
    paper = parser.add_argument_group("on paper")
    paper.add_argument("--paper-scans", type=int, default=10_000)
    paper.add_argument("--paper-gpus", type=int, default=10)
    paper.add_argument("--paper-cores", type=int, default=16, help="of each GPU")
    paper.add_argument("--paper-disk", type=float, default=1000, help="MB/s of all nodes together")
    args = parser.parse_args()
    if args.smoke:
        args.scans, args.trials = 4, 2
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as name, ray_cluster(None):
        folder = Path(name)
        write_cohort(folder / "brains", BRAINS, seed=0)
        write_cohort(folder / "scans", args.scans, seed=1)
        brains = sorted(p for p in (folder / "scans").iterdir() if p.is_dir())
        raw = base_config(folder / "brains", folder / "cache", args)
        run = train(make_config(raw), folder / "run")
        precision = choose_execution("cpu").precision
        name = "dae" if args.smoke else args.model
        size = raw["recipe"]["size"]
        print(f"{name} at {size} px, {os.cpu_count()} cores, one a process, {precision}")
        if "pieces" in args.only:
            pieces = measure_pieces(run, brains, folder / "pieces", args.device)
            cases = load_model(run).kind.find(brains, frame=None, series=None).cases
            calls = measure_ray(cases, 20 if args.smoke else 1000)
            print_pieces(pieces, args.device)
            print(
                f"Ray: {calls.begin_s:.1f} s until a process works; a call takes "
                f"{1000 * calls.way_s:.1f} ms, and {1000 * calls.caller_s:.2f} ms of the caller's\n"
            )
            print_sent(pieces, measure_scores(run, raw, folder / "scans"))
            site = Site(args.paper_gpus, args.paper_cores, args.paper_disk)
            print_paper(pieces, calls.caller_s, site, args.paper_scans)
        if "predict" in args.only:
            print_predict(run, brains, folder, args.processes)
        if "train" in args.only:
            print_train(raw, folder, args.processes)
        if "tune" in args.only:
            print_tune(raw, folder, args.processes, args.trials)


if __name__ == "__main__":
    main()
