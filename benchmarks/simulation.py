"""Time of simulated anomalies relative to a training step, and statistics of the anomalies.

Simulation and RD4AD's iteration are timed alternately within one process, so that other work on
the machine affects them equally. What counts is the ratio; the goal is at most 10 %.

    python benchmarks/simulation.py                                     # the tables
    python benchmarks/simulation.py --picture docs/figures/simulated.png
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medrd.config import (
    CoarseNoiseConfig,
    RecipeConfig,
    SimplexBoxConfig,
    SimulationConfig,
    make_config,
)
from medrd.data.brains.prepare import prepare_slices
from medrd.images.volume import volume_from_array
from medrd.models.detector import Batch
from medrd.phantom.cohort import BRATS_AFFINE, make_subject
from medrd.run.device import Execution, choose_execution
from medrd.run.model_folder import make_detector
from medrd.run.table import markdown_table
from medrd.simulate.anomalies import CONTENTS, SHAPES, AnomalySimulator, Simulated
from medrd.simulate.noise import CoarseNoise, SimplexBox
from medrd.training.loop import make_optimizers

Simulator = Callable[[Tensor, Tensor, torch.Generator], Simulated]
SIMULATORS: dict[str, Simulator] = {
    "anomalies": AnomalySimulator(SimulationConfig()),
    "coarse noise": CoarseNoise(CoarseNoiseConfig()),
    "simplex box": SimplexBox(SimplexBoxConfig()),
}


def phantom_slices(size: int, count: int) -> tuple[Tensor, Tensor]:
    """Lesion-free slices nearest the middle of eight phantoms: (B, 1, H, W), (B, H, W) bool."""
    images, regions = [], []
    for index in range(8):
        phantom = make_subject(index)
        flair = volume_from_array(phantom.modalities["flair"], BRATS_AFFINE)
        prepared = prepare_slices({"flair": flair}, RecipeConfig(size=size))
        lesion = prepared.geometry.to_slices(phantom.labels > 0, nearest=True)[prepared.numbers]
        healthy = np.flatnonzero(~lesion.any(axis=(1, 2)))
        each = -(-count // 8)
        middle = np.median(prepared.numbers)
        nearest = healthy[np.argsort(np.abs(prepared.numbers[healthy] - middle), kind="stable")]
        which = nearest[: 3 * each : 3]
        images.append(prepared.images[which])
        regions.append(prepared.region[which])
    order = np.random.default_rng(0).permutation(sum(map(len, images)))[:count]
    image, region = np.concatenate(images)[order], np.concatenate(regions)[order]
    return torch.from_numpy(image.astype(np.float32)), torch.from_numpy(region)


def print_times(
    execution: Execution, images: Tensor, region: Tensor, *, teacher: str, repeats: int
) -> None:
    """Print milliseconds per batch for each simulation, and for RD4AD's training iteration."""
    torch.manual_seed(0)
    section = {"name": "rd4ad", "teacher": {"name": teacher, "weights": "random"}}
    detector = make_detector(make_config({"model": section}))
    execution.place(detector)
    detector.train()
    steps = detector.steps()
    optimizers = make_optimizers(steps)
    batch = Batch(execution.images(images.numpy()), region.to(execution.device))

    def iteration() -> None:
        for step in steps:
            with execution.autocast():
                loss = step.loss(batch)
            optimizers[step.name].zero_grad(set_to_none=True)
            loss.backward()
            optimizers[step.name].step()
            float(loss.detach())

    generator = torch.Generator().manual_seed(0)
    jobs: dict[str, Callable[[], object]] = {"RD4AD iteration": iteration}
    for name, simulator in SIMULATORS.items():
        jobs[name] = partial(simulator, batch.images, batch.region, generator)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(repeats + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if execution.device.type == "cuda":
                torch.cuda.synchronize()
            if number:  # the first builds the kernels
                times[name].append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in times.items()}
    whole = medians["RD4AD iteration"]
    count, _, height, width = batch.images.shape
    print(f"{count} x 3 x {height} x {width}, teacher {teacher}, {execution.device}, ", end="")
    print(f"{execution.precision}, {torch.get_num_threads()} threads, median of {repeats}\n")
    rows = [
        [name, f"{ms:.1f}", f"{min(times[name]):.1f}", f"{100 * ms / whole:.1f} %"]
        for name, ms in medians.items()
    ]
    print(markdown_table(["", "ms", "least ms", "of the iteration"], rows) + "\n")


def print_outcomes(images: Tensor, region: Tensor, *, batches: int) -> None:
    """Print how often no pixel is labelled, and otherwise the labelled share of the region."""
    shares: dict[tuple[str, str], Tensor] = {}
    for shape in SHAPES:
        for content in CONTENTS:
            simulate = AnomalySimulator(SimulationConfig(contents=(content,), shapes=(shape,)))
            generator = torch.Generator().manual_seed(0)
            masks = [simulate(images, region, generator).mask for _ in range(batches)]
            areas = torch.stack([mask.sum(dim=(1, 2)) / region.sum(dim=(1, 2)) for mask in masks])
            shares[shape, content] = areas.flatten()

    def row(name: str, values: Tensor) -> list[str]:
        labelled = values[values > 0].quantile(torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]))
        empty = (values == 0).float().mean()
        return [name, f"{100 * empty:.1f} %", *(f"{100 * q:.1f} %" for q in labelled.tolist())]

    def joint(which: str) -> Tensor:
        return torch.cat([v for key, v in shares.items() if which in key])

    rows = [row(name, joint(name)) for name in (*SHAPES, *CONTENTS)]
    rows.append(row("all", torch.cat(list(shares.values()))))
    quantiles = [f"area at {q} %" for q in (5, 25, 50, 75, 95)]
    print(f"{batches * len(images)} images for each shape with each content\n")
    print(markdown_table(["", "no label", *quantiles], rows))


def draw(images: Tensor, region: Tensor, path: Path) -> None:
    """A row for each content, two columns for each shape, labels outlined."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = [shape for shape in SHAPES for _ in range(2)]
    figure, axes = plt.subplots(
        1 + len(CONTENTS), len(columns), figsize=(12, 13), facecolor="black"
    )
    generator = torch.Generator().manual_seed(8)
    window = (slice(20, -20), slice(40, -40))
    for axis, image in zip(axes[0], images, strict=False):
        axis.imshow(image[0][window], cmap="gray", vmin=0, vmax=1)
    for row, content in zip(axes[1:], CONTENTS, strict=True):
        for number, (axis, shape) in enumerate(zip(row, columns, strict=True)):
            made = AnomalySimulator(SimulationConfig(contents=(content,), shapes=(shape,)))(
                images, region, generator
            )
            axis.imshow(made.images[number, 0][window], cmap="gray", vmin=0, vmax=1)
            if made.mask[number].any():
                outline = made.mask[number][window].float()
                axis.contour(outline, [0.5], colors="#ffb000", linewidths=0.7)
    for row, name in zip(axes, ("healthy", *CONTENTS), strict=True):
        row[0].text(4, 14, name, color="white", fontsize=9)
    for axis, shape in zip(axes[0], columns, strict=True):
        axis.set_title(shape, color="white", fontsize=9)
    for axis in axes.flat:
        axis.axis("off")
    figure.subplots_adjust(0.003, 0.003, 0.997, 0.975, wspace=0.02, hspace=0.02)
    figure.savefig(path, dpi=100, facecolor="black")
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def main() -> None:
    """Measure and print the tables, or draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batches", type=int, default=10, help="for the outcomes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--picture", type=Path, help="draw a grid of anomalies there instead")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    images, region = phantom_slices(args.size, args.batch_size)
    if args.picture:
        draw(images, region, args.picture)
        return
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        execution = choose_execution(device)
        print_times(execution, images, region, teacher=args.teacher, repeats=args.repeats)
    print_outcomes(images, region, batches=args.batches)


if __name__ == "__main__":
    main()
