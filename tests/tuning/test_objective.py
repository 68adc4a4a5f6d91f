"""The objective of trials: the same anomalies for all, in healthy slices, without test subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from medrd.config import Config, make_config
from medrd.data.cache import CachedSubject, cache_subjects
from medrd.data.kinds import kind_of
from medrd.data.subject import Subject
from medrd.errors import ConfigError, InputError, ModelError
from medrd.models.detector import Detector
from medrd.run.cohort import Cohort, load_cohort, try_sides
from medrd.run.device import choose_execution
from medrd.run.predictor import Predictor
from medrd.tuning.config import LabelledObjective, SimulatedObjective
from medrd.tuning.objective import make_objective, simulate_set, simulated_ap
from training import scoring_of


class Brightness(Detector):
    """Bright is anomalous; or what a test makes of it."""

    def steps(self) -> list[Any]:
        return []

    def anomaly_map(self, images: Tensor) -> Tensor:
        return images.mean(dim=1)


class Nothing(Brightness):
    def anomaly_map(self, images: Tensor) -> Tensor:
        return images.mean(dim=1) * float("nan")


def predictor(detector: Detector, *, size: int = 64) -> Predictor:
    scoring = scoring_of(size, sigma_px=0)
    return Predictor(detector, scoring, choose_execution("cpu", "fp32"))


@pytest.fixture
def config(tiny_raw: dict[str, Any]) -> Config:
    return make_config(tiny_raw | {"model": {"name": "intensity"}})


@pytest.fixture
def held_out(config: Config) -> list[CachedSubject]:
    cohort = load_cohort(config)
    cached, _ = try_sides(cohort, ("calibration",), config)
    return [cached[id] for id in cohort.split.calibration]


BRIGHT = {"contents": ["brighter"], "beta": [0, 0]}


def wanted(**settings: Any) -> SimulatedObjective:
    return SimulatedObjective.model_validate({"max_slices": 8, **settings})


# --- The set ---


def test_the_same_arguments_give_the_same_anomalies(
    held_out: list[CachedSubject], config: Config
) -> None:
    torch.manual_seed(1)
    first = simulate_set(held_out, wanted(), config)
    torch.manual_seed(2)
    again = simulate_set(held_out, wanted(), config)
    other = simulate_set(held_out, wanted(seed=1), config)
    for name in ("images", "region", "mask"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.mask, other.mask)


def test_anomalies_lie_in_healthy_slices_of_the_subjects_given(
    held_out: list[CachedSubject], config: Config
) -> None:
    found = simulate_set(held_out, wanted(copies=1, max_slices=500), config)
    healthy = [
        subject.images[i].astype(np.float32)
        for subject in held_out
        for i, number in enumerate(subject.numbers)
        if np.abs(subject.lesion_slices - number).min() > config.data.healthy_margin
    ]
    assert len(found.images) == len(healthy)
    assert found.images.shape[1:] == (1, 64, 64)
    for image, mask in zip(found.images, found.mask, strict=True):
        # Outside its anomaly each is a slice that is there; what differs is a little round it.
        nearest = min(np.mean(np.abs(image - h) > 1e-6) for h in healthy)
        assert nearest < 0.35
        assert mask.any()
    assert not (found.mask & ~found.region).any()


def test_slices_are_limited_and_copied_with_other_anomalies(
    held_out: list[CachedSubject], config: Config
) -> None:
    found = simulate_set(held_out, wanted(max_slices=5, copies=3), config)
    assert len(found.images) == len(found.region) == len(found.mask) == 15
    first, second, third = np.split(found.mask, 3)
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)
    assert np.array_equal(found.region[:5], found.region[10:])
    # Spread over all subjects, not the first of them.
    few = simulate_set(held_out, wanted(max_slices=2, copies=1), config)
    assert len({region.tobytes() for region in few.region}) == 2


def test_pictures_get_anomalies_too(picture_raw: dict[str, Any]) -> None:
    config = make_config(picture_raw | {"model": {"name": "intensity"}})
    cohort = load_cohort(config)
    objective = make_objective(wanted(simulation=BRIGHT), config, cohort)
    assert 0 < objective(predictor(Brightness())) < 1


# --- The number ---


def test_it_is_average_precision_over_the_pixels_of_the_brain(
    held_out: list[CachedSubject], config: Config
) -> None:
    found = simulate_set(held_out, wanted(simulation=BRIGHT), config)
    ap = simulated_ap(predictor(Brightness()), found)
    scores, truth = found.images[:, 0][found.region], found.mask[found.region]
    assert ap == pytest.approx(average_precision_score(truth, scores), abs=1e-6)
    assert ap > 2 * truth.mean()  # brighter anomalies, found by their brightness


def test_maps_that_are_not_finite_are_an_error(
    held_out: list[CachedSubject], config: Config
) -> None:
    with pytest.raises(ModelError, match="finite"):
        simulated_ap(predictor(Nothing()), simulate_set(held_out, wanted(), config))


# --- Whose slices ---


def test_only_calibration_subjects_are_read(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = load_cohort(config)
    read: list[str] = []
    monkeypatch.setattr(
        "medrd.run.cohort.cache_subjects",
        lambda subjects, *a, **k: (read.extend(s.id for s in subjects), ({}, [_damaged()]))[1],
    )
    with pytest.raises(InputError, match="damaged"):
        make_objective(wanted(), config, cohort)
    assert sorted(read) == sorted(cohort.split.calibration)


def test_a_damaged_held_out_picture_is_left_out_as_it_is_of_training(
    picture_raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(picture_raw | {"model": {"name": "intensity"}})
    cohort = load_cohort(config)

    def lose(subjects: Sequence[Subject], *args: Any, **options: Any) -> Any:
        cached, _ = cache_subjects(subjects, *args, **options)
        return {s.id: cached[s.id] for s in subjects[left:]}, [_damaged()]

    monkeypatch.setattr("medrd.run.cohort.cache_subjects", lose)
    left = 1
    judge = make_objective(wanted(simulation=BRIGHT), config, cohort)
    assert 0 < judge(predictor(Brightness())) <= 1
    left = 2
    with pytest.raises(InputError, match="damaged"):
        make_objective(wanted(), config, cohort)


def _damaged() -> InputError:
    return InputError("scan", expected="a scan", found="a damaged one", remedy="Mend it.")


def test_without_a_healthy_slice_there_is_nothing_to_simulate_in(
    held_out: list[CachedSubject], tiny_raw: dict[str, Any]
) -> None:
    tiny_raw["data"]["healthy_margin"] = 100
    with pytest.raises(ConfigError, match="healthy slices"):
        simulate_set(held_out, wanted(), make_config(tiny_raw))


def test_anomalies_that_nobody_sees_are_an_error(
    held_out: list[CachedSubject], config: Config
) -> None:
    with pytest.raises(ConfigError, match="visible anomalies"):
        simulate_set(held_out, wanted(simulation={"probability": 0}), config)


# --- With labels ---


def test_labelled_is_the_pixel_ap_that_evaluate_gives(config: Config) -> None:
    cohort = load_cohort(config)
    ids = cohort.split.test  # to an evaluation they are subjects like any others
    objective = make_objective(LabelledObjective(kind="labelled", validation=ids), config, cohort)
    found = objective(predictor(Brightness()))
    alone = [_ap_on_grid(cohort.subjects[id], config) for id in ids]
    assert min(alone) < found < max(alone) or found == pytest.approx(np.mean(alone), abs=0.05)


def _ap_on_grid(subject: Subject, config: Config) -> float:
    item = kind_of(config.recipe).test_item(subject, budget=10**9)
    scores = predictor(Brightness()).on_grid(item.prepared).grid_map[item.evaluated]
    assert item.truth is not None
    return float(average_precision_score(item.truth[item.evaluated], scores))


def test_validation_without_an_anomaly_is_an_error(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = load_cohort(config)
    subject = cohort.subjects[cohort.split.train[0]]
    from medrd.data.brains.kind import Brains

    test_item = Brains.test_item

    def healthy(self: Brains, *args: Any, **kwargs: Any) -> Any:
        item = test_item(self, *args, **kwargs)
        assert item.truth is not None
        item.truth[:] = False
        return item

    monkeypatch.setattr(Brains, "test_item", healthy)
    objective = make_objective(
        LabelledObjective(kind="labelled", validation=(subject.id,)),
        config,
        Cohort(cohort.subjects, cohort.split),
    )
    with pytest.raises(ConfigError, match="outlined anomalies"):
        objective(predictor(Brightness()))
