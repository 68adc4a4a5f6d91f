"""Metrics of each test subject of a comparison: tables, paired tests and a figure.

    python benchmarks/per_subject.py flagship --data-set brats2018 \
        --models rdseg_all rdseg brightness intensity --picture docs/figures/subjects.png
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import wilcoxon

from medrd.evaluation.outputs import load_units
from medrd.files import atomic_path
from medrd.metrics import weighted_metrics
from medrd.metrics.columns import COLUMNS
from medrd.run.table import markdown_table

METRICS = ("image_auroc", "pixel_ap", "pixel_dice_best", "pixel_dice", "aupro")
DRAWN = ("pixel_ap", "pixel_dice_best", "pixel_dice")

Values = dict[str, dict[str, float]]
"""Metric -> subject -> mean over seeds."""


def per_subject(folder: Path, model: str) -> Values:
    """A model's values over all seeds and folds below a data set's folder of cells."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob(f"**/{model}/seed*/evaluation/units/*.npz")):
        units = load_units(path)
        single = weighted_metrics(units, np.eye(len(units.ids), dtype=np.int64))
        for metric in METRICS:
            for subject, value in zip(units.ids, single[metric], strict=True):
                values[metric][subject].append(float(value))
    return {
        metric: {subject: float(np.mean(seeds)) for subject, seeds in subjects.items()}
        for metric, subjects in values.items()
    }


def draw(values: dict[str, Values], path: Path) -> None:
    """Draw a panel per metric with a row per subject, sorted by the first model's values."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, len(DRAWN), sharey=True)
    first = next(iter(values.values()))["pixel_ap"]
    order = sorted(first, key=lambda subject: first[subject])
    for panel, metric in zip(panels, DRAWN, strict=True):
        for (model, own), mark in zip(values.items(), "osD^vP", strict=False):
            row = [own[metric][subject] for subject in order]
            panel.plot(row, range(len(order)), mark, label=model, alpha=0.8, markersize=6)
        panel.set(title=COLUMNS[metric], xlim=(0, 1), yticks=range(len(order)))
        panel.set_yticklabels([f"subject {number + 1}" for number in range(len(order))])
        panel.grid(alpha=0.3)
    panels[0].legend(loc="lower left", fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def compared(first: Values, second: Values, subjects: Sequence[str]) -> list[str]:
    """For each metric: mean and median of the differences, how many are above 0, and p of
    Wilcoxon's signed-rank test (two-sided, exact if there are no ties)."""
    cells = []
    for metric in METRICS:
        pairs = [(first[metric][subject], second[metric][subject]) for subject in subjects]
        differences = np.array([a - b for a, b in pairs if not np.isnan(a - b)])
        p = wilcoxon(differences).pvalue if differences.any() else 1.0
        cells.append(
            f"{differences.mean():+.3f}; {np.median(differences):+.3f}; "
            f"{(differences > 0).sum()}/{differences.size}; p {p:.3f}"
        )
    return cells


def main() -> None:
    """Print the tables, draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("comparison", type=Path, help="folder that medrd compare has written")
    parser.add_argument("--data-set", required=True)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--subjects", nargs="+", help="these alone; default: all")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    cells = args.comparison / "cells" / args.data_set
    values = {model: per_subject(cells, model) for model in args.models}
    subjects = args.subjects or sorted(next(iter(values.values()))["pixel_ap"])
    body = [
        [subject, *(f"{values[m][k][subject]:.3f}" for k in METRICS for m in args.models)]
        for subject in subjects
    ]
    header = [f"{COLUMNS[k]}, {m}" for k in METRICS for m in args.models]
    print(markdown_table(["subject", *header], body))
    pairs = [
        [f"{a} - {b}", *compared(values[a], values[b], subjects)]
        for a, b in combinations(args.models, 2)
    ]
    print(markdown_table(["models", *(COLUMNS[k] for k in METRICS)], pairs))
    if args.picture:
        draw(values, args.picture)


if __name__ == "__main__":
    main()
