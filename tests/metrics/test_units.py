"""Units: every pixel counted once, on bins that the data choose; and their way through a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medrd.metrics import (
    Confusion,
    Histogram,
    Units,
    count_pixels,
    image_metrics,
    make_units,
    merge,
    pixel_metrics,
    weighted_metrics,
)
from medrd.metrics.columns import RESAMPLED
from medrd.metrics.histogram import to_ordinals


def random_parts(
    seed: int, count: int = 6, size: int = 2_000, levels: int | None = None
) -> list[Histogram]:
    """Every third without a positive pixel; the classes overlap more or less, the scale varies."""
    rng = np.random.default_rng(seed)
    parts = []
    for index in range(count):
        labels = rng.random(size) < (0.05 if index % 3 else 0)
        scores = (rng.normal(size=size) + labels * rng.uniform(0, 3)) * rng.uniform(0.5, 2)
        if levels is not None:
            scores = np.round(scores * levels / 10)
        components = 2 if labels.any() else 0
        weights = np.full(labels.sum(), components / max(1, labels.sum()))
        parts.append(count_pixels(scores.astype(np.float32), labels, weights, components))
    return parts


def units_of(parts: list[Histogram], seed: int = 0, **options: object) -> Units:
    """Five images a unit, Dice and flagged pixels at a threshold of 1."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([bool(part.positives.any()) for part in parts], 5)
    flagged, dice = [], []
    for part in parts:
        above = part.scores >= 1
        fp, tp = int(part.negatives[above].sum()), int(part.positives[above].sum())
        flagged.append(Confusion(fp, tp, int(part.positives.sum())))
        dice.append(flagged[-1].dice or np.nan)
    settings: dict[str, object] = {"dice": dice, "flagged": flagged, **options}
    return make_units(
        [f"subject {unit}" for unit in range(len(parts))],
        parts,
        image_scores=np.round(rng.normal(size=labels.size) + labels, 1),
        image_labels=labels,
        image_units=np.repeat(np.arange(len(parts)), 5),
        **settings,  # type: ignore[arg-type]
    )


def merged(units: Units) -> Histogram:
    """The data set in the units' bins."""
    return Histogram(
        0,
        to_ordinals(units.scores),
        units.negatives.sum(axis=0, dtype=np.int64),
        units.positives.sum(axis=0, dtype=np.int64),
        units.pro_weights.sum(axis=0, dtype=np.float64),
        int(units.components.sum()),
    )


@pytest.mark.parametrize("bins", [2, 16, 200, 2048])
@pytest.mark.parametrize("levels", [10, 60, None])
def test_pixels_are_counted_in_the_bin_whose_lowest_score_they_reach(
    levels: int | None, bins: int
) -> None:
    parts = random_parts(0, levels=levels)
    units = units_of(parts, bins=bins)
    assert 1 <= units.scores.size <= 2 * bins
    assert np.array_equal(units.scores, np.unique(units.scores))
    everywhere = np.concatenate([part.scores for part in parts])
    assert np.isin(units.scores, everywhere).all()
    for unit, part in enumerate(parts):
        for index, threshold in enumerate(units.scores):
            above = part.scores >= threshold
            assert units.negatives[unit, index:].sum() == part.negatives[above].sum()
            assert units.positives[unit, index:].sum() == part.positives[above].sum()
            assert units.pro_weights[unit, index:].sum() == pytest.approx(
                part.pro_weights[above].sum(), abs=1e-5
            )


@pytest.mark.parametrize("bins", [64, 512, 2048])
def test_a_bin_holds_little_or_a_single_score(bins: int) -> None:
    parts = random_parts(1, size=20_000)
    # A plateau that holds half of all normal pixels, in the midst of the others.
    plateau = count_pixels(np.zeros(120_000, np.float32), np.zeros(120_000, np.bool_))
    units = units_of([*parts, plateau], bins=bins)
    whole = merged(units)
    alone = int(np.searchsorted(units.scores, 0))
    assert units.scores[alone] == 0
    at_zero = sum(int((part.negatives + part.positives)[part.scores == 0].sum()) for part in parts)
    assert whole.negatives[alone] + whole.positives[alone] == 120_000 + at_zero
    shares = np.stack(
        [whole.negatives / whole.negatives.sum(), whole.positives / whole.positives.sum()]
    )
    shares[0, alone] = 0
    assert shares.max() < 6 / bins
    # From above, the number flagged grows by little from bin to bin, once there are a few.
    flagged = np.cumsum((whole.negatives + whole.positives)[::-1])
    growth = np.diff(np.log1p(flagged)) / np.log1p(flagged[-1])
    several = (whole.negatives + whole.positives)[::-1][1:] > 1
    several[units.scores.size - 2 - alone] = False
    assert growth[several].max() < 6 / bins


@pytest.mark.parametrize("levels", [10, 100, None])
def test_all_ones_are_the_data_themselves_up_to_the_binning(levels: int | None) -> None:
    parts = random_parts(2, size=20_000, levels=levels)
    units = units_of(parts)
    found = {
        name: values[0]
        for name, values in weighted_metrics(units, np.ones((1, 6), np.int64)).items()
    }
    exact = pixel_metrics(merge(parts))
    tolerance = {"pixel_auroc": 2e-4, "pixel_ap": 2e-3, "pixel_dice_best": 5e-4, "aupro": 2e-4}
    for name, value in pixel_metrics(merged(units)).items():
        assert found[name] == pytest.approx(value, abs=1e-6)
        if levels is not None:  # no more scores than bins: nothing is lost but float32's digits
            assert units.scores.size == merge(parts).keys.size
            tolerance[name] = 1e-6
        assert found[name] == pytest.approx(exact[name], abs=tolerance[name])
    images = image_metrics(units.image_scores, units.image_labels)
    assert found["image_auroc"] == pytest.approx(images["image_auroc"], abs=1e-12)
    assert found["image_ap"] == pytest.approx(images["image_ap"], abs=1e-12)
    assert found["subject_dice"] == pytest.approx(np.nanmean(units.dice))
    assert units.flagged is not None
    fp, tp, positives = units.flagged.sum(axis=0)
    assert found["pixel_dice"] == pytest.approx(2 * tp / (fp + tp + positives))


@pytest.mark.parametrize("shift", [1, 5, 9])
def test_units_of_other_resolutions_share_bins_that_lose_no_pixel(shift: int) -> None:
    parts = random_parts(7)
    coarse = [merge([part], min_shift=shift * (i % 2)) for i, part in enumerate(parts)]
    units = units_of(coarse, bins=64)
    for unit, part in enumerate(parts):
        for index, threshold in enumerate(units.scores):
            above = part.scores >= threshold
            assert units.negatives[unit, index:].sum() == part.negatives[above].sum()
            assert units.positives[unit, index:].sum() == part.positives[above].sum()


@pytest.mark.parametrize("calibrated", [True, False])
def test_units_survive_a_file_without_pickle(tmp_path: Path, calibrated: bool) -> None:
    units = units_of(random_parts(3))
    if not calibrated:
        units = replace(units, flagged=None)
    np.savez_compressed(tmp_path / "units.npz", **units.to_arrays())
    with np.load(tmp_path / "units.npz", allow_pickle=False) as arrays:
        back = Units.from_arrays(arrays)
    assert back.ids == units.ids
    assert (back.flagged is None) is not calibrated
    for name, array in units.to_arrays().items():
        assert back.to_arrays()[name].dtype == array.dtype
        assert np.array_equal(back.to_arrays()[name], array, equal_nan=name == "dice")


def test_what_is_missing_is_nan() -> None:
    parts = random_parts(4)
    bare = [replace(part, pro_weights=part.pro_weights * 0, components=0) for part in parts]
    units = make_units(
        [str(i) for i in range(6)], bare, image_scores=[], image_labels=[], image_units=[]
    )
    found = weighted_metrics(units, np.ones((2, 6), np.int64))
    undefined = {name for name, values in found.items() if np.isnan(values).all()}
    assert undefined == {"image_auroc", "image_ap", "pixel_dice", "aupro", "subject_dice"}
    nothing = make_units([], [], image_scores=[], image_labels=[], image_units=[])
    assert np.isnan(list(weighted_metrics(nothing, np.ones((1, 0), np.int64)).values())).all()


def test_an_empty_class_is_nan_in_that_resample_only() -> None:
    units = units_of(random_parts(5, count=3))
    weights = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 0]])  # the first alone is healthy
    found = weighted_metrics(units, weights)
    assert set(found) == set(RESAMPLED)
    assert all(np.isnan(values[0]) for values in found.values())
    assert not any(np.isnan(values[2]) for values in found.values())
    images = {name for name, values in found.items() if np.isnan(values[1])}
    assert images == {"image_auroc", "image_ap"}  # no healthy image, but healthy pixels


def test_what_units_refuse() -> None:
    parts = random_parts(6, count=2)
    images = {"image_scores": [0.5], "image_labels": [True], "image_units": [0]}
    with pytest.raises(ValueError, match="one length, got 1 and 2"):
        make_units(["a"], parts, **images)
    with pytest.raises(ValueError, match="ids must differ"):
        make_units(["a", "a"], parts, **images)
    with pytest.raises(ValueError, match="at least 2"):
        make_units(["a", "b"], parts, **images, bins=1)
    with pytest.raises(ValueError, match="bool, got int"):
        make_units(["a", "b"], parts, **(images | {"image_labels": [1]}))
    with pytest.raises(ValueError, match="indices into the 2 ids"):
        make_units(["a", "b"], parts, **(images | {"image_units": [2]}))
    with pytest.raises(ValueError, match=r"dice must be \(2,\)"):
        make_units(["a", "b"], parts, **images, dice=[0.5])
    units = make_units(["a", "b"], parts, **images)
    with pytest.raises(ValueError, match=r"whole numbers \(B, 2\), got float64"):
        weighted_metrics(units, np.ones((1, 2)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got int64 \(2,\)"):
        weighted_metrics(units, np.ones(2, np.int64))
    with pytest.raises(ValueError, match="not be negative, got -1"):
        weighted_metrics(units, np.array([[-1, 1]]))
