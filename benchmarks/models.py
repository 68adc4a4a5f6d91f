"""Speed of every detector of a comparison: training iterations and prediction.

All detectors process the same simulated slices within one process, alternating in rounds, so that
other work on the machine affects them equally. What counts is the ratio to the first one. Weights
are random, as speed does not depend on them. A memory of patches comes from one phantom.

    python benchmarks/models.py configs/compare/models.yaml
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from speed import batches_of, phantom_slices, training_loop

from medrd.comparison.config import CompareConfig, cell_config, load_compare
from medrd.config import Config
from medrd.config.load import read_yaml
from medrd.data.slices import SliceBatch
from medrd.models.detector import Batch
from medrd.run.device import Execution, choose_execution
from medrd.run.model_folder import make_detector, make_scoring
from medrd.run.predictor import Predictor
from medrd.run.table import markdown_table
from medrd.training.checkpoint import Position


def cell_configs(config: CompareConfig, data_set: str) -> dict[str, Config]:
    """One config a model, on the data set; its files are not needed."""
    cells = {
        name: cell_config(config, name, data_set, 0, root=Path("nowhere")) for name in config.models
    }
    # The slices have no positions, which make no difference to the speed.
    return {
        name: cell.model_copy(update={"recipe": cell.recipe.model_copy(update={"place": False})})
        for name, cell in cells.items()
    }


def training_of(config: Config, execution: Execution) -> Callable[[SliceBatch, int], object] | None:
    """One iteration of a detector on a batch; None for a detector that has no steps."""
    torch.manual_seed(0)
    detector = make_detector(config)
    if not detector.steps():
        return None
    loop = training_loop(detector, execution, config)
    return lambda batch, number: loop.iteration(batch, Position(0, number))


def compiled(config: Config) -> Config:
    """The config with losses that torch.compile makes faster."""
    train = config.train.model_copy(update={"compile": True})
    return config.model_copy(update={"train": train})


def predictor_of(config: Config, execution: Execution, slices: SliceBatch) -> Predictor:
    """A detector as it predicts: what is collected comes from these slices."""
    torch.manual_seed(0)
    detector = execution.place(make_detector(config)).eval()
    if detector.collects:
        with torch.no_grad(), execution.autocast():
            region = torch.from_numpy(slices.region).to(execution.device)
            detector.collect(Batch(execution.images(slices.images), region))
            detector.finish(torch.Generator().manual_seed(0))
    detector.keep_for_prediction()
    scoring = make_scoring(config.scoring, size=slices.region.shape[-1])
    return Predictor(detector, scoring, execution)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of a call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="a comparison")
    parser.add_argument("--data-set", help="whose recipe to take; default: the first")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile the losses")
    args = parser.parse_args()

    # The data are not looked at, so they may be anywhere.
    names = read_yaml(Path(args.config)).get("data_sets", {})
    config = load_compare(args.config, [f"data_sets.{name}.root=nowhere" for name in names])
    cells = cell_configs(config, args.data_set or next(iter(config.data_sets)))
    execution = choose_execution(args.device)
    first = next(iter(cells.values()))
    size, batch_size = first.recipe.size, first.train.batch_size
    prepared = phantom_slices(size)
    batches = batches_of(prepared, batch_size, args.rounds + 1)
    everything = SliceBatch(np.asarray(prepared.images, np.float32), prepared.region)

    trainings = {
        name: training_of(compiled(cell) if args.compile else cell, execution)
        for name, cell in cells.items()
    }
    predictors = {name: predictor_of(cell, execution, everything) for name, cell in cells.items()}
    train_s: dict[str, list[float]] = {name: [] for name in cells}
    predict_s: dict[str, list[float]] = {name: [] for name in cells}
    for number, batch in enumerate(batches):
        for name, train in trainings.items():
            predictor = predictors[name]
            if train is not None:
                took = seconds(lambda: train(batch, number), execution.device)  # noqa: B023
                train_s[name].append(took)
            took = seconds(
                lambda: predictor.maps(batch.images, batch.region),  # noqa: B023
                execution.device,
            )
            predict_s[name].append(took)

    # The first round builds the kernels.
    iteration = {name: statistics.median(each[1:]) for name, each in train_s.items() if each}
    prediction = {name: statistics.median(each[1:]) for name, each in predict_s.items()}
    reference = next(iter(iteration))
    rows = [
        [
            name,
            f"{batch_size / iteration[name]:.1f}" if name in iteration else "–",
            f"{iteration[name] / iteration[reference]:.2f}" if name in iteration else "–",
            f"{batch_size / prediction[name]:.1f}",
            f"{prediction[name] / prediction[reference]:.2f}",
        ]
        for name in cells
    ]
    print(f"{size}², batch {batch_size}, {execution.device}, {execution.precision}, ", end="")
    print(f"{torch.get_num_threads()} threads, median of {args.rounds} rounds\n")
    times = f"times as long as {reference}"
    if execution.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(execution.device) / 2**20
        print(f"peak memory of all models together: {peak:.0f} MiB\n")
    print(markdown_table(["model", "training slices/s", times, "prediction slices/s", times], rows))


if __name__ == "__main__":
    main()
