"""AUPRO: exact, from sorted runs, against a loop over thresholds.

Three ways on the same simulated maps, in one process, one after the other:

- ``exact``: ``medrd.metrics``, from the labels and maps to the number. It computes AUROC, average
  precision and the best Dice in the same pass; these are included in its time.
- ``200 thresholds``: the same data-set-level definition, straightforwardly: at each of 200 evenly
  spaced thresholds, label every image's components anew and look at each by itself.
- ``200 thresholds, per image``: what the released code of reverse distillation (RD4AD) reports
  under the same name: for each anomalous image by itself 200 thresholds over its own range, the
  rates below 0.3 stretched to 1, and the areas averaged. Another definition, so another number.

Usage: ``python benchmarks/aupro.py [--maps 100] [--size 256] [--seed 0]``
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.integrate import trapezoid

from medrd.metrics import make_run, pixel_metrics, region_weights

Maps = NDArray[np.float32]
Labels = NDArray[np.bool_]

MAX_FPR = 0.3
THRESHOLDS = 200


def simulate(maps: int, size: int, seed: int) -> tuple[Maps, Labels]:
    """Smooth noise with up to four elliptic lesions, of varying size and contrast, a map.

    Every fifth map is healthy. Maps differ in their overall scale, as those of networks do.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    scores = np.empty((maps, size, size), dtype=np.float32)
    labels = np.zeros((maps, size, size), dtype=np.bool_)
    for index in range(maps):
        noise = ndimage.gaussian_filter(rng.normal(size=(size, size)), size / 64)
        scores[index] = noise / noise.std()
        for _ in range(0 if index % 5 == 0 else int(rng.integers(1, 5))):
            centre = rng.uniform(0, size, 2)
            radii = rng.uniform(size / 100, size / 12, 2)
            lesion = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2
            labels[index] |= lesion <= 1
            scores[index] += rng.uniform(0, 4) * np.exp(-lesion)
        scores[index] *= rng.uniform(0.5, 2)
    return scores, labels


def exact(scores: Maps, labels: Labels) -> float:
    """Data-set level, a run an image."""
    runs = []
    for image, label in zip(scores, labels, strict=True):
        weights, components = region_weights(label)
        runs.append(make_run(image.ravel(), label.ravel(), weights.ravel(), components))
    found = pixel_metrics(runs, max_fpr=MAX_FPR)["aupro"]
    if found is None:
        msg = "the simulated maps hold no lesion: ask for more of them"
        raise SystemExit(msg)
    return found


def region_shares(flagged: Labels, label: Labels) -> list[float]:
    """The share flagged of each of an image's components, labelled here and now."""
    numbered, _ = ndimage.label(label, structure=np.ones((3, 3)))
    shares = []
    for number, box in enumerate(ndimage.find_objects(numbered), start=1):
        region = numbered[box] == number
        shares.append(float(flagged[box][region].mean()))
    return shares


def curve_by_thresholds(
    scores: Maps, labels: Labels
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False-positive rates and PRO at evenly spaced thresholds, rates ascending."""
    normal = ~labels
    rates, overlaps = [], []
    for threshold in np.linspace(scores.max(), scores.min(), THRESHOLDS):
        flagged = scores >= threshold
        shares = [
            share
            for image, label in zip(flagged, labels, strict=True)
            for share in region_shares(image, label)
        ]
        rates.append(float((flagged & normal).sum() / normal.sum()))
        overlaps.append(float(np.mean(shares)))
    return np.array(rates), np.array(overlaps)


def by_thresholds(scores: Maps, labels: Labels) -> float:
    """Data-set level, integrated to the same end as the exact one."""
    rates, overlaps = curve_by_thresholds(scores, labels)
    rates, overlaps = np.insert(rates, 0, 0.0), np.insert(overlaps, 0, 0.0)
    below = rates < MAX_FPR
    end = np.interp(MAX_FPR, rates, overlaps)
    area = trapezoid(np.append(overlaps[below], end), np.append(rates[below], MAX_FPR))
    return float(area) / MAX_FPR


def by_thresholds_per_image(scores: Maps, labels: Labels) -> float:
    """The mean over anomalous images of each one's area, its last rate stretched to 1."""
    areas = []
    for image, label in zip(scores, labels, strict=True):
        if label.any():
            rates, overlaps = curve_by_thresholds(image[None], label[None])
            below = rates < MAX_FPR
            areas.append(float(trapezoid(overlaps[below], rates[below] / rates[below].max())))
    return float(np.mean(areas))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, default=100)
    parser.add_argument("--size", type=int, default=256, help="pixels along a side")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    scores, labels = simulate(arguments.maps, arguments.size, arguments.seed)
    _, components = region_weights(labels)
    print(
        f"{arguments.maps} maps of {arguments.size} x {arguments.size}, "
        f"{components} components, seed {arguments.seed}\n"
    )
    ways: list[tuple[str, Callable[[Maps, Labels], float]]] = [
        ("exact", exact),
        (f"{THRESHOLDS} thresholds", by_thresholds),
        (f"{THRESHOLDS} thresholds, per image", by_thresholds_per_image),
    ]
    print(f"{'':28} {'AUPRO':>8} {'seconds':>9} {'times as long':>14}")
    fastest = None
    for name, way in ways:
        start = time.perf_counter()
        value = way(scores, labels)
        seconds = time.perf_counter() - start
        fastest = fastest or seconds
        print(f"{name:28} {value:8.4f} {seconds:9.2f} {seconds / fastest:14.1f}", flush=True)


if __name__ == "__main__":
    main()
