"""Thresholds from healthy voxels: against direct numpy computations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from medrd.config import make_config
from medrd.data.cache import CachedSubject
from medrd.errors import ConfigError
from medrd.models.intensity import Intensity
from medrd.run.calibration import Calibration, calibrate
from medrd.run.device import choose_execution
from medrd.run.model_folder import make_scoring
from medrd.run.predictor import Predictor
from training import build

MARGIN = 1


def subject(seed: int, *, lesions: tuple[int, ...] = (3,), scale: float = 1.0) -> CachedSubject:
    """Eight slices of noise; numbers start at 10."""
    rng = np.random.default_rng(seed)
    images = (scale * rng.random((8, 1, 32, 32))).astype(np.float16)
    return CachedSubject(
        id=f"s{seed}",
        images=images,
        region=rng.random((8, 32, 32)) < 0.6,
        numbers=np.arange(10, 18),
        positions_mm=np.arange(10.0, 18.0),
        lesion_slices=np.array(lesions, np.int64) + 10,
        content=str(seed),
        warnings=(),
    )


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """The identity on the first channel, unsmoothed: maps are known."""
    config = make_config({"scoring": {"sigma_px": 0}})
    detector = build(Intensity)
    return Predictor(
        detector, make_scoring(config.scoring, size=32), choose_execution("cpu", "fp32")
    )


def healthy_values(given: CachedSubject) -> tuple[NDArray[np.float32], float]:
    """Voxels and scan score of the slices more than MARGIN from every lesion, in a loop."""
    values, scores = [], []
    for i, number in enumerate(given.numbers):
        if all(abs(int(number) - int(t)) > MARGIN for t in given.lesion_slices):
            values.append(given.images[i, 0][given.region[i]].astype(np.float32))
            scores.append(float(values[-1].max()))
    return np.concatenate(values), max(scores)


def calibrated(
    predictor: Predictor, subjects: Sequence[CachedSubject], target_fpr: float = 0.02
) -> Calibration:
    return calibrate(predictor, subjects, margin=MARGIN, target_fpr=target_fpr)


def left_out_rate(
    values: Sequence[NDArray[np.float32]], scan: int, others: Sequence[int], target: float
) -> float:
    """Share of a scan's voxels above what the pooled others allow."""
    pooled = np.sort(np.concatenate([values[i] for i in others]))
    highest_too_many = pooled[pooled.size - int(np.floor(target * pooled.size)) - 1]
    return float((values[scan] > highest_too_many).mean())


def test_smoothing_across_slices_lets_no_lesion_into_the_healthy_ones() -> None:
    config = make_config({"scoring": {"sigma_px": 0, "sigma_across_mm": 3}})
    smoothing = Predictor(
        build(Intensity),
        make_scoring(config.scoring, size=32),
        choose_execution("cpu", "fp32"),
    )
    plain = subject(0)
    images = plain.images.copy()
    images[3] = 1  # the slice with the lesion
    bright = dataclasses.replace(plain, images=images)
    assert calibrated(smoothing, [bright]) == calibrated(smoothing, [plain])


@pytest.mark.parametrize("target", [0.3, 0.02, 0.001])
def test_threshold_and_rates_are_numpys(predictor: Predictor, target: float) -> None:
    subjects = [subject(0), subject(1, lesions=(0, 7), scale=1.3), subject(2, lesions=())]
    found = calibrated(predictor, subjects, target)
    by_scan = [healthy_values(s) for s in subjects]
    values = [v for v, _ in by_scan]
    pooled = np.concatenate(values)

    threshold = np.float32(found.threshold)
    assert (pooled >= threshold).mean() <= target
    below = np.sort(pooled)[pooled.size - int((pooled >= threshold).sum()) - 1]
    assert (pooled >= below).mean() > target  # one score lower would be too many
    assert found.held_fpr == pytest.approx((pooled >= threshold).mean(), abs=1e-12)
    expected = [(v >= threshold).mean() for v in values]
    assert found.held_fpr_by_scan == pytest.approx(expected, abs=1e-12)
    expected = [left_out_rate(values, i, [j for j in range(3) if j != i], target) for i in range(3)]
    assert found.left_out_fpr_by_scan == pytest.approx(expected, abs=1e-12)
    assert found.scan_scores == pytest.approx(sorted(score for _, score in by_scan))
    assert (found.scans, found.voxels) == (3, pooled.size)
    assert found.slices == 5 + 4 + 8
    assert found.subjects == ("s0", "s1", "s2")


@pytest.mark.parametrize("target", [0.3, 0.02])
def test_in_fewer_bins_the_target_rate_is_kept_and_rates_stay_exact(
    predictor: Predictor, target: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scans with millions of voxels do not get a bin for every score."""
    monkeypatch.setattr("medrd.run.calibration.bins_each", lambda subjects: 600)
    subjects = [subject(0), subject(1, scale=1.3), subject(2, lesions=())]
    found = calibrated(predictor, subjects, target)
    values = [healthy_values(s)[0] for s in subjects]
    pooled = np.concatenate(values)
    assert target - 0.01 < (pooled >= np.float32(found.threshold)).mean() <= target
    assert found.held_fpr == (pooled >= np.float32(found.threshold)).mean()
    expected = [(v >= np.float32(found.threshold)).mean() for v in values]
    assert found.held_fpr_by_scan == pytest.approx(expected, abs=1e-12)
    rates = [left_out_rate(values, i, [j for j in range(3) if j != i], target) for i in range(3)]
    assert found.left_out_fpr_by_scan == pytest.approx(rates, abs=0.01)


def test_of_more_than_ten_scans_a_tenth_at_a_time_is_left_out(predictor: Predictor) -> None:
    subjects = [subject(i, lesions=(), scale=1 + i / 20) for i in range(13)]
    found = calibrated(predictor, subjects, target_fpr=0.05)
    values = [healthy_values(s)[0] for s in subjects]
    expected = []
    for i in range(13):
        fold = {j for j in range(13) if j % 10 == i % 10}  # 0 with 10, 1 with 11, 2 with 12
        expected.append(left_out_rate(values, i, sorted(set(range(13)) - fold), 0.05))
    assert found.left_out_fpr_by_scan == pytest.approx(expected, abs=1e-12)


def test_training_scans_move_the_threshold_and_nothing_else(predictor: Predictor) -> None:
    held_out, known = subject(0), [subject(1, scale=1.5), subject(2, lesions=tuple(range(8)))]
    found = calibrate(predictor, [held_out], margin=MARGIN, target_fpr=0.05, known=known)
    alone = calibrated(predictor, [held_out], 0.05)
    values = [healthy_values(s)[0] for s in (held_out, known[0])]
    assert found.threshold == calibrated(predictor, [held_out, known[0]], 0.05).threshold
    assert found.threshold > alone.threshold
    rate = float((values[0] >= np.float32(found.threshold)).mean())
    assert (found.held_fpr, found.held_fpr_by_scan) == (rate, (rate,))
    assert found.left_out_fpr_by_scan == pytest.approx((left_out_rate(values, 0, [1], 0.05),))
    assert found.known_subjects == ("s1",)  # the other has no healthy slice
    for field in ("scan_scores", "whole", "scans", "slices", "voxels", "subjects"):
        assert getattr(found, field) == getattr(alone, field), field
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(("lesions", "whole"), [((), True), ((7,), False), ((1, 4, 7), False)])
def test_one_slice_left_out_takes_the_p_value_away(
    predictor: Predictor, lesions: tuple[int, ...], whole: bool
) -> None:
    """Lesions in one scan, or in all its slices so that the scan itself is left out."""
    found = calibrated(predictor, [subject(0, lesions=()), subject(1, lesions=lesions)])
    assert found.whole == whole
    assert (found.p_value(0.5) is not None) == whole
    assert found.percentile(2.0) == 100


def test_no_voxel_of_a_lesions_slice_or_its_neighbours_is_used(predictor: Predictor) -> None:
    clean, poisoned = subject(0), subject(0)
    poisoned.images[2:5] = 1000  # the lesion's slice and MARGIN to either side
    expected = calibrated(predictor, [clean])
    assert calibrated(predictor, [poisoned]) == expected


def test_what_lies_outside_the_brain_is_not_counted(predictor: Predictor) -> None:
    clean, poisoned = subject(0), subject(0)
    poisoned.images[:, 0][~poisoned.region] = 1000
    expected = calibrated(predictor, [clean])
    assert calibrated(predictor, [poisoned]) == expected


def test_a_subject_full_of_lesions_is_passed_over(predictor: Predictor) -> None:
    full = subject(1, lesions=(1, 4, 7))
    found = calibrated(predictor, [subject(0), full])
    assert found.subjects == ("s0",)
    assert found.left_out_fpr_by_scan == ()
    with pytest.raises(ConfigError, match="healthy_margin"):
        calibrated(predictor, [full])


def with_scores(*scores: float) -> Calibration:
    return Calibration(
        threshold=0.5,
        target_fpr=0.02,
        held_fpr=0.02,
        held_fpr_by_scan=(0.02,),
        left_out_fpr_by_scan=(),
        scan_scores=scores,
        whole=True,
        scans=len(scores),
        slices=1,
        voxels=1,
        subjects=("a",),
    )


def test_percentile_and_p_value_by_hand() -> None:
    calibration = with_scores(1, 2, 2, 4)
    assert calibration.percentile(0) == 0
    assert calibration.percentile(2) == 25
    assert calibration.percentile(3) == 75
    assert calibration.percentile(5) == 100
    assert calibration.p_value(0) == 1
    assert calibration.p_value(2) == (1 + 3) / 5
    assert calibration.p_value(4) == (1 + 1) / 5
    assert calibration.p_value(5) == 1 / 5


def test_p_values_of_healthy_scans_are_valid() -> None:
    """P(p <= a) <= a for a new scan like the others: split-conformal's promise."""
    rng = np.random.default_rng(0)
    p = []
    for _ in range(2000):
        scores = rng.normal(size=10)
        value = with_scores(*np.sort(scores[:9])).p_value(float(scores[9]))
        assert value is not None
        p.append(value)
    for level in (0.1, 0.2, 0.5):
        assert np.mean(np.array(p) <= level) <= level + 3 * np.sqrt(level / 2000)


def test_it_survives_json_unchanged(predictor: Predictor) -> None:
    found = calibrated(predictor, [subject(0), subject(1)])
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found
