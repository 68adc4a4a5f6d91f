"""Tests of every detector: configs, a whole run, resuming, the saved model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file

from medrd.comparison.config import cell_config, load_compare
from medrd.config import load_config, make_config
from medrd.errors import ConfigError, ModelError
from medrd.models.build import shapes_only
from medrd.models.detector import Batch, Detector
from medrd.models.detectors import DETECTORS, detector_class
from medrd.run.device import choose_execution
from medrd.run.model_folder import Model, load_model, make_detector, make_scoring, save_model
from medrd.run.predictor import Predictor
from medrd.run.signals import InterruptedRunError
from medrd.simulate.anomalies import AnomalySimulator
from medrd.simulate.noise import CoarseNoise, SimplexBox
from medrd.training.loop import Loop
from medrd.training.setup import build_detector_for
from medrd.training.simulation import simulator_for
from medrd.training.train import train
from training import CASES, FAST, NETWORKS, SMALL, SMALL_VIT, scoring_of

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", sorted(DETECTORS))
@pytest.mark.parametrize("domain", ["brats", "mvtec"])
def test_every_detector_has_a_config_for_scans_and_one_for_pictures(domain: str, name: str) -> None:
    config = load_config(CONFIGS / domain / f"{name}.yaml")
    assert config.model.name == name
    assert config.data.kind == ("volumes" if domain == "brats" else "pictures")
    with shapes_only():
        detector = make_detector(config)
    assert config.model.learns == bool(detector.steps() or detector.collects)
    assert config.recipe.size % detector.size_multiple == 0


@pytest.mark.parametrize("name", ["brats_mvtec", "models", "paper", "smoke"])
def test_every_cell_of_the_comparisons_is_a_config_whose_detector_can_be_built(name: str) -> None:
    raw = yaml.safe_load((CONFIGS / "compare" / f"{name}.yaml").read_text(encoding="utf-8"))
    roots = [f"data_sets.{k}.root=/x" for k, v in raw["data_sets"].items() if "generate" not in v]
    comparison = load_compare(CONFIGS / "compare" / f"{name}.yaml", roots)
    for model in comparison.models:
        configs = [
            cell_config(comparison, model, data_set, 0, root=Path("/x"))
            for data_set in comparison.data_sets
        ]
        with shapes_only():
            detector = make_detector(configs[0])
        for config in configs:
            assert config.recipe.size % detector.size_multiple == 0


@pytest.mark.parametrize(
    ("model", "attribute", "value"),
    [
        ({"name": "rd_expert", "simulation": {"contents": ["darker"]}}, "contents", ("darker",)),
        ({"name": "bikd", "simulation": {"beta": [0.1, 0.2]}}, "beta", (0.1, 0.2)),
        ({"name": "dae", "noise": {"sigma": 0.4}}, "sigma", 0.4),
        ({"name": "rdpp", "noise": {"octaves": 3}}, "octaves", 3),
    ],
)
def test_settings_of_the_simulation_reach_it_and_channels_are_tied_where_one_is_repeated(
    model: dict[str, Any], attribute: str, value: Any
) -> None:
    for recipe, tied in (
        ({"channels": ["flair"]}, True),
        ({"channels": ["flair", "t1", "t2"]}, False),
        ({"kind": "pictures", "colour": "grey"}, True),
        ({"kind": "pictures"}, False),
    ):
        place = (
            {"simulation": model["simulation"] | {"place": "anywhere"}}
            if ("simulation" in model)
            else {}
        )
        config = make_config({"model": model | place, "recipe": recipe})
        with shapes_only():
            detector = make_detector(config)
        made = simulator_for(config, detector)
        assert isinstance(made, AnomalySimulator | CoarseNoise | SimplexBox)
        assert getattr(made.settings, attribute) == value
        assert (len(made.layout.modalities) == 1) is tied


def test_anomalies_lie_on_the_object_of_a_picture() -> None:
    images = torch.full((4, 3, 64, 64), 0.9)
    images[:, :, 20:44, 16:48] = 0.3
    region = torch.ones(4, 64, 64, dtype=torch.bool)
    shares = []
    for place in ("object", "anywhere"):
        raw = {"name": "bikd", "simulation": {"place": place}}
        config = make_config({"model": raw, "recipe": {"kind": "pictures"}})
        with shapes_only():
            detector = make_detector(config)
        simulator = simulator_for(config, detector)
        assert simulator is not None
        mask = simulator(images, region, torch.Generator().manual_seed(0)).mask
        assert mask.any()
        shares.append(float(mask[:, 14:50, 10:54].sum() / mask.sum()))
    assert shares[0] == 1
    assert shares[1] < 0.7


def tiny(raw: dict[str, Any], case: str) -> dict[str, Any]:
    model = CASES[case] | FAST.get(CASES[case]["name"], {})
    if detector_class(model["name"]).teacher_kind is not None:
        model = {"teacher": {"name": SMALL, "weights": "random"}} | model
    return raw | {"model": model}


@dataclass(frozen=True)
class Run:
    """A run on the tiny cohort, its model as loaded, and what the one in memory said at its end."""

    folder: Path
    model: Model
    maps: NDArray[np.float32]
    scores: NDArray[np.float32]


def probe() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    images = np.random.default_rng(0).random((3, 1, 64, 64), np.float32)
    region = np.zeros((3, 64, 64), bool)
    region[:, 8:56, 8:48] = True
    return images, region


@pytest.fixture(scope="module", params=sorted(set(NETWORKS) - {"intensity"}))
def finished(
    request: pytest.FixtureRequest, tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """One epoch of each detector; its last word is noted before it is saved."""
    config = load_config(
        tiny_yaml, ["train.epochs=1", "data.split.train=1", "data.split.calibration=1"]
    )
    raw = tiny(config.to_dict(), request.param)
    noted: list[Any] = []

    def note(folder: Path, detector: Detector, config: Any, **kwargs: Any) -> None:
        size_64 = make_scoring(config.scoring, size=64)
        execution = choose_execution("cpu", "fp32")
        noted.extend(Predictor(detector, size_64, execution).maps(*probe()))
        save_model(folder, detector, config, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medrd.training.train.save_model", note)
        folder = train(make_config(raw), tmp_path_factory.mktemp("runs") / request.param)
    return Run(folder, load_model(folder), *noted)


def test_a_loaded_model_says_what_the_trained_one_said(finished: Run) -> None:
    model = finished.model
    assert not model.detector.training
    weights = load_file(finished.folder / "model" / "model.safetensors")
    # No network that only training reads is in the file, and none is missing from it.
    assert weights.keys() == model.detector.state_dict().keys()
    with shapes_only():
        training_only = make_detector(model.config).training_only
    for part in training_only:
        assert not hasattr(model.detector, part)
        assert not any(key.startswith(f"{part}.") for key in weights)
    execution = choose_execution("cpu", "fp32")
    maps, scores = Predictor(model.detector, model.scoring(), execution).maps(*probe())
    np.testing.assert_array_equal(maps, finished.maps)
    np.testing.assert_array_equal(scores, finished.scores)
    # One at a time: BatchNorm and memories must not look at the other images.
    single = Predictor(model.detector, model.scoring(), execution, batch_size=1)
    maps, scores = single.maps(*probe())
    np.testing.assert_allclose(maps, finished.maps, atol=2e-4 * finished.maps.max())
    np.testing.assert_allclose(scores, finished.scores, rtol=1e-3)


def test_maps_are_finite_never_negative_and_not_the_same_everywhere(finished: Run) -> None:
    model = finished.model
    images = torch.from_numpy(probe()[0]).expand(-1, 3, -1, -1)
    with torch.no_grad():
        raw = model.detector.anomaly_map(images)
    assert raw.dtype == torch.float32
    assert raw.isfinite().all()
    assert float(raw.min()) >= 0
    assert float(raw.std()) > 0
    assert model.calibration is not None
    assert model.calibration.threshold > 0


def test_training_leaves_the_teacher_as_it_came(finished: Run) -> None:
    model = finished.model
    if detector_class(model.config.model.name).teacher_kind is None:
        pytest.skip("it has no teacher")
    if "teacher" not in dict(model.detector.named_children()):
        pytest.skip("its frozen teacher is not kept for prediction; its own tests watch it")
    kept = model.detector.get_submodule("teacher").state_dict()
    fresh = build_detector_for(load_config(finished.folder / "config.yaml"))
    for key, value in fresh.get_submodule("teacher").state_dict().items():
        assert torch.equal(kept[key], value), key


@pytest.mark.parametrize("name", ["rd_expert", "recontrast", "bikd_two_branch"])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    name: str, tmp_path: Path, tiny_raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two optimisers, simulated anomalies, progress, a pass after the training: all resumes."""
    tiny_raw["data"]["split"]["train"] = 1
    config = make_config(tiny(tiny_raw, name))
    whole = train(config, tmp_path / "whole")
    iteration = Loop.iteration

    def stopping(self: Loop, *args: Any, **kwargs: Any) -> dict[str, float]:
        self.should_stop = lambda: True
        return iteration(self, *args, **kwargs)

    pieces = tmp_path / "pieces"
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "iteration", stopping)
        patch.setattr("medrd.training.train.stop_on_signals", lambda: _Stopped())
        with pytest.raises(InterruptedRunError, match="--resume"):
            train(config, pieces)
    train(config, pieces, resume=True)
    expected = load_file(whole / "model" / "model.safetensors")
    for key, value in load_file(pieces / "model" / "model.safetensors").items():
        assert torch.equal(value, expected[key]), key


def test_a_pass_of_remembering_can_be_stopped_and_begun_again(
    tmp_path: Path, tiny_raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tiny(tiny_raw, "patchcore"))
    with monkeypatch.context() as patch:
        patch.setattr("medrd.training.train.stop_on_signals", lambda: _Stopped())
        with pytest.raises(InterruptedRunError, match="--resume"):
            train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()
    train(config, tmp_path / "run", resume=True)
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["parameters"]["trained"] == 0
    assert record["parameters"]["remembered"] > 0


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
    content = json.loads((run / "model" / "model.json").read_text(encoding="utf-8"))
    assert content["calibration"]["scan_scores"]
    with pytest.raises(ConfigError, match=r"no image score of its own"):
        train(make_config(tiny(tiny_raw, "rd4ad")), tmp_path / "other")
    with pytest.raises(ValueError, match="no image score"):
        scoring_of(64, image_score="model")(torch.rand(1, 64, 64), torch.ones(1, 64, 64) > 0)


@pytest.mark.parametrize("case", ["rd4ad"])
def test_compiled_losses_are_the_plain_ones(case: str) -> None:
    """Dynamo alone, without a compiler: what is traced must be what runs."""
    torch.manual_seed(0)
    raw = CASES[case] | {"teacher": {"name": "test_resnet", "weights": "random"}}
    detector = make_detector(make_config({"model": raw})).train()
    images = torch.rand(2, 3, 64, 64)
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[:, 10:40, 20:50] = True
    batch = Batch(images, torch.ones_like(mask), (images + 0.5 * mask[:, None]).clamp(0, 1), mask)
    for step in detector.steps():
        torch.testing.assert_close(
            torch.compile(step.loss, backend="eager")(batch), step.loss(batch)
        )


@pytest.mark.parametrize(
    ("model", "teacher", "why"),
    [
        ("rd4ad", SMALL_VIT, "a vision transformer, all of whose levels have stride 16.*dinomaly"),
        ("skip_ts", SMALL_VIT, r"strides \[4, 8, 16, 32\] \(dinomaly"),
        ("dinomaly", "resnet18", "not a plain vision transformer.*vit_base_patch14_reg4_dinov2"),
        ("dinomaly", "swin_tiny_patch4_window7_224", "not a plain vision transformer"),
        ("dinomaly", SMALL_VIT, r"recipe\.size.*a multiple of 16.*Set recipe\.size=96"),
    ],
)
def test_a_teacher_of_the_wrong_kind_is_a_mistake_in_the_config(
    model: str, teacher: str, why: str
) -> None:
    raw = {"name": model, "teacher": {"name": teacher, "weights": "random"}}
    with pytest.raises(ConfigError, match=why):
        build_detector_for(make_config({"model": raw, "recipe": {"size": 100}}))


def test_dinomaly_says_that_it_has_no_weights_of_its_own() -> None:
    with pytest.raises(ConfigError, match=r"model\.teacher.*weights: file.*to download"):
        make_config({"model": {"name": "dinomaly"}})


def test_a_student_that_has_collapsed_stops_the_training(
    tmp_path: Path, tiny_raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medrd.models.stfpm import STFPM

    monkeypatch.setattr(STFPM, "fault", lambda self: "the student is dead at level 2")
    with pytest.raises(ModelError, match=r"epoch 1.*dead at level 2.*learning rate"):
        train(make_config(tiny(tiny_raw, "stfpm")), tmp_path / "run")
