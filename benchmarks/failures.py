"""Missed lesions and false alarms of a model at its threshold, scan by scan.

This predicts the test subjects of a comparison's trained cells. Contrast is the median of the
first modality in the lesion, divided by the brain's median. Healthy slices are more than 2 slices
away from any lesion, so all findings there are false alarms.

    python benchmarks/failures.py configs/compare/flagship.yaml --models rdseg brightness \
        --set data_sets.brats2018.root=/path/to/brats --set data_sets.tire.root=/path/to/tire \
        --cells flagship --out failures.json
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from trained_cells import Kept, Trained, brain_cells, load, parser

from medrd.config import RecipeConfig
from medrd.data.brains.lesions import read_lesions
from medrd.data.brains.prepare import lesion_positions, prepare_slices, read_channels
from medrd.data.margin import away_from
from medrd.data.subject import Subject
from medrd.run.table import markdown_table

MARGIN = 2
BRATS_MM3 = 1.0
"""Volume of a voxel in BraTS."""


def measure(trained: Trained, subject: Subject) -> dict[str, Any]:
    """One scan."""
    recipe = trained.model.recipe
    assert isinstance(recipe, RecipeConfig)
    assert subject.label is not None
    assert trained.threshold is not None
    budget = trained.cell.config.data.budget
    volumes = read_channels(subject, recipe, max_voxels=budget)
    first = next(iter(volumes.values()))
    lesions = read_lesions(subject, first, max_voxels=budget).mask
    prepared = prepare_slices(volumes, recipe)
    region = prepared.scored()
    scores = trained.predictor.on_grid(prepared).grid_map
    marked, wanted = (scores >= trained.threshold) & region, lesions & region
    found, missed, beside = marked & wanted, wanted & ~marked, marked & ~wanted
    median = float(np.median(first.array[prepared.brain_volume]))

    def contrast(where: NDArray[np.bool_]) -> float | None:
        return round(float(np.median(first.array[where])) / median, 2) if where.any() else None

    healthy = away_from(
        prepared.numbers, lesion_positions(lesions, prepared.geometry), margin=MARGIN
    )
    upright = np.asarray(prepared.upright(marked.astype(np.uint8)))[prepared.numbers[healthy]] > 0
    brain = np.asarray(prepared.upright(region.astype(np.uint8)))[prepared.numbers[healthy]] > 0
    areas = upright.sum(axis=(1, 2)) * BRATS_MM3
    pieces, count = ndimage.label(marked)
    numbers = np.arange(1, count + 1)
    sizes = ndimage.sum_labels(marked, pieces, numbers)
    on_lesion = ndimage.maximum(wanted, pieces, numbers) if count else np.zeros(0)
    alone = np.sort(sizes[np.asarray(on_lesion) == 0])[::-1]
    return {
        "lesion_ml": round(float(wanted.sum()) / 1000, 1),
        "contrast": contrast(wanted),
        "dice": round(float(2 * found.sum() / (marked.sum() + wanted.sum())), 3),
        "recall": round(float(found.sum() / wanted.sum()), 3),
        "precision": round(float(found.sum() / max(marked.sum(), 1)), 3),
        "found_contrast": contrast(found),
        "missed_contrast": contrast(missed),
        "beside_contrast": contrast(beside),
        "largest_alone_ml": [round(float(size) / 1000, 1) for size in alone[:3]],
        "healthy_slices": int(healthy.sum()),
        "healthy_slices_marked": int((areas > 0).sum()),
        "healthy_slices_marked_1cm2": int((areas >= 100).sum()),
        "healthy_voxels": int(brain.sum()),
        "healthy_voxels_marked": int(upright.sum()),
    }


def main() -> None:
    """Measure what is not in --out yet, and print two tables."""
    args = parser(__doc__ or "").parse_args()
    kept = Kept(args.out)
    scans, alarms = [], []
    for model in args.models:
        rows = []
        for cell in brain_cells(args, model):
            trained = load(cell, args.cells)
            for subject in trained.subjects:
                key = f"{cell.name}: {subject.id}"
                row = kept.get(key, partial(measure, trained, subject))
                rows.append(row)
                scans.append([key, *(str(value) for value in list(row.values())[:9])])
        slices = sum(row["healthy_slices"] for row in rows)
        shares = [row["healthy_voxels_marked"] / max(row["healthy_voxels"], 1) for row in rows]
        pooled = sum(r["healthy_voxels_marked"] for r in rows) / sum(
            r["healthy_voxels"] for r in rows
        )
        alarms.append(
            [
                model,
                str(slices),
                f"{100 * pooled:.2f} %",
                f"{100 * max(shares):.2f} %",
                f"{100 * sum(r['healthy_slices_marked'] for r in rows) / slices:.0f} %",
                f"{100 * sum(r['healthy_slices_marked_1cm2'] for r in rows) / slices:.0f} %",
            ]
        )
    print(markdown_table(["scan", *list(rows[0])[:9]], scans))
    header = [
        "model",
        "healthy slices",
        "voxels marked",
        "worst scan",
        "slices with any",
        ">= 1 cm2",
    ]
    print(markdown_table(header, alarms))


if __name__ == "__main__":
    main()
