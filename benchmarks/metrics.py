"""Time and memory of pixel metrics for any number of pixels, and AUPRO compared with loops.

    python benchmarks/metrics.py scale --pixels 1e6 1e7 1e8 1e9
    python benchmarks/metrics.py aupro --maps 1000
    python benchmarks/metrics.py bootstrap

``scale``: each measurement is a separate process. Its time is that of the metrics, without
generating the maps; its memory is the peak of the whole process, including interpreter and
libraries (about 150 MiB).

- ``histogram``: pictures come one by one and are counted some hundreds at a time; AUROC, AP, best
  Dice and AUPRO, with their bounds.
- ``scikit-learn``: ``roc_auc_score`` and ``average_precision_score`` on all pixels at once.
- ``thresholds``: AUPRO alone at 200 evenly spaced thresholds, components labelled once, overlaps
  counted with ``bincount``, on all pixels at once.

``aupro``: one process runs all ways after each other on the same maps. Runs of less than 5 s are
timed three times, and the median is given. Everything uses one core, so times are processor times,
which other work on the machine disturbs less.

- ``histogram``: as above.
- ``thresholds, labelled once``: as above.
- ``thresholds, labelled each time``: at every threshold, every picture's components are labelled
  and visited one by one, as in released code; otherwise the same.
- ``rd4ad`` and ``rd4ad by thresholds``: the per-image variant of papers, which is a different
  metric, by medrd and by the loop that labels each time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.integrate import trapezoid

from medrd.metrics import (
    Histogram,
    aupro_rd4ad,
    bins_each,
    bootstrap,
    count_pixels,
    make_units,
    merge,
    pixel_bounds,
    pixel_metrics,
    region_weights,
)

Maps = NDArray[np.float32]
Labels = NDArray[np.bool_]

SIZE = 256
MAX_FPR = 0.3
THRESHOLDS = 200
COUNTED_TOGETHER = 256
"""Pictures, which is 2**24 pixels."""
MERGED_TOGETHER = 4
REPEATED_BELOW_S = 5.0
AT_ONCE_LIMIT = {"scikit-learn": 10**8, "thresholds": 10**7}
"""Beyond these, ways that hold all pixels at once take gigabytes or many minutes."""


def simulate(maps: int, seed: int) -> tuple[Maps, Labels]:
    """Smooth noise with up to four elliptic lesions, of varying size and contrast, a map.

    Every fifth map is healthy. Maps differ in their overall scale, as those of networks do.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    scores = np.empty((maps, SIZE, SIZE), dtype=np.float32)
    labels = np.zeros((maps, SIZE, SIZE), dtype=np.bool_)
    for index in range(maps):
        noise = ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), SIZE / 64)
        scores[index] = noise / noise.std()
        for _ in range(0 if index % 5 == 0 else int(rng.integers(1, 5))):
            centre = rng.uniform(0, SIZE, 2)
            radii = rng.uniform(SIZE / 100, SIZE / 12, 2)
            lesion = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2
            labels[index] |= lesion <= 1
            scores[index] += rng.uniform(0, 4) * np.exp(-lesion)
        scores[index] *= rng.uniform(0.5, 2)
    return scores, labels


def stream(pixels: int, seed: int) -> Iterator[tuple[Maps, Labels]]:
    """Pictures one at a time: 50 simulated ones again and again, shifted and scaled anew."""
    scores, labels = simulate(50, seed)
    rng = np.random.default_rng(seed + 1)
    for index in range(-(-pixels // SIZE**2)):
        shift = tuple(rng.integers(0, SIZE, 2))
        factor, offset = np.float32(rng.uniform(0.5, 2)), np.float32(rng.uniform(-0.1, 0.1))
        yield (
            np.roll(scores[index % 50], shift, (0, 1)) * factor + offset,
            np.roll(labels[index % 50], shift, (0, 1)),
        )


def by_histogram(maps: Iterator[tuple[Maps, Labels]]) -> tuple[float, dict[str, Any]]:
    """Seconds and values; what it takes to make the maps up is not counted."""
    counted: list[Histogram] = []
    waiting: list[tuple[Maps, Labels, NDArray[np.float64], int]] = []
    seconds = 0.0

    def count() -> None:
        scores, labels, weights, components = zip(*waiting, strict=True)
        counted.append(
            count_pixels(
                np.concatenate(scores, axis=None),
                np.concatenate(labels, axis=None),
                np.concatenate(weights),
                sum(components),
            )
        )
        waiting.clear()
        if len(counted) == MERGED_TOGETHER:
            counted[:] = [merge(counted)]

    for scores, label in maps:
        start = time.perf_counter()
        weights, components = region_weights(label)
        waiting.append((scores, label, weights, components))
        if len(waiting) == COUNTED_TOGETHER:
            count()
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    if waiting:
        count()
    histogram = merge(counted)
    values = pixel_metrics(histogram, max_fpr=MAX_FPR)
    bounds = pixel_bounds(histogram, max_fpr=MAX_FPR)
    seconds += time.perf_counter() - start
    width = max((high - low for low, high in bounds.values()), default=0.0)
    return seconds, {**values, "shift": histogram.shift, "width": width}


def by_scikit_learn(maps: Iterator[tuple[Maps, Labels]]) -> tuple[float, dict[str, Any]]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, labels = (np.stack(arrays).ravel() for arrays in zip(*maps, strict=True))
    start = time.perf_counter()
    auroc = float(roc_auc_score(labels, scores))
    precision = float(average_precision_score(labels, scores))
    return time.perf_counter() - start, {"pixel_auroc": auroc, "pixel_ap": precision}


def by_thresholds(maps: Iterator[tuple[Maps, Labels]]) -> tuple[float, dict[str, Any]]:
    scores, labels = (np.stack(arrays) for arrays in zip(*maps, strict=True))
    start = time.perf_counter()
    value = labelled_once(scores, labels)
    return time.perf_counter() - start, {"aupro": value}


WAYS = {"histogram": by_histogram, "scikit-learn": by_scikit_learn, "thresholds": by_thresholds}


def area(rates: list[float], overlaps: list[float]) -> float:
    """Area under a data set's curve from 0 to the limit, divided by the limit; rates ascend."""
    x, y = np.array([0.0, *rates]), np.array([0.0, *overlaps])
    below = x < MAX_FPR
    end = np.interp(MAX_FPR, x, y)
    return float(trapezoid(np.append(y[below], end), np.append(x[below], MAX_FPR))) / MAX_FPR


def labelled_once(scores: Maps, labels: Labels) -> float:
    """AUPRO by one ``bincount`` per threshold over the component numbers of flagged pixels."""
    numbers, count = np.zeros(labels.shape, np.int32), 0
    for image, label in enumerate(labels):
        components, more = ndimage.label(label, structure=np.ones((3, 3)))
        numbers[image] = np.where(components, components + count, 0)
        count += more
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)
    rates, overlaps = [], []
    for threshold in np.linspace(scores.max(), scores.min(), THRESHOLDS):
        flagged = np.bincount(numbers[scores >= threshold], minlength=count + 1) / sizes
        rates.append(float(flagged[0]))
        overlaps.append(float(flagged[1:].mean()))
    return area(rates, overlaps)


def region_shares(flagged: Labels, label: Labels) -> list[float]:
    """Label an image's components and return the flagged share of each."""
    numbered, _ = ndimage.label(label, structure=np.ones((3, 3)))
    shares = []
    for number, box in enumerate(ndimage.find_objects(numbered), start=1):
        region = numbered[box] == number
        shares.append(float(flagged[box][region].mean()))
    return shares


def labelled_each_time(scores: Maps, labels: Labels) -> float:
    """AUPRO by labelling every image's components at each threshold."""
    normal = ~labels
    rates, overlaps = [], []
    for threshold in np.linspace(scores.max(), scores.min(), THRESHOLDS):
        flagged = scores >= threshold
        pairs = zip(flagged, labels, strict=True)
        shares = [share for pair in pairs for share in region_shares(*pair)]
        rates.append(float((flagged & normal).sum() / normal.sum()))
        overlaps.append(float(np.mean(shares)))
    return area(rates, overlaps)


def rd4ad_by_thresholds(scores: Maps, labels: Labels) -> float:
    """Each anomalous image by itself, its last rate below the limit stretched to 1."""
    areas = []
    for image, label in zip(scores, labels, strict=True):
        if not label.any():
            continue
        wide, normal = image.astype(np.float64), ~label
        rates, overlaps = [], []
        for step in range(THRESHOLDS):
            flagged = wide > wide.min() + step * ((wide.max() - wide.min()) / THRESHOLDS)
            rates.append(float((flagged & normal).sum() / normal.sum()))
            overlaps.append(float(np.mean(region_shares(flagged, label))))
        x, y = np.array(rates), np.array(overlaps)
        below = x < MAX_FPR
        areas.append(-float(trapezoid(y[below], x[below] / x[below].max())))
    return float(np.mean(areas))


def from_histogram(scores: Maps, labels: Labels) -> float:
    _, values = by_histogram(zip(scores, labels, strict=True))
    return float(values["aupro"])


def median_seconds(
    way: Callable[[Maps, Labels], float | None], scores: Maps, labels: Labels
) -> tuple[float, float, float | None]:
    """Seconds by the clock and of the processor, medians of three if few, and the value."""
    wall: list[float] = []
    cpu: list[float] = []
    while not wall or (max(wall) < REPEATED_BELOW_S and len(wall) < 3):
        start, busy = time.perf_counter(), time.process_time()
        value = way(scores, labels)
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - busy)
    return float(np.median(wall)), float(np.median(cpu)), value


def compare_aupro(maps: int, seed: int) -> None:
    scores, labels = simulate(maps, seed)
    _, components = region_weights(labels)
    print(f"{maps} maps of {SIZE} x {SIZE}, {components} components, seed {seed}\n")
    ways: list[tuple[str, Callable[[Maps, Labels], float | None]]] = [
        ("histogram", from_histogram),
        ("thresholds, labelled once", labelled_once),
        ("thresholds, labelled each time", labelled_each_time),
        ("rd4ad", aupro_rd4ad),
        ("rd4ad by thresholds", rd4ad_by_thresholds),
    ]
    print(f"| {'way':30} | value    | seconds | CPU seconds | times the first |")
    print(f"| {'-' * 30} | -------: | ------: | ----------: | --------------: |")
    first = None
    for name, way in ways:
        wall, cpu, value = median_seconds(way, scores, labels)
        first = first or cpu
        print(
            f"| {name:30} | {value:.6f} | {wall:7.2f} | {cpu:11.2f} | {cpu / first:15.1f} |",
            flush=True,
        )


def compare_scale(counts: list[int], seed: int) -> None:
    print("| pixels | way          | seconds | peak MiB | AUROC    | AP       | AUPRO    | bound |")
    print("| -----: | ------------ | ------: | -------: | -------: | -------: | -------: | ----: |")
    for pixels in counts:
        for way in WAYS:
            if pixels > AT_ONCE_LIMIT.get(way, pixels):
                continue
            command = [sys.executable, __file__, "one", "--way", way, "--pixels", str(pixels)]
            done = subprocess.run(
                [*command, "--seed", str(seed)], capture_output=True, text=True, check=True
            )
            row = json.loads(done.stdout)
            cells = [
                f"{row[name]:.6f}" if name in row else " " * 8
                for name in ("pixel_auroc", "pixel_ap", "aupro")
            ]
            bound = f"{row['width']:.0e}" if "width" in row else ""
            print(
                f"| {pixels:6.0e} | {way:12} | {row['seconds']:7.2f} | {row['peak_mib']:8.0f} "
                f"| {' | '.join(cells)} | {bound:5} |",
                flush=True,
            )


def measure_one(way: str, pixels: int, seed: int) -> None:
    seconds, values = WAYS[way](stream(pixels, seed))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(values | {"seconds": seconds, "peak_mib": peak}))


def measure_bootstrap(seed: int, units: int = 112, resamples: int = 1000) -> None:
    histograms, tops = [], []
    for scores, label in stream(units * SIZE**2, seed):
        weights, components = region_weights(label)
        histograms.append(
            count_pixels(
                scores.ravel(),
                label.ravel(),
                weights,
                components,
                max_bins=bins_each(units),
            )
        )
        tops.append(scores.max())
    made = make_units(
        [str(unit) for unit in range(units)],
        histograms,
        image_scores=tops,
        image_labels=[bool(histogram.components) for histogram in histograms],
        image_units=range(units),
    )
    start = time.perf_counter()
    bootstrap([made], resamples=resamples, seed=seed)
    seconds = time.perf_counter() - start
    print(f"{resamples} resamples of {units} units in {made.scores.size} bins: {seconds:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["scale", "aupro", "bootstrap", "one"])
    parser.add_argument("--pixels", type=float, nargs="+", default=[1e6, 1e7, 1e8])
    parser.add_argument("--maps", type=int, default=1000)
    parser.add_argument("--way", choices=WAYS, help="of the one measurement `one`")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts = [int(pixels) for pixels in arguments.pixels]
    if arguments.what == "scale":
        compare_scale(counts, arguments.seed)
    elif arguments.what == "aupro":
        compare_aupro(arguments.maps, arguments.seed)
    elif arguments.what == "bootstrap":
        measure_bootstrap(arguments.seed)
    else:
        measure_one(arguments.way, counts[0], arguments.seed)


if __name__ == "__main__":
    main()
