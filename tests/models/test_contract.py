"""The contract of every detector with the training loop and with prediction."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import nn

from medrd.models.detector import Batch, Detector
from medrd.models.detectors import detector_class
from training import (
    CASES,
    FAST,
    NETWORKS,
    build,
    changed_batch,
    lively,
    moved,
    optimizers,
    small_teacher,
    snapshot,
)

TRAINED = sorted(name for name in CASES if name not in ("intensity", "patchcore"))
CONVOLUTIONAL = sorted(set(NETWORKS) - {"patchcore", "dae", "intensity", "dinomaly"})
"""Those whose teacher can be any network of convolutions."""
COPIES = {
    "rd_expert": "trained_teacher",
    "bikd": "trained_teacher",
    "recontrast": "encoder",
    "edc": "encoder",
}
"""Networks that start as the teacher and are trained."""


def make(case: str, teacher: str | None = None, **more: Any) -> Detector:
    """A detector whose residual branches are alive from the start."""
    name = CASES[case]["name"]
    kind, settings = detector_class(name), FAST.get(name, {}) | CASES[case] | more
    settings = {key: value for key, value in settings.items() if key not in ("name", "teacher")}
    chosen = teacher or small_teacher(name)
    given = lively(chosen, kind.teacher_kind) if kind.teacher_kind and chosen else None
    return build(kind, given, **settings)


def trained_by(detector: Detector, parameters: set[int]) -> set[str]:
    """Keys of the state that a step moves: its parameters, and statistics of their modules."""
    still = {m for network in detector.frozen_batchnorm for m in network.modules()}
    keys = set()
    for prefix, module in detector.named_modules():
        own = dict(module.named_parameters(prefix, recurse=False))
        if not parameters & {id(parameter) for parameter in own.values()}:
            continue
        keys |= own.keys()
        if module not in still:
            keys |= dict(module.named_buffers(prefix, recurse=False)).keys()
    return keys


@pytest.mark.parametrize("case", TRAINED)
def test_each_step_moves_its_own_networks_alone(case: str) -> None:
    detector = make(case).train()
    detector.train(True)
    assert detector.training
    for network in (*detector.frozen, *detector.frozen_batchnorm):
        assert not any(module.training for module in network.modules())
    steps, used = detector.steps(), optimizers(detector)
    everything = set()
    for batch in (changed_batch(), changed_batch()):
        for step, optimizer in zip(steps, used, strict=True):
            own = {id(parameter) for parameter in step.parameters}
            before = snapshot(detector)
            detector.zero_grad()
            step.loss(batch).backward()
            for name, parameter in detector.named_parameters():
                assert (parameter.grad is not None) == (id(parameter) in own), name
                if parameter.grad is not None:
                    assert bool((parameter.grad != 0).any()), name
            optimizer.step()
            assert moved(detector, before) == trained_by(detector, own), step.name
            everything |= own
    wanted = {id(p) for p in detector.parameters() if p.requires_grad}
    assert everything == wanted
    assert detector.training
    assert detector.fault() is None  # and healthy training raises no alarm
    assert not any(module.training for module in detector.eval().modules())


@pytest.mark.parametrize("teacher", ["test_resnet", "test_convnext"])
@pytest.mark.parametrize("case", CONVOLUTIONAL)
def test_maps_have_the_images_size_with_any_teacher(case: str, teacher: str) -> None:
    """With the embedded one, test_detectors.py trains each."""
    detector = make(case, teacher).eval()
    with torch.no_grad():
        found = detector.anomaly_map(torch.rand(2, 3, 64, 96))
    assert found.shape == (2, 64, 96)
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())
    assert float(found.min()) >= -1e-5


@pytest.mark.parametrize(
    ("level", "everywhere", "bfloat16"),
    [(0.0, False, False), (0.5, False, True), (0.0, True, True)],
)
@pytest.mark.parametrize("case", TRAINED)
def test_flat_images_give_finite_gradients_and_no_alarm(
    case: str, level: float, everywhere: bool, bfloat16: bool
) -> None:
    detector = make(case, **({"grace": 1} if case == "stfpm" else {})).train()
    images = torch.full((2, 3, 32, 32), level)
    mask = torch.full((2, 32, 32), everywhere)
    batch = Batch(images, mask, images + float(everywhere), mask, progress=0.5)
    for step, optimizer in zip(detector.steps(), optimizers(detector), strict=True):
        with torch.autocast("cpu", torch.bfloat16) if bfloat16 else contextlib.nullcontext():
            loss = step.loss(batch)
        assert loss.dtype == torch.float32
        assert bool(loss.isfinite())
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in detector.named_parameters():
            assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name
        optimizer.step()
        assert all(bool(parameter.isfinite().all()) for parameter in detector.parameters())
    assert detector.fault() is None  # as constant as what they are to match: that is no collapse
    with torch.no_grad():
        assert bool(detector.eval().anomaly_map(images).isfinite().all())


@pytest.mark.parametrize("case", TRAINED)
def test_healthy_slices_alone_are_refused_where_simulated_ones_are_needed(case: str) -> None:
    detector, given = make(case).train(), changed_batch()
    for step in detector.steps():
        if detector.simulation is None:
            assert bool(step.loss(Batch(given.images, given.region)).isfinite())
            continue
        with pytest.raises(ValueError, match="simulated"):
            step.loss(Batch(given.images, given.region))


@pytest.mark.parametrize("case", COPIES)
def test_a_trained_copy_starts_as_the_teacher_and_is_another_network(case: str) -> None:
    detector = make(case)
    copy, teacher = detector.get_submodule(COPIES[case]), detector.get_submodule("teacher")
    with torch.no_grad():
        for value in teacher.state_dict().values():
            value.add_(1)
    loaded = snapshot(teacher)
    assert moved(copy, loaded)
    detector.teacher_loaded()
    assert not moved(copy, loaded)
    assert all(parameter.requires_grad for parameter in copy.parameters())
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    assert not moved(teacher, loaded)


@pytest.mark.parametrize(
    ("case", "network", "name"),
    [
        ("rd_expert", "trained_teacher", "trained teacher"),
        ("bikd", "trained_teacher", "trained teacher"),
        ("bikd_two_branch", "encoder", "forward student"),
        ("recontrast", "encoder", "trained encoder"),
        ("edc", "encoder", "trained encoder"),
    ],
)
def test_a_collapsed_network_raises_the_alarm(case: str, network: str, name: str) -> None:
    detector = make(case).train()
    with torch.no_grad():
        for parameter in detector.get_submodule(network).parameters():
            parameter.zero_()
    for step in detector.steps():
        step.loss(changed_batch())
    fault = detector.fault()
    assert fault is not None
    assert f"collapsed {name}: at level 1" in fault
    twin = make(case)
    twin.load_monitor_state(detector.monitor_state())
    assert twin.fault() == fault


def test_parameters_are_counted_by_what_becomes_of_them() -> None:
    for case in CASES:
        detector = make(case)
        counts = detector.parameter_counts()
        assert counts["trained"] == sum(p.numel() for s in detector.steps() for p in s.parameters)
        detector.keep_for_prediction()
        assert counts["kept"] == sum(p.numel() for p in detector.parameters())
        assert not any(hasattr(detector, name) for name in detector.training_only)
        assert isinstance(detector, nn.Module)
