"""How much of a model's accuracy is left on scans that differ from those it was trained on.

Takes the trained cells of a comparison, changes every test scan in one way, predicts and
evaluates by the ordinary protocol with the model's own threshold, and prints each metric with its
difference from the unchanged scans: mean over folds and seeds.

    python benchmarks/robustness.py configs/compare/flagship.yaml --models rdseg intensity \
        --set data_sets.brats2018.root=/path/to/brats --cells flagship --out robustness.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medrd.config import RecipeConfig
from medrd.config.compare import Cell, load_compare
from medrd.data.domain import TestItem
from medrd.data.layouts import Subject
from medrd.data.margin import away_from
from medrd.data.prepare import lesion_positions, prepare, read_channels, read_lesions
from medrd.heads.bias import correct_bias
from medrd.report.table import markdown_table
from medrd.volumes import Volume, volume_from_array, write_json
from medrd.workflows.cohort import load_cohort
from medrd.workflows.compare import plan
from medrd.workflows.device import choose_execution
from medrd.workflows.infer import Predictor
from medrd.workflows.judge import judge, unit_entries
from medrd.workflows.model_folder import load_model
from medrd.workflows.tally import Tally

Array = NDArray[np.float32]
METRICS = ("image_auroc", "pixel_ap", "pixel_dice_best", "pixel_dice", "aupro")


def gamma(array: Array, exponent: float, rng: np.random.Generator) -> Array:
    """Of intensities over their 99.5th percentile in the brain."""
    top = np.percentile(array[array != 0], 99.5)
    return np.asarray(top * (np.clip(array, 0, None) / top) ** exponent, np.float32)


def bias(array: Array, strength: float, rng: np.random.Generator) -> Array:
    """A smooth field of this standard deviation (of its logarithm) over the volume."""
    field = ndimage.zoom(rng.normal(size=(4, 4, 4)), [n / 4 for n in array.shape], order=3)
    field = field[tuple(slice(n) for n in array.shape)]
    return np.asarray(array * np.exp(strength * field / field.std()), np.float32)


def n4(array: Array, strength: float, rng: np.random.Generator) -> Array:
    """The same field, and what ``medrd prepare`` corrects of it (voxels of 1 mm)."""
    import SimpleITK

    brain = array != 0
    image = SimpleITK.GetImageFromArray(bias(array, strength, rng) if strength else array)
    corrected = SimpleITK.GetArrayFromImage(correct_bias(image))
    return np.asarray(np.where(brain, np.clip(corrected, 1e-3, None), 0), np.float32)


def noise(array: Array, share: float, rng: np.random.Generator) -> Array:
    """Gaussian, of a standard deviation that is a share of the brain's median."""
    brain = array != 0
    drawn = rng.normal(scale=share * np.median(array[brain]), size=array.shape)
    # Never to exactly 0, which would be background.
    return np.asarray(np.where(brain, np.clip(array + drawn, 1e-3, None), 0), np.float32)


def coarse(array: Array, factor: float, rng: np.random.Generator) -> Array:
    """Sampled at voxels so many times as wide along all axes, and enlarged again."""
    brain = array != 0
    blurred = ndimage.gaussian_filter(array, factor / 2.355)
    weight = np.maximum(ndimage.gaussian_filter(brain.astype(np.float32), factor / 2.355), 1e-3)
    step = round(factor)
    small = (blurred / weight)[::step, ::step, ::step]
    large = ndimage.zoom(
        small, [n / m for n, m in zip(array.shape, small.shape, strict=True)], order=1
    )
    return np.asarray(np.where(brain, np.clip(large, 1e-3, None), 0), np.float32)


def identity(array: Array, amount: float, rng: np.random.Generator) -> Array:
    """As it is."""
    return array


CHANGES: dict[str, tuple[Callable[[Array, float, np.random.Generator], Array], float]] = {
    "unchanged": (identity, 0),
    "gamma 0.7": (gamma, 0.7),
    "gamma 1.4": (gamma, 1.4),
    "bias field, sd 0.15": (bias, 0.15),
    "bias field, sd 0.3": (bias, 0.3),
    "N4 alone": (n4, 0),
    "bias field, sd 0.15, and N4": (n4, 0.15),
    "bias field, sd 0.3, and N4": (n4, 0.3),
    "noise, 5 % of the median": (noise, 0.05),
    "noise, 15 % of the median": (noise, 0.15),
    "voxels of 2 mm": (coarse, 2),
    "every second slice missing": (identity, 0),
    "lower half missing": (identity, 0),
}


def changed_item(subject: Subject, recipe: RecipeConfig, change: str, budget: int) -> TestItem:
    """A test scan after one change; what is drawn depends on the subject's name alone."""
    function, amount = CHANGES[change]
    rng = np.random.default_rng([ord(letter) for letter in subject.id])
    volumes = read_channels(subject, recipe, max_voxels=budget)
    assert subject.label is not None
    lesions = read_lesions(subject.label, next(iter(volumes.values())), max_voxels=budget)
    volumes = {
        name: replace(volume, array=function(volume.array, amount, rng))
        for name, volume in volumes.items()
    }
    kept = slice(None)
    if change == "every second slice missing":
        kept = slice(None, None, 2)
    elif change == "lower half missing":
        inside = np.flatnonzero((next(iter(volumes.values())).array != 0).any(axis=(0, 1)))
        kept = slice(int(np.median(inside)), None)
    if kept != slice(None):
        volumes = {name: _slices(volume, kept) for name, volume in volumes.items()}
        lesions = lesions[:, :, kept]
    prepared = prepare(volumes, recipe)
    positions = lesion_positions(lesions, prepared.geometry)
    return TestItem(
        prepared=prepared,
        truth=lesions,
        judged=prepared.scored(),
        anomalous=~away_from(prepared.numbers, positions, margin=0),
        content="",
    )


def _slices(volume: Volume, kept: slice) -> Volume:
    """Some of the slices along the third axis, which is the axial one in BraTS."""
    start, _, step = kept.indices(volume.array.shape[2])
    affine = volume.affine.copy()
    affine[:3, 3] += start * affine[:3, 2]
    affine[:3, 2] *= step
    return volume_from_array(np.ascontiguousarray(volume.array[:, :, kept]), affine)


def measure(cell: Cell, folder: Path, change: str) -> dict[str, float | None]:
    """The metrics of one trained cell on its test scans after a change."""
    model = load_model(folder / "model")
    recipe = model.recipe
    assert isinstance(recipe, RecipeConfig)
    execution = choose_execution("auto", model.config.train.precision)
    predictor = Predictor(model.detector, model.scoring(), execution)
    subjects = load_cohort(cell.config).side("test")
    threshold = model.calibration.threshold if model.calibration else None
    tally, entries = Tally(), unit_entries(len(subjects))
    for subject in subjects:
        item = changed_item(subject, recipe, change, cell.config.data.budget)
        prediction = predictor.on_grid(item.prepared)
        tally.add(judge(subject.id, item, prediction, threshold=threshold, entries=entries))
    return {key: tally.metrics()[0][key] for key in METRICS}


def _mean(values: list[float | None]) -> float:
    return mean(value for value in values if value is not None)


def _cell(value: float, whole: float) -> str:
    return f"{value:.3f}" if value == whole else f"{value:.3f} ({value - whole:+.3f})"


def main() -> None:
    """Measure what is not in --out yet, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cells", type=Path, required=True, help="the comparison's folder")
    parser.add_argument("--out", type=Path, required=True, help="JSON of what has been measured")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    args = parser.parse_args()
    config = load_compare(args.comparison, args.overrides)
    found: dict[str, dict[str, float | None]] = (
        json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    )
    body = []
    for name in args.models:
        cells = [
            c
            for c in plan(config, args.cells)
            if c.model == name and c.domain == "brain" and c.seed in args.seeds
        ]
        whole: dict[str, float] = {}
        for change in CHANGES:
            rows = []
            for cell in cells:
                key = f"{cell.name}: {change}"
                if key not in found:
                    found[key] = measure(cell, args.cells / cell.folder, change)
                    write_json(args.out, found)
                    print(key, found[key], flush=True)
                rows.append(found[key])
            means = {key: _mean([row[key] for row in rows]) for key in METRICS}
            whole = whole or means
            body.append([name, change, *(_cell(means[key], whole[key]) for key in METRICS)])
    print(markdown_table(["model", "scans", *METRICS], body))


if __name__ == "__main__":
    main()
