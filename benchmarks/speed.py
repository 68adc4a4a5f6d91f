"""Training and prediction speed of RD4AD in medrd, compared with plain fp32 eager NCHW.

Both run the same network on the same simulated slices, alternating within one process, so that
other work on the machine affects them equally. What counts is the ratio.

    python benchmarks/speed.py                 # WRN50-2 at 256², batch 16
    python benchmarks/speed.py --loss-steps 40 # also the loss curves of both, side by side
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from medrd.config import Config, RecipeConfig, make_config
from medrd.data.brains.layouts import find_subjects
from medrd.data.brains.prepare import PreparedVolume, prepare_slices, read_channels
from medrd.data.slices import HealthySlices, SliceBatch
from medrd.models.detector import Detector
from medrd.phantom.cohort import write_cohort
from medrd.run.device import Execution, choose_execution
from medrd.run.model_folder import make_detector, make_scoring
from medrd.run.predictor import Predictor
from medrd.run.table import markdown_table
from medrd.training.checkpoint import Position
from medrd.training.loop import Loop
from medrd.training.setup import Training


def phantom_slices(size: int) -> PreparedVolume:
    """One simulated brain's slices."""
    with tempfile.TemporaryDirectory() as folder:
        write_cohort(Path(folder), 1, seed=0)
        subject = find_subjects(Path(folder), layout="brats", channels=["flair"])[0]
        recipe = RecipeConfig(size=size)
        return prepare_slices(read_channels(subject, recipe, max_voxels=512**3), recipe)


def batches_of(prepared: PreparedVolume, batch_size: int, count: int) -> list[SliceBatch]:
    """Random batches, with a fixed seed."""
    rng = np.random.default_rng(0)
    picks = [rng.choice(len(prepared.images), batch_size, replace=False) for _ in range(count)]
    return [SliceBatch(prepared.images[which], prepared.region[which]) for which in picks]


def training_loop(detector: Detector, execution: Execution, config: Config) -> Loop:
    """The loop of medrd train, without a data set."""
    execution.place(detector)
    detector.train()
    no_slices = HealthySlices([], margin=0)
    return Loop(Training(config, Path(), no_slices, detector, execution))


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="wide_resnet50_2")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loss-steps", type=int, default=0)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()

    torch.manual_seed(0)
    teacher = {"name": args.teacher, "weights": "random"}
    config = make_config({"model": {"name": "rd4ad", "teacher": teacher}})
    detector = make_detector(config)
    fast = choose_execution(args.device)
    ways = {"plain fp32 NCHW": Execution(fast.device, False), f"medrd ({fast.precision})": fast}
    if not fast.bf16:
        print("This device computes in fp32 only; both ways are the same.")
    prepared = phantom_slices(args.size)
    batches = batches_of(prepared, args.batch_size, args.repeats + 1)

    train_s: dict[str, list[float]] = {name: [] for name in ways}
    loops = {
        name: training_loop(copy.deepcopy(detector), way, config) for name, way in ways.items()
    }
    for number, batch in enumerate(batches):
        for name, loop in loops.items():
            start = time.perf_counter()
            loop.iteration(batch, Position(0, number))
            if number:  # the first builds the kernels
                train_s[name].append(time.perf_counter() - start)
    del loops

    predict_s: dict[str, list[float]] = {name: [] for name in ways}
    scoring = make_scoring(config.scoring, size=args.size)
    for number in range(args.repeats + 1):
        for name, way in ways.items():
            predictor = Predictor(copy.deepcopy(detector), scoring, way, batch_size=args.batch_size)
            # A whole volume each time, unless this is the first.
            part = slice(None) if number else slice(args.batch_size)
            start = time.perf_counter()
            predictor.maps(prepared.images[part], prepared.region[part])
            if number:
                predict_s[name].append(time.perf_counter() - start)

    slices = len(prepared.images)
    rows = []
    for name in ways:
        train = args.batch_size / statistics.median(train_s[name])
        volume = statistics.median(predict_s[name])
        rows.append([name, f"{train:.2f}", f"{slices / volume:.2f}", f"{volume:.1f}"])
    plain, quick = (
        [statistics.median(times[name]) for name in ways] for times in (train_s, predict_s)
    )
    rows.append(
        ["ratio", *(f"{a / b:.2f}" for a, b in (plain, quick)), f"{quick[0] / quick[1]:.2f}"]
    )
    print(f"RD4AD, {args.teacher}, {args.size}², batch {args.batch_size}, {fast.device}, ", end="")
    print(f"{torch.get_num_threads()} threads, median of {args.repeats}\n")
    print(
        markdown_table(
            ["way", "training slices/s", "prediction slices/s", f"s a volume ({slices} slices)"],
            rows,
        )
    )
    if args.loss_steps:
        print_loss_curves(detector, ways, config, prepared, args.batch_size, args.loss_steps)


def print_loss_curves(
    detector: Detector,
    ways: dict[str, Execution],
    config: Config,
    prepared: PreparedVolume,
    batch_size: int,
    steps: int,
) -> None:
    """The same start and the same batches, in both precisions."""
    batches = batches_of(prepared, batch_size, steps)
    curves = {}
    for name, way in ways.items():
        loop = training_loop(copy.deepcopy(detector), way, config)
        curves[name] = [
            sum(loop.iteration(batch, Position(0, number)).values())
            for number, batch in enumerate(batches)
        ]
    every = max(1, steps // 10)
    rows = [
        [str(step + 1), *(f"{curve[step]:.4f}" for curve in curves.values())]
        for step in sorted({*range(0, steps, every), steps - 1})
    ]
    print("\nloss\n\n" + markdown_table(["step", *curves], rows))


if __name__ == "__main__":
    main()
