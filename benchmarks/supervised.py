"""The ceiling: rdseg's own network when it is trained with the lesions' labels.

For every cell of a comparison that runs rdseg it trains the same network on all slices of the
same training subjects with their labels (the outline alone: there is no healthy image to distil
from), calibrates and evaluates it as the cell is, and prints both. Supervised: it is what the
unsupervised model is measured against, never a result of the project.

    python benchmarks/supervised.py configs/compare/flagship.yaml --model rdseg \
        --set data_sets.brats2018.root=/path/to/brats --out results
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrd.config import Config, RecipeConfig
from medrd.config.compare import load_compare
from medrd.data.layouts import Subject
from medrd.data.prepare import prepare, read_channels, read_lesions
from medrd.data.simulate import Simulated
from medrd.data.simulate_shapes import ALL
from medrd.data.slices import HealthySlices, SliceBatch
from medrd.models import Batch
from medrd.models.rdseg import RDSeg, outline_loss
from medrd.report.table import spread_table
from medrd.workflows.calibrate import calibrate
from medrd.workflows.checkpoint import Position
from medrd.workflows.cohort import load_cohort, try_sides
from medrd.workflows.compare import plan
from medrd.workflows.device import choose_execution
from medrd.workflows.evaluate import evaluate
from medrd.workflows.infer import Predictor
from medrd.workflows.loop import Loop
from medrd.workflows.model_folder import make_scoring, save_model
from medrd.workflows.runs import scratch_folder
from medrd.workflows.simulation import augment_for
from medrd.workflows.train import build_detector_for


class LabelledSlices(HealthySlices):
    """All slices of the subjects, with the label as one more channel."""

    def __init__(self, subjects: Sequence[Subject], recipe: RecipeConfig, budget: int) -> None:
        self.images: list[NDArray[np.float16]] = []
        self.regions: list[NDArray[np.bool_]] = []
        for subject in subjects:
            volumes = read_channels(subject, recipe, max_voxels=budget)
            assert subject.label is not None
            lesions = read_lesions(subject.label, next(iter(volumes.values())), max_voxels=budget)
            prepared = prepare(volumes, recipe)
            upright = lesions.astype(np.uint8)
            label = prepared.geometry.to_slices(upright, nearest=True)[prepared.numbers]
            stack = np.concatenate([prepared.images, label[:, None]], axis=1)
            self.images.append(stack.astype(np.float16))
            self.regions.append(prepared.region)
        self.index = [(s, i) for s, each in enumerate(self.images) for i in range(len(each))]

    def batch(self, which: Sequence[int]) -> SliceBatch:
        places = [self.index[i] for i in which]
        return SliceBatch(
            images=np.stack([self.images[s][i] for s, i in places]).astype(np.float32),
            region=np.stack([self.regions[s][i] for s, i in places]),
        )


def as_simulated(
    images: Tensor, region: Tensor, generator: torch.Generator, samples: slice = ALL
) -> Simulated:
    """The real lesion stands where a simulated one would."""
    images, region = images[samples], region[samples]
    return Simulated(images[:, :-1], (images[:, -1] > 0.5) & region)


class Supervised:
    """RDSeg's loss less its distillation."""

    def __init__(self, detector: RDSeg) -> None:
        self.detector = detector

    def loss(self, batch: Batch) -> Tensor:
        images, mask = batch.changed()
        return outline_loss(self.detector.log_odds(images)[0], mask, batch.region)


def run(config: Config, out: Path, epochs: int) -> None:
    """Train, calibrate and evaluate one."""
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
    loop = Loop(
        detector,
        slices,
        execution,
        batch_size=config.train.batch_size,
        seed=config.seed,
        epochs=epochs,
        simulator=as_simulated,
        augment=augment_for(config),
    )
    position = Position(0, 0, {})
    while position.epoch < epochs:
        position, report = loop.epoch(position)
        assert report is not None
        print(f"epoch {report.epoch}: loss {report.loss:.4f}", flush=True)
    cached, errors = try_sides(cohort, ("calibration",), config)
    if errors:
        raise errors[0]
    with scratch_folder(out) as scratch:
        calibration = calibrate(
            Predictor(detector, make_scoring(config.scoring, size=recipe.size), execution),
            [cached[id] for id in cohort.split.calibration],
            margin=config.data.healthy_margin,
            target_fpr=config.calibration.voxel_fpr,
            scratch=scratch,
        )
    training = {
        "subjects": {},
        "calibration_subjects": {},
        "split_hash": cohort.split.hash,
        "seed": config.seed,
    }
    save_model(out / "model", detector, config, calibration=calibration, training=training)
    evaluate(out, config, out / "evaluation", baseline=False)


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
        folder = args.out / cell.folder
        if not (folder / "evaluation" / "metrics.json").is_file():
            print(cell.name, flush=True)
            folder.mkdir(parents=True, exist_ok=True)
            run(cell.config, folder, args.epochs)
    by_seed = defaultdict(list)
    for cell in cells:
        metrics = args.out / cell.folder / "evaluation" / "metrics.json"
        if metrics.is_file():
            by_seed[cell.seed].append(json.loads(metrics.read_text(encoding="utf-8")))
    rows = [
        {
            key: mean(fold[key] for fold in folds)
            for key, value in folds[0].items()
            if isinstance(value, float)
        }
        for folds in by_seed.values()
    ]
    print(spread_table({f"{args.model}, supervised": rows}))


if __name__ == "__main__":
    main()
