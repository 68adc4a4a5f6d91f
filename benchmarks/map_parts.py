"""The contribution of each part of rdseg's map, measured on trained models.

For the trained cells of a comparison, this changes how the map is computed, predicts the test
subjects, and prints the metrics that need no threshold, as means over folds and seeds.

    python benchmarks/map_parts.py configs/compare/flagship.yaml --models rdseg \
        --set data_sets.brats2018.root=/path/to/brats --set data_sets.tire.root=/path/to/tire \
        --cells flagship --out map_parts.json
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trained_cells import Kept, Trained, averages, brain_cells, load, parser

from medrd.comparison.config import Cell
from medrd.data.kinds import kind_of
from medrd.evaluation.subject import score_subject
from medrd.evaluation.summary import MetricsAccumulator
from medrd.models.rdseg import RDSeg
from medrd.run.table import markdown_table

METRICS = ("image_auroc", "pixel_ap", "pixel_dice_best", "aupro")


@dataclass(frozen=True)
class Variant:
    """Changes of the map's settings; None keeps the model's setting."""

    intensity_weight: float | None = None
    discrepancy_weight: float | None = None
    sigma_across_mm: float | None = None

    def apply(self, trained: Trained) -> None:
        """Change the loaded model."""
        detector, scoring = trained.predictor.detector, trained.predictor.scoring
        assert isinstance(detector, RDSeg)
        if self.intensity_weight is not None:
            detector.intensity_weight = self.intensity_weight
        if self.discrepancy_weight is not None:
            detector.discrepancy_weight = self.discrepancy_weight
        if self.sigma_across_mm is not None:
            scoring.sigma_across_mm = self.sigma_across_mm


VARIANTS = {
    "as it is": Variant(),
    "without brightness": Variant(intensity_weight=0),
    "brightness × 16": Variant(intensity_weight=16),
    "brightness × 64": Variant(intensity_weight=64),
    "not smoothed across slices": Variant(sigma_across_mm=0),
    "the student's discrepancy added (× 3)": Variant(discrepancy_weight=3),
    # Nothing outweighs it: the head's share is of the order of 10.
    "the student's discrepancy alone": Variant(discrepancy_weight=1e4),
}


def measure(cell: Cell, folder: Path, variant: Variant) -> dict[str, float | None]:
    """The metrics of one trained cell with another map."""
    trained = load(cell, folder)
    variant.apply(trained)
    config = trained.cell.config
    kind = kind_of(config.recipe)
    accumulator = MetricsAccumulator(len(trained.subjects))
    for subject in trained.subjects:
        item = kind.test_item(subject, budget=config.data.budget)
        prediction = trained.predictor.on_grid(item.prepared)
        accumulator.add(score_subject(subject.id, item, prediction, threshold=None))
    return {key: accumulator.metrics()[0][key] for key in METRICS}


def main() -> None:
    """Measure what is not in --out yet, and print the table."""
    args = parser(__doc__ or "").parse_args()
    kept = Kept(args.out)
    body = []
    for model in args.models:
        cells = brain_cells(args, model)
        for name, variant in VARIANTS.items():
            rows = [
                kept.get(f"{cell.name}: {name}", partial(measure, cell, args.cells, variant))
                for cell in cells
            ]
            means = averages(rows)
            body.append([model, name, *(f"{means[key]:.3f}" for key in METRICS)])
    print(markdown_table(["model", "map", *METRICS], body))


if __name__ == "__main__":
    main()
