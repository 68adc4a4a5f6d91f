"""What holds for every detector: configs, a whole run, resuming, the saved model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medrd.config import load_config, make_config
from medrd.config.models import MODELS
from medrd.errors import ConfigError, ModelError
from medrd.models import Detector, Scoring
from medrd.models.build import DETECTORS, build_detector, detector_from_config
from medrd.workflows.device import choose_execution
from medrd.workflows.doctor import examine
from medrd.workflows.infer import Predictor
from medrd.workflows.interrupt import InterruptedRunError
from medrd.workflows.loop import Loop
from medrd.workflows.model_folder import load_model
from medrd.workflows.train import train

CONFIGS = Path(__file__).parents[1] / "configs"
FAST: dict[str, dict[str, Any]] = {"dae": {"base": 8, "depth": 2}}
TRAINED = sorted(set(DETECTORS) - {"intensity"})


@pytest.mark.parametrize("name", sorted(DETECTORS))
@pytest.mark.parametrize("domain", ["brats", "mvtec"])
def test_every_detector_has_a_config_for_scans_and_one_for_pictures(domain: str, name: str) -> None:
    config = load_config(CONFIGS / domain / f"{name}.yaml")
    assert config.model.name == name
    assert config.data.kind == ("volumes" if domain == "brats" else "pictures")
    with torch.device("meta"):
        detector = detector_from_config(config.to_dict()["model"])
    assert config.recipe.size % detector.size_multiple == 0


def test_the_config_knows_the_detectors_that_there_are_and_their_defaults() -> None:
    assert set(MODELS) == set(DETECTORS)
    for name, section in MODELS.items():
        described = section().model_dump(mode="json")
        with torch.device("meta"):
            told = detector_from_config(described)
            teacher = "tf_efficientnet_lite0" if DETECTORS[name].has_teacher else None
            silent = build_detector(name, teacher=teacher)
        assert settings_of(told) == settings_of(silent)


def settings_of(detector: Detector) -> dict[str, Any]:
    return {
        key: value
        for key, value in vars(detector).items()
        if isinstance(value, str | int | float | tuple) and key != "frozen"
    }


def tiny(raw: dict[str, Any], name: str, **model: Any) -> dict[str, Any]:
    return raw | {"model": {"name": name} | FAST.get(name, {}) | model}


@pytest.fixture(scope="module", params=TRAINED)
def finished(
    request: pytest.FixtureRequest, tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of each detector on the tiny cohort, one epoch."""
    config = load_config(tiny_yaml, ["train.epochs=1"])
    raw = tiny(config.to_dict(), request.param)
    return train(make_config(raw), tmp_path_factory.mktemp("runs") / request.param)


def test_a_model_that_was_saved_and_loaded_gives_the_maps_of_the_trained_one(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(finished)
    weights = load_file(finished / "model" / "model.safetensors")
    # No network that only training reads is in the file, and none is missing from it.
    assert weights.keys() == model.detector.state_dict().keys()
    for part in detector_from_config(model.config.to_dict()["model"]).training_only:
        assert not hasattr(model.detector, part)
        assert not any(key.startswith(f"{part}.") for key in weights)
    assert model.calibration is not None
    rng = np.random.default_rng(0)
    images = rng.random((3, 1, 64, 64), np.float32)
    region = np.ones((3, 64, 64), bool)
    execution = choose_execution("cpu", "fp32")
    first = Predictor(model.detector, model.scoring(), execution).maps(images, region)
    # One at a time: BatchNorm and memories must not look at the other images.
    single = Predictor(model.detector, model.scoring(), execution, batch_size=1)
    second = single.maps(images, region)
    assert np.isfinite(first[0]).all()
    assert first[0].std() > 0
    np.testing.assert_allclose(first[0], second[0], atol=2e-4 * first[0].max())
    np.testing.assert_allclose(first[1], second[1], rtol=1e-3)


def test_training_leaves_the_teacher_as_it_came(finished: Path) -> None:
    model = load_model(finished)
    if not DETECTORS[model.config.model.name].has_teacher:
        pytest.skip("it has no teacher")
    if "teacher" not in dict(model.detector.named_children()):
        pytest.skip("its frozen teacher is not kept for prediction; its own tests watch it")
    from medrd.config import TeacherConfig
    from medrd.models import Teacher
    from medrd.workflows.weights import load_teacher_weights

    fresh = Teacher("tf_efficientnet_lite0")
    load_teacher_weights(fresh, TeacherConfig())
    kept = model.detector.get_submodule("teacher").state_dict()
    for key, value in fresh.state_dict().items():
        assert torch.equal(kept[key], value), key


@pytest.mark.parametrize("name", ["rd_expert", "rdpp", "recontrast", "dae", "bikd"])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    name: str, tmp_path: Path, tiny_raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two optimisers, simulated anomalies, schedules, running statistics: all of it resumes."""
    tiny_raw["train"]["epochs"] = 2
    config = make_config(tiny(tiny_raw, name))
    whole = train(config, tmp_path / "whole")
    iteration = Loop.iteration

    def stopping(self: Loop, *args: Any) -> dict[str, float]:
        self.should_stop = lambda: True
        return iteration(self, *args)

    pieces = tmp_path / "pieces"
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "iteration", stopping)
        patch.setattr("medrd.workflows.train.stop_on_signals", lambda: _Stopped())
        with pytest.raises(InterruptedRunError, match="--resume"):
            train(config, pieces)
    train(config, pieces, resume=True)
    expected = load_file(whole / "model" / "model.safetensors")
    for key, value in load_file(pieces / "model" / "model.safetensors").items():
        assert torch.equal(value, expected[key]), key


class _Stopped:
    """A stop that has been asked for from the beginning."""

    def __enter__(self) -> _Stopped:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __bool__(self) -> bool:
        return True


def test_patchcore_scores_images_in_its_own_way_and_others_cannot(
    tmp_path: Path, tiny_raw: dict[str, Any]
) -> None:
    tiny_raw["scoring"] = {"image_score": "model"}
    run = train(make_config(tiny(tiny_raw, "patchcore")), tmp_path / "run")
    content = json.loads((run / "model" / "model.json").read_text())
    assert content["calibration"]["scan_scores"]
    with pytest.raises(ConfigError, match=r"no image score of its own"):
        train(make_config(tiny(tiny_raw, "rd4ad")), tmp_path / "other")
    with pytest.raises(ValueError, match="no image score"):
        Scoring(size=64, image_score="model")(torch.rand(1, 64, 64), torch.ones(1, 64, 64) > 0)


def test_a_student_that_has_collapsed_stops_the_training(
    tmp_path: Path, tiny_raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medrd.models.stfpm import STFPM

    monkeypatch.setattr(STFPM, "fault", lambda self: "the student is dead at level 2")
    with pytest.raises(ModelError, match=r"epoch 1.*dead at level 2.*learning rate"):
        train(make_config(tiny(tiny_raw, "stfpm")), tmp_path / "run")


def test_doctor_lists_every_detector_with_its_parameters() -> None:
    report = examine()
    for name, kind in DETECTORS.items():
        line = next(
            row
            for row in report.splitlines()
            if row.split("|")[1:2] == [f" {name} "] or row.replace("|", " ").split()[:1] == [name]
        )
        assert kind.source in line
    # Deng & Li's student for Wide-ResNet-50-2, without the released code's unused part.
    row = next(r for r in report.splitlines() if "rd4ad" in r and "wide_resnet50_2" in r)
    assert "83.8 M" in row
    assert "24.9 M" in row
