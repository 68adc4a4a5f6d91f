"""A model's accuracy on scans that differ from its training scans.

For the trained cells of a comparison, this changes every test scan in one way, predicts and
evaluates it under the usual protocol with the model's own threshold, and prints each metric with
its difference from the unchanged scans, as means over folds and seeds.

    python benchmarks/robustness.py configs/compare/flagship.yaml --models rdseg intensity \
        --set data_sets.brats2018.root=/path/to/brats --set data_sets.tire.root=/path/to/tire \
        --cells flagship --out robustness.json
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from trained_cells import Kept, Trained, averages, brain_cells, load, parser

from medrd.config import RecipeConfig
from medrd.data.brains.lesions import read_lesions
from medrd.data.brains.prepare import (
    PreparedVolume,
    lesion_positions,
    prepare_slices,
    read_channels,
)
from medrd.data.kind import TestItem
from medrd.data.margin import away_from
from medrd.data.subject import Subject
from medrd.evaluation.subject import score_subject
from medrd.evaluation.summary import MetricsAccumulator
from medrd.images.volume import Volume, volume_from_array
from medrd.preparation.bias import correct_bias
from medrd.run.predictor import Prediction
from medrd.run.table import markdown_table

Array = NDArray[np.float32]
METRICS = ("image_auroc", "pixel_ap", "pixel_dice_best", "pixel_dice", "aupro")


def gamma(array: Array, exponent: float, rng: np.random.Generator) -> Array:
    """Apply a gamma curve to intensities, relative to their 99.5th percentile in the brain."""
    top = np.percentile(array[array != 0], 99.5)
    return np.asarray(top * (np.clip(array, 0, None) / top) ** exponent, np.float32)


def bias(array: Array, strength: float, rng: np.random.Generator) -> Array:
    """Multiply by a smooth field whose logarithm has this standard deviation in the brain."""
    field = ndimage.zoom(rng.normal(size=(4, 4, 4)), [n / 4 for n in array.shape], order=3)
    field = field[tuple(slice(n) for n in array.shape)]
    return np.asarray(array * np.exp(strength * field / field[array != 0].std()), np.float32)


def n4(array: Array, strength: float, rng: np.random.Generator) -> Array:
    """Apply the same field, and the bias correction of ``medrd prepare`` (voxels of 1 mm)."""
    import SimpleITK

    brain = array != 0
    image = SimpleITK.GetImageFromArray(bias(array, strength, rng) if strength else array)
    corrected = SimpleITK.GetArrayFromImage(correct_bias(image))
    return np.asarray(np.where(brain, np.clip(corrected, 1e-3, None), 0), np.float32)


def noise(array: Array, share: float, rng: np.random.Generator) -> Array:
    """Add Gaussian noise whose standard deviation is a share of the brain's median."""
    brain = array != 0
    drawn = rng.normal(scale=share * np.median(array[brain]), size=array.shape)
    # Exact zeros would be background.
    return np.asarray(np.where(brain, np.clip(array + drawn, 1e-3, None), 0), np.float32)


def coarse(array: Array, factor: float, rng: np.random.Generator) -> Array:
    """Sample voxels that are larger by a factor along all axes, and enlarge them again."""
    brain = array != 0
    blurred = ndimage.gaussian_filter(array, factor / 2.355)
    weight = np.maximum(ndimage.gaussian_filter(brain.astype(np.float32), factor / 2.355), 1e-3)
    step = round(factor)
    small = (blurred / weight)[::step, ::step, ::step]
    # Keep voxels in place: zoom() would move the first and last sample to the edges.
    places = np.meshgrid(*(np.arange(n) / step for n in array.shape), indexing="ij")
    large = ndimage.map_coordinates(small, places, order=1, mode="nearest")
    return np.asarray(np.where(brain, np.clip(large, 1e-3, None), 0), np.float32)


def identity(array: Array, amount: float, rng: np.random.Generator) -> Array:
    """Return the array unchanged."""
    return array


HALF = "unchanged, evaluated in the upper half"
LOWER_HALF_MISSING = "lower half missing"
REFERENCE = {LOWER_HALF_MISSING: HALF}
"""References of changes that are not compared with unchanged scans."""
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
    HALF: (identity, 0),
    LOWER_HALF_MISSING: (identity, 0),
}


def changed_item(subject: Subject, recipe: RecipeConfig, change: str, budget: int) -> TestItem:
    """A test scan after one change; what is drawn depends on the subject's name alone."""
    function, amount = CHANGES[change]
    rng = np.random.default_rng([ord(letter) for letter in subject.id])
    volumes = read_channels(subject, recipe, max_voxels=budget)
    assert subject.label is not None
    lesions = read_lesions(subject, next(iter(volumes.values())), max_voxels=budget).mask
    volumes = {
        name: replace(volume, array=function(volume.array, amount, rng))
        for name, volume in volumes.items()
    }
    kept = slice(None)
    if change == "every second slice missing":
        kept = slice(None, None, 2)
    elif change == LOWER_HALF_MISSING:
        kept = slice(_middle(next(iter(volumes.values())).array != 0), None)
    if kept != slice(None):
        volumes = {name: _slices(volume, kept) for name, volume in volumes.items()}
        lesions = lesions[:, :, kept]
    prepared = prepare_slices(volumes, recipe)
    positions = lesion_positions(lesions, prepared.geometry)
    scored = prepared.scored()
    return TestItem(
        prepared=prepared,
        truth=lesions,
        evaluated=scored,
        scored=scored,
        anomalous=~away_from(prepared.numbers, positions, margin=0),
        content="",
    )


def upper_half(item: TestItem, prediction: Prediction) -> tuple[TestItem, Prediction]:
    """Restrict a whole scan to the slices of a scan without its lower half."""
    assert item.truth is not None
    assert isinstance(item.prepared, PreparedVolume)
    middle = _middle(item.prepared.brain_volume)
    shown = item.prepared.numbers >= middle
    truth, evaluated = item.truth.copy(), item.evaluated.copy()
    truth[:, :, :middle] = evaluated[:, :, :middle] = False
    return (
        replace(item, truth=truth, evaluated=evaluated, anomalous=item.anomalous[shown]),
        replace(prediction, image_scores=prediction.image_scores[shown]),
    )


def _middle(brain: NDArray[np.bool_]) -> int:
    """The slice of the third axis at half of the brain's height."""
    return int(np.median(np.flatnonzero(brain.any(axis=(0, 1)))))


def _slices(volume: Volume, kept: slice) -> Volume:
    """Some of the slices along the third axis, which is the axial one in BraTS."""
    start, _, step = kept.indices(volume.array.shape[2])
    affine = volume.affine.copy()
    affine[:3, 3] += start * affine[:3, 2]
    affine[:3, 2] *= step
    return volume_from_array(np.ascontiguousarray(volume.array[:, :, kept]), affine)


def measure(trained: Trained, change: str) -> dict[str, float | None]:
    """The metrics of one trained cell on its test scans after a change."""
    recipe = trained.model.recipe
    assert isinstance(recipe, RecipeConfig)
    budget = trained.cell.config.data.budget
    accumulator = MetricsAccumulator(len(trained.subjects))
    for subject in trained.subjects:
        item = changed_item(subject, recipe, change, budget)
        prediction = trained.predictor.on_grid(item.prepared)
        if change == HALF:
            item, prediction = upper_half(item, prediction)
        threshold = trained.threshold
        accumulator.add(score_subject(subject.id, item, prediction, threshold=threshold))
    return {key: accumulator.metrics()[0][key] for key in METRICS}


def _cell(value: float, whole: float) -> str:
    return f"{value:.3f}" if value == whole else f"{value:.3f} ({value - whole:+.3f})"


def main() -> None:
    """Measure what is not in --out yet, and print the table."""
    args = parser(__doc__ or "").parse_args()
    kept = Kept(args.out)
    body = []
    for model in args.models:
        trained = [load(cell, args.cells) for cell in brain_cells(args, model)]
        means: dict[str, dict[str, float]] = {}
        for change in CHANGES:
            rows = [
                kept.get(f"{each.cell.name}: {change}", partial(measure, each, change))
                for each in trained
            ]
            means[change] = averages(rows)
            whole = means[REFERENCE.get(change, "unchanged")]
            row = means[change]
            body.append([model, change, *(_cell(row[key], whole[key]) for key in METRICS)])
    print(markdown_table(["model", "scans", *METRICS], body))


if __name__ == "__main__":
    main()
