"""How well the objective of a search without labels agrees with the true test metrics.

Configurations are drawn from a search's space by its seed. Each is trained to the end without
early stopping and gets three values: the simulated objective, the final training loss, and the
metrics of ``medrd evaluate`` on the test subjects. The report gives Spearman's rank correlation
of the first two with the third, with bootstrap intervals over configurations, and the regret of
choosing by them: the loss of the test metric against the best configuration. The test metrics
serve only to validate the objective; no search ever uses them.

The study runs without Ray: use ``--part 0/2`` and ``--part 1/2`` for two processes. Finished
configurations are kept, so a stopped study can be continued. Another objective
(``--set objective.copies=4``) is measured on the existing models, without training again, and so
is a common smoothing (``--sigma-px 4``), on which the training loss does not depend.

    python benchmarks/tune_study.py configs/tune/rd4ad.yaml --out study --set data.root=DATA
    python benchmarks/tune_study.py configs/tune/rd4ad.yaml --out study --set … --report
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medrd.config import Config, digest, make_config
from medrd.errors import MedrdError
from medrd.evaluation.evaluate import evaluate
from medrd.files import write_json
from medrd.metrics import percentile_interval
from medrd.metrics.ranks import spearman
from medrd.run.cohort import load_cohort
from medrd.run.device import choose_execution
from medrd.run.model_folder import Model, load_model
from medrd.run.predictor import Predictor
from medrd.run.table import markdown_table
from medrd.training.train import train
from medrd.tuning.config import TuneConfig, load_tune
from medrd.tuning.objective import make_objective
from medrd.tuning.space import Point, Space, Uniform
from medrd.tuning.trials import short

METRICS = {"pixel_ap": "pixel AP", "image_ap": "image AP", "pixel_dice_best": "best Dice"}
RESAMPLES = 10_000


@dataclass(frozen=True)
class Row:
    """A configuration with what was measured of it."""

    number: int
    point: Point
    objective: float
    loss: float | None
    test: dict[str, float]


def main() -> None:
    """Measure a part of the configurations, or print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--configurations", type=int, default=16)
    parser.add_argument("--part", default="0/1", help="which of how many parts, as 0/2")
    parser.add_argument("--report", action="store_true", help="print the tables alone")
    parser.add_argument("--sigma-px", type=float, help="instead of each configuration's own")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    config = load_tune(args.config, args.overrides)
    part, parts = map(int, args.part.split("/"))
    rows, failures = [], []
    for number in range(args.configurations):
        if number % parts != part:
            continue
        folder = args.out / f"{number:03d}"
        if args.report and not (evaluation(folder, args.sigma_px) / "metrics.json").is_file():
            failures.append(f"{number}: not done")
            continue
        try:
            rows.append(measure(config, number, folder, args.sigma_px))
            logging.info("configuration %d: %s", number, rows[-1])
        except MedrdError as error:  # such as a learning rate at which the loss diverges
            failures.append(f"{number}: {error}")
    print(report(config, rows, failures))


def draw_point(space: Space, *, seed: int, position: int) -> Point:
    """The point at a position of a seed's endless random sequence.

    Each key has its own generator, so adding a key does not change the values of others.
    """
    point = {}
    for key, dimension in space.items():
        numbers = random.Random(f"{seed}:{position}:{key}")
        if isinstance(dimension, Uniform):
            point[key] = dimension.at(numbers.random())
        else:
            point[key] = numbers.choice(dimension.grid())
    return point


def evaluation(folder: Path, sigma_px: float | None) -> Path:
    """The folder of a configuration's evaluation."""
    return folder / ("evaluation" if sigma_px is None else f"evaluation-sigma-{sigma_px:g}")


def measure(config: TuneConfig, number: int, folder: Path, sigma_px: float | None) -> Row:
    """Train, evaluate and score one configuration, except for what is already done."""
    point = draw_point(config.space, seed=config.search.seed, position=number)
    trial = config.trial_config(point)
    run = train(trial, folder / "run", resume=True)
    model = load_model(run)
    if sigma_px is not None:
        raw = model.config.to_dict()
        raw["scoring"]["sigma_px"] = sigma_px
        model = replace(model, config=make_config(raw))
    metrics = evaluation(folder, sigma_px) / "metrics.json"
    if not metrics.is_file():
        evaluate(model, trial, metrics.parent, baseline=False)
    content = json.loads(metrics.read_text(encoding="utf-8"))
    return Row(
        number=number,
        point=point,
        objective=objective_of(config, trial, model, metrics.parent),
        loss=last_loss(run),
        test={key: content[key] for key in METRICS},
    )


def objective_of(config: TuneConfig, trial: Config, model: Model, folder: Path) -> float:
    """The objective of a trained model, computed once for each objective asked for."""
    path = folder / "objectives.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    key = digest(config.to_dict()["objective"])[:12]
    if key not in known:
        execution = choose_execution(trial.train.device, trial.train.precision)
        objective = make_objective(config.objective, trial, load_cohort(trial))
        known[key] = objective(Predictor(model.detector, model.scoring(), execution))
        write_json(path, known)
    return float(known[key])


def last_loss(run: Path) -> float | None:
    """The loss of the last epoch; None for a detector without epochs."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return float(json.loads(lines[-1])["loss"]) if lines else None


def report(config: TuneConfig, rows: Sequence[Row], failures: Sequence[str]) -> str:
    """Two Markdown tables: the results of choosing by each value, and all configurations."""
    lines = [
        f"{config.name}: {len(rows)} configurations, objective {config.to_dict()['objective']}",
        "",
    ]
    if len(rows) > 2:
        lines += [markdown_table(CHOICE_HEADER, choice_rows(rows)), ""]
    keys = list(config.space)
    header = ["configuration", *keys, "objective", "loss", *METRICS.values()]
    body = [
        [
            str(row.number),
            *(short(row.point[key]) for key in keys),
            f"{row.objective:.4f}",
            "–" if row.loss is None else f"{row.loss:.4f}",
            *(f"{row.test[key]:.4f}" for key in METRICS),
        ]
        for row in sorted(rows, key=lambda row: -row.test["pixel_ap"])
    ]
    lines.append(markdown_table(header, body))
    lines += ["", *(f"left out: {failure}" for failure in failures)] if failures else []
    return "\n".join(lines)


CHOICE_HEADER = ["chosen by", "test metric", "Spearman", "95 %", "regret", "rank of choice"]


def choice_rows(rows: Sequence[Row]) -> list[list[str]]:
    """Rows for choosing by the objective, by the loss and at random, for each test metric."""
    table = []
    for key, name in METRICS.items():
        truth = [row.test[key] for row in rows]
        criteria: dict[str, list[float]] = {"objective": [row.objective for row in rows]}
        losses = [-row.loss for row in rows if row.loss is not None]
        if len(losses) == len(rows):
            criteria["lowest loss"] = losses
        for criterion, values in criteria.items():
            rho = spearman(values, truth)
            low, high = spearman_interval(values, truth)
            chosen = truth[int(np.argmax(values))]
            rank = 1 + sum(value > chosen for value in truth)
            table.append(
                [
                    criterion,
                    name,
                    "–" if rho is None else f"{rho:.2f}",
                    f"{low:.2f} … {high:.2f}",
                    f"{max(truth) - chosen:.4f}",
                    f"{rank} of {len(truth)}",
                ]
            )
        table.append(["at random", name, "", "", f"{max(truth) - np.mean(truth):.4f}", "mean"])
    return table


def spearman_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """95 % percentile interval of Spearman's rho by bootstrap over pairs, seeded."""
    numbers = np.random.default_rng(0)
    pairs = np.array([a, b])
    drawn = (pairs[:, numbers.integers(0, len(a), len(a))] for _ in range(RESAMPLES))
    # A resample of equal values has no rank correlation.
    found = [spearman(x.tolist(), y.tolist()) for x, y in drawn]
    samples = np.array([math.nan if rho is None else rho for rho in found])
    return percentile_interval(samples, units=len(a))


if __name__ == "__main__":
    main()
