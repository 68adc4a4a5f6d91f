"""PatchCore's coreset: time and memory for a large bank, and the effect of thinning on coverage.

    OMP_NUM_THREADS=1 python benchmarks/coreset.py scale --points 10_240_000
    python benchmarks/coreset.py cover --points 131072

``scale``: points come in batches as in training (16 slices of 256², 1024 positions each). Time is
processor time without generating the points; with one thread, it is the wall time on an idle
machine. Memory is the peak of the process minus its memory before the first point, including one
batch (16,384 points in float32).

``cover``: at a size at which the greedy rule can consider all points. The radius is the largest
distance of a point from its nearest chosen one, in full width; the mean is over all points.

The points are simulated: 2000 clusters of very different sizes, each spread along 8 of 256
directions, and noise; 152 features, as with EfficientNet-Lite0's two levels.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from medrd.models.coreset import OVERSAMPLING, POOL, Candidates, nearest
from medrd.run.provenance import peak_memory_mib
from medrd.run.table import markdown_table

WIDTH = 152
BATCH = 16 * 1024


class Clusters:
    """Points around centres; the i-th cluster is as frequent as 1 / i.

    Clusters share ``sets`` sets of ``rank`` directions, along which they spread.
    """

    def __init__(self, *, count: int = 2000, rank: int = 8, sets: int = 32) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.centres = 2 * self._normal(count, WIDTH)
        self.directions = self._normal(sets, rank, WIDTH) / math.sqrt(rank)
        self.weights = 1 / torch.arange(1, count + 1)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def batches(self, points: int) -> Iterator[Tensor]:
        """Batches of ``BATCH`` points, and a rest."""
        sets, rank, _ = self.directions.shape
        for first in range(0, points, BATCH):
            size = min(BATCH, points - first)
            which = torch.multinomial(
                self.weights, size, replacement=True, generator=self.generator
            )
            batch = self.centres[which] + 0.1 * self._normal(size, WIDTH)
            for number, directions in enumerate(self.directions):
                members = (which % sets == number).nonzero()[:, 0]
                batch[members] += self._normal(len(members), rank) @ directions
            yield batch


def scale(points: int, fraction: float, pool: int, oversampling: float) -> None:
    """Collect and choose once."""
    clusters = Clusters()
    before = peak_memory_mib() or math.nan
    candidates = Candidates(fraction=fraction, pool=pool, oversampling=oversampling)
    collecting = 0.0
    for batch in clusters.batches(points):
        start = time.process_time()
        candidates.add(batch)
        collecting += time.process_time() - start
    held = len(candidates)
    start = time.process_time()
    coreset = candidates.finish(torch.Generator().manual_seed(0))
    choosing = time.process_time() - start
    row = {
        "threads": str(torch.get_num_threads()),
        "points": f"{points:,}",
        "held at the end": f"{held:,}",
        "bank": f"{len(coreset):,}",
        "collecting (s)": f"{collecting:.0f}",
        "choosing (s)": f"{choosing:.0f}",
        "memory (MiB)": f"{(peak_memory_mib() or math.nan) - before:.0f}",
    }
    print(markdown_table(list(row), [list(row.values())]))


def cover(points: int, fraction: float, seeds: int) -> None:
    """Greedy on all, thinned in pools of several sizes, and at random."""
    data = torch.cat(list(Clusters().batches(points)))
    rows = []
    ways = [("greedy, all in one pool", points, 1.0)]
    ways += [
        (f"pools of {points // parts:,}, thinned to {more:g}x", points // parts, more)
        for parts in (8, 32)
        for more in (1.0, 2.0, 4.0, 8.0)
    ]
    for name, pool, oversampling in ways:
        seconds, results = 0.0, []
        for seed in range(seeds):
            start = time.process_time()
            candidates = Candidates(fraction=fraction, pool=pool, oversampling=oversampling)
            candidates.add(data)
            coreset = candidates.finish(torch.Generator().manual_seed(seed))
            seconds += (time.process_time() - start) / seeds
            results.append(_cover(data, coreset))
        rows.append([name, *_means(results), f"{seconds:.1f}"])
    results = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(points, generator=generator)[: int(fraction * points)]
        results.append(_cover(data, data[chosen]))
    rows.append(["at random", *_means(results), "0.0"])
    columns = ["chosen by", "radius", "mean", "seconds"]
    print(markdown_table(columns, rows))


def _cover(data: Tensor, bank: Tensor) -> tuple[float, float]:
    distances, _ = nearest(data, bank)
    return float(distances.max()), float(distances.mean())


def _means(results: list[tuple[float, float]]) -> list[str]:
    return [f"{sum(values) / len(values):.2f}" for values in zip(*results, strict=True)]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["scale", "cover"])
    parser.add_argument("--points", type=int)
    parser.add_argument("--fraction", type=float, default=0.01)
    parser.add_argument("--pool", type=int, default=POOL)
    parser.add_argument("--oversampling", type=float, default=OVERSAMPLING)
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    if args.what == "scale":
        scale(args.points or 10_240_000, args.fraction, args.pool, args.oversampling)
    else:
        cover(args.points or 131_072, args.fraction, args.seeds)


if __name__ == "__main__":
    main()
