"""Supervised training of rdseg's network, for comparison with training without labels.

For every cell of a comparison that runs rdseg, this trains the same network on all slices of the
same training subjects with their labels (only the segmentation: there is no healthy image for
distillation). It calibrates and evaluates the network like the cell, with and without the model's
added brightness, and prints both next to the unsupervised result. This is not a result of the
project, and with few subjects it is no upper limit either.

    python benchmarks/supervised.py configs/compare/flagship.yaml --model rdseg \
        --set data_sets.brats2018.root=/path/to/brats --set data_sets.tire.root=/path/to/tire \
        --out results
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from tables import spread_table
from torch import Tensor

from medrd.comparison.compare import plan
from medrd.comparison.config import Cell, load_compare
from medrd.config import Config, RecipeConfig
from medrd.evaluation.evaluate import evaluate
from medrd.models.detector import Batch
from medrd.models.rdseg import RDSeg, RDSegConfig, outline_loss
from medrd.run.cohort import load_cohort, try_sides
from medrd.run.device import Execution, choose_execution
from medrd.run.model_folder import load_model, make_scoring, save_model
from medrd.run.predictor import Predictor
from medrd.training.checkpoint import Position
from medrd.training.labelled import LabelledSlices, as_simulated
from medrd.training.loop import Loop
from medrd.training.setup import Training, build_detector_for
from medrd.training.train import calibrate

KINDS = {"supervised": 0, "supervised, and brightness": 1}
"""Share of the model's ``intensity_weight`` that is added."""


class Supervised:
    """RDSeg's loss without distillation."""

    def __init__(self, detector: RDSeg) -> None:
        self.detector = detector

    def loss(self, batch: Batch) -> Tensor:
        images, mask = batch.changed()
        return outline_loss(self.detector.log_odds(images)[0], mask, batch.region)


def train_supervised(config: Config, epochs: int) -> tuple[RDSeg, Execution]:
    """Train on all slices of the training subjects."""
    recipe = config.recipe
    assert isinstance(recipe, RecipeConfig)
    cohort = load_cohort(config)
    detector = build_detector_for(config)
    assert isinstance(detector, RDSeg)
    # Shadows the method, which steps() hands to the loop.
    detector.loss = Supervised(detector).loss  # type: ignore[method-assign]
    execution = choose_execution(config.train.device, config.train.precision)
    execution.place(detector)
    slices = LabelledSlices(cohort.side("train"), recipe, config.data.budget)
    shorter = config.model_copy(
        update={"train": config.train.model_copy(update={"epochs": epochs})}
    )
    loop = Loop(Training(shorter, Path(), slices, detector, execution))
    loop.simulator = as_simulated
    position = Position()
    while position.epoch < epochs:
        position, report = loop.epoch(position)
        assert report is not None
        print(f"epoch {report.epoch}: loss {report.loss:.4f}", flush=True)
    return detector, execution


def trained(cell: Cell, out: Path, epochs: int) -> tuple[RDSeg, Execution]:
    """Load the network of an earlier run, or train it. Remove an evaluation to repeat it."""
    kept = metrics_file(out, cell, next(iter(KINDS))).parent.parent
    if not (kept / "model").is_dir():
        return train_supervised(cell.config, epochs)
    detector = load_model(kept).detector
    assert isinstance(detector, RDSeg)
    return detector, choose_execution(cell.config.train.device, cell.config.train.precision)


def calibrate_and_evaluate(
    detector: RDSeg, config: Config, execution: Execution, out: Path
) -> None:
    """Calibrate and evaluate as in ``config``."""
    cohort = load_cohort(config)
    assert isinstance(config.recipe, RecipeConfig)
    cached, errors = try_sides(cohort, ("train", "calibration"), config)
    if errors:
        raise errors[0]
    scoring = make_scoring(config.scoring, size=config.recipe.size)
    training, held_out = (
        [cached[id] for id in side] for side in (cohort.split.train, cohort.split.calibration)
    )
    predictor = Predictor(detector, scoring, execution)
    calibration = calibrate(predictor, training, held_out, config)
    seen = {
        "subjects": {},
        "calibration_subjects": {},
        "split_hash": cohort.split.hash,
        "seed": config.seed,
    }
    save_model(
        out / "model",
        detector,
        config,
        calibration=calibration,
        training=seen,
        precision=execution.precision,
    )
    evaluate(out, config, out / "evaluation", baseline=False)


def metrics_file(out: Path, cell: Cell, kind: str) -> Path:
    """The file with a cell's metrics."""
    return out / cell.folder / kind.replace(", and ", "_") / "evaluation" / "metrics.json"


def rows(out: Path, cells: Sequence[Cell], kind: str) -> list[dict[str, float]]:
    """The metrics of each seed, as means over its finished folds."""
    by_seed = defaultdict(list)
    for cell in cells:
        metrics = metrics_file(out, cell, kind)
        if metrics.is_file():
            by_seed[cell.seed].append(json.loads(metrics.read_text(encoding="utf-8")))
    return [
        {
            key: mean(fold[key] for fold in folds)
            for key, value in folds[0].items()
            if isinstance(value, float)
        }
        for folds in by_seed.values()
    ]


def main() -> None:
    """Run every cell of the model and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--model", default="rdseg")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=5, help="of all slices, not of healthy ones")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--part", default="0/1", help="I/N: every N-th cell from the I-th on")
    args = parser.parse_args()
    first, step = (int(each) for each in args.part.split("/"))
    config = load_compare(args.comparison, args.overrides)
    cells = [c for c in plan(config, args.out) if c.model == args.model and c.domain == "brain"]
    for cell in cells[first::step]:
        if not all(metrics_file(args.out, cell, kind).is_file() for kind in KINDS):
            print(cell.name, flush=True)
            detector, execution = trained(cell, args.out, args.epochs)
            model = cell.config.model
            assert isinstance(model, RDSegConfig)
            for kind, share in KINDS.items():
                weight = share * model.intensity_weight
                detector.intensity_weight = weight
                weighted = cell.config.model_copy(
                    update={"model": model.model_copy(update={"intensity_weight": weight})}
                )
                folder = metrics_file(args.out, cell, kind).parent.parent
                folder.mkdir(parents=True, exist_ok=True)
                calibrate_and_evaluate(detector, weighted, execution, folder)
    print(spread_table({f"{args.model}, {kind}": rows(args.out, cells, kind) for kind in KINDS}))


if __name__ == "__main__":
    main()
