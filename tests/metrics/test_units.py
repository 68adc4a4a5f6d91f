"""Units: every pixel counted once, on bins that the data choose; and their way through a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medrd.metrics import (
    METRICS,
    Run,
    Units,
    binned_metrics,
    image_metrics,
    make_run,
    make_units,
    pixel_metrics,
    weighted_metrics,
)


def random_runs(
    seed: int, count: int = 6, size: int = 2_000, levels: int | None = None
) -> list[Run]:
    """Every third without a positive pixel; the classes overlap more or less, the scale varies."""
    rng = np.random.default_rng(seed)
    runs = []
    for index in range(count):
        labels = rng.random(size) < (0.05 if index % 3 else 0)
        scores = (rng.normal(size=size) + labels * rng.uniform(0, 3)) * rng.uniform(0.5, 2)
        if levels is not None:
            scores = np.round(scores * levels / 10)
        components = 2 if labels.any() else 0
        weights = labels * (components / max(1, labels.sum()))
        runs.append(make_run(scores.astype(np.float32), labels, weights, components))
    return runs


def units_of(runs: list[Run], seed: int = 0, **options: object) -> Units:
    """Five images a unit, Dice and flagged pixels at a threshold of 1."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([bool(run.positives.any()) for run in runs], 5)
    flagged, dice = np.zeros((len(runs), 3), np.int64), np.full(len(runs), np.nan)
    for unit, run in enumerate(runs):
        above = run.scores >= 1
        flagged[unit] = run.negatives[above].sum(), run.positives[above].sum(), run.positives.sum()
        if flagged[unit, 2]:
            dice[unit] = 2 * flagged[unit, 1] / flagged[unit].sum()
    settings: dict[str, object] = {"dice": dice, "flagged": flagged, **options}
    return make_units(
        [f"subject {unit}" for unit in range(len(runs))],
        runs,
        image_scores=np.round(rng.normal(size=labels.size) + labels, 1),
        image_labels=labels,
        image_units=np.repeat(np.arange(len(runs)), 5),
        **settings,  # type: ignore[arg-type]
    )


def merged(units: Units) -> Run:
    return Run(
        units.scores,
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
    runs = random_runs(0, levels=levels)
    units = units_of(runs, bins=bins)
    assert 1 <= units.scores.size <= 2 * bins
    assert np.array_equal(units.scores, np.unique(units.scores))
    everywhere = np.concatenate([run.scores for run in runs])
    assert np.isin(units.scores, everywhere).all()
    for unit, run in enumerate(runs):
        for index, threshold in enumerate(units.scores):
            above = run.scores >= threshold
            assert units.negatives[unit, index:].sum() == run.negatives[above].sum()
            assert units.positives[unit, index:].sum() == run.positives[above].sum()
            assert units.pro_weights[unit, index:].sum() == pytest.approx(
                run.pro_weights[above].sum(), abs=1e-5
            )


@pytest.mark.parametrize("bins", [64, 512, 2048])
def test_a_bin_holds_little_or_a_single_score(bins: int) -> None:
    runs = random_runs(1, size=20_000)
    # A plateau that holds half of all normal pixels, in the midst of the others.
    plateau = make_run(np.zeros(120_000, np.float32), np.zeros(120_000, np.bool_), None, 0)
    units = units_of([*runs, plateau], bins=bins)
    whole = merged(units)
    alone = int(np.searchsorted(units.scores, 0))
    assert units.scores[alone] == 0
    at_zero = sum(int((run.negatives + run.positives)[run.scores == 0].sum()) for run in runs)
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
    runs = random_runs(2, size=20_000, levels=levels)
    units = units_of(runs)
    found = {
        name: values[0]
        for name, values in weighted_metrics(units, np.ones((1, 6), np.int64)).items()
    }
    exact = pixel_metrics(runs)
    tolerance = {"pixel_auroc": 2e-4, "pixel_ap": 2e-3, "pixel_dice_best": 5e-4, "aupro": 2e-4}
    for name, bounded in binned_metrics(merged(units)).items():
        assert bounded is not None
        assert found[name] == pytest.approx(bounded.value, abs=1e-6)
        if levels is not None:  # no more scores than bins: nothing is lost but float32's digits
            assert units.scores.size == np.unique(np.concatenate([r.scores for r in runs])).size
            tolerance[name] = 1e-6
        assert found[name] == pytest.approx(exact[name], abs=tolerance[name])
    images = image_metrics(units.image_scores, units.image_labels)
    assert found["image_auroc"] == pytest.approx(images["image_auroc"], abs=1e-12)
    assert found["image_ap"] == pytest.approx(images["image_ap"], abs=1e-12)
    assert found["subject_dice"] == pytest.approx(np.nanmean(units.dice))
    fp, tp, positives = units.flagged.sum(axis=0)
    assert found["pixel_dice"] == pytest.approx(2 * tp / (fp + tp + positives))


def test_units_survive_a_file_without_pickle(tmp_path: Path) -> None:
    units = units_of(random_runs(3))
    np.savez_compressed(tmp_path / "units.npz", **units.to_arrays())
    with np.load(tmp_path / "units.npz", allow_pickle=False) as arrays:
        back = Units.from_arrays(arrays)
    assert back.ids == units.ids
    for name, array in units.to_arrays().items():
        assert getattr(back, name).dtype == getattr(units, name).dtype if name != "ids" else True
        assert np.array_equal(back.to_arrays()[name], array, equal_nan=name == "dice")


def test_what_is_missing_is_nan() -> None:
    runs = random_runs(4)
    bare = [Run(r.scores, r.negatives, r.positives, r.pro_weights * 0, 0) for r in runs]
    units = make_units(
        [str(i) for i in range(6)], bare, image_scores=[], image_labels=[], image_units=[]
    )
    found = weighted_metrics(units, np.ones((2, 6), np.int64))
    undefined = {name for name, values in found.items() if np.isnan(values).all()}
    assert undefined == {"image_auroc", "image_ap", "pixel_dice", "aupro", "subject_dice"}
    nothing = make_units([], [], image_scores=[], image_labels=[], image_units=[])
    assert np.isnan(list(weighted_metrics(nothing, np.ones((1, 0), np.int64)).values())).all()


def test_an_empty_class_is_nan_in_that_resample_only() -> None:
    units = units_of(random_runs(5, count=3))
    weights = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 0]])  # the first alone is healthy
    found = weighted_metrics(units, weights)
    assert set(found) == set(METRICS)
    assert all(np.isnan(values[0]) for values in found.values())
    assert not any(np.isnan(values[2]) for values in found.values())
    images = {name for name, values in found.items() if np.isnan(values[1])}
    assert images == {"image_auroc", "image_ap"}  # no healthy image, but healthy pixels


def test_what_units_refuse() -> None:
    runs = random_runs(6, count=2)
    images = {"image_scores": [0.5], "image_labels": [True], "image_units": [0]}
    with pytest.raises(ValueError, match="one length, got 1 and 2"):
        make_units(["a"], runs, **images)
    with pytest.raises(ValueError, match="ids must differ"):
        make_units(["a", "a"], runs, **images)
    with pytest.raises(ValueError, match="at least 2"):
        make_units(["a", "b"], runs, **images, bins=1)
    with pytest.raises(ValueError, match="bool, got int"):
        make_units(["a", "b"], runs, **(images | {"image_labels": [1]}))
    with pytest.raises(ValueError, match="indices into the 2 ids"):
        make_units(["a", "b"], runs, **(images | {"image_units": [2]}))
    with pytest.raises(ValueError, match=r"dice must be \(2,\)"):
        make_units(["a", "b"], runs, **images, dice=[0.5])
    units = make_units(["a", "b"], runs, **images)
    with pytest.raises(ValueError, match=r"whole numbers \(B, 2\), got float64"):
        weighted_metrics(units, np.ones((1, 2)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got int64 \(2,\)"):
        weighted_metrics(units, np.ones(2, np.int64))
    with pytest.raises(ValueError, match="not be negative, got -1"):
        weighted_metrics(units, np.array([[-1, 1]]))
    with pytest.raises(ValueError, match="max_fpr"):
        weighted_metrics(units, np.array([[1, 1]]), max_fpr=0)
