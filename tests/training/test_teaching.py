"""The frozen teacher: what is run once, what each time, and that the losses are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medrd.config import Config, make_config
from medrd.data.slices import SliceBatch
from medrd.models.detector import Detector
from medrd.run.device import Execution
from medrd.training import teaching
from medrd.training.checkpoint import Position
from medrd.training.loop import Loop
from medrd.training.setup import Training, build_detector_for
from medrd.training.teaching import FrozenTeacher
from training import SMALL

CPU = Execution(torch.device("cpu"), bf16=False)
COUNT, BATCH = 10, 5


class Slices:
    """Stands for HealthySlices."""

    def __init__(self) -> None:
        self.images = torch.rand(COUNT, 1, 32, 32, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return COUNT

    def batch(self, which: list[int]) -> SliceBatch:
        images = self.images[which].numpy()
        return SliceBatch(images, images[:, 0] > 0, which)


def config_of(name: str, **train: Any) -> Config:
    model = {"name": name, "teacher": {"name": SMALL, "weights": "random"}}
    settings = {"epochs": 2, "batch_size": BATCH, "precision": "fp32"} | train
    return make_config({"model": model, "recipe": {"size": 32}, "train": settings})


def losses_of(config: Config, *, of_epochs: range = range(2)) -> tuple[list[float], int]:
    """Losses of the epochs, and how many images the teacher was shown in the last one."""
    detector = build_detector_for(config)
    loop = Loop(Training(config, Path(), Slices(), detector, CPU))  # type: ignore[arg-type]
    losses = []
    for epoch in of_epochs:
        shown = count_images(loop.teacher)
        losses.append(loop.epoch(Position(epoch))[1].loss)  # type: ignore[union-attr]
    return losses, sum(shown)


def count_images(teacher: FrozenTeacher) -> list[int]:
    """Numbers of images that are computed from now on, a call each."""
    counts: list[int] = []
    compute = FrozenTeacher.compute

    def counting(images: Tensor) -> list[Tensor]:
        counts.append(len(images))
        return compute(teacher, images)

    teacher.compute = counting  # type: ignore[method-assign]
    return counts


@pytest.mark.parametrize(("name", "changed"), [("rd4ad", 0), ("rdseg", COUNT)])
def test_healthy_slices_are_taught_once_and_nothing_else_changes(
    name: str, changed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(name)
    kept, shown = losses_of(config)
    assert shown <= changed
    monkeypatch.setattr(teaching, "MOST_BYTES", 0)
    computed, again = losses_of(config)
    assert kept == computed, "bit for bit"
    assert again == shown + COUNT


def test_what_has_no_room_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = losses_of(config_of("rd4ad"))
    teacher = build_detector_for(config_of("rd4ad")).teacher
    levels: list[Tensor] = teacher(torch.rand(1, 3, 32, 32))  # type: ignore[operator]
    one = sum(4 * level.numel() for level in levels)
    monkeypatch.setattr(teaching, "MOST_BYTES", 4 * one)
    part, shown = losses_of(config_of("rd4ad"))
    assert (part, shown) == (whole, COUNT - 4)


def test_augmented_slices_are_taught_anew() -> None:
    assert losses_of(config_of("rd4ad", augment={"gain": 0.2}))[1] == COUNT


def test_a_slice_whose_anomaly_is_invisible_is_taught_with_its_batch() -> None:
    detector = _random_norms(build_detector_for(config_of("rd4ad")))
    teacher, images = FrozenTeacher(detector, CPU, remember=False), torch.rand(6, 3, 32, 32)
    changed = images.clone()
    changed[[1, 4]] = 0
    counts = count_images(teacher)
    with teacher.of_batch(images, None), torch.no_grad():
        healthy, simulated = detector.teacher(images), detector.teacher(changed)  # type: ignore[operator]
    assert counts == [6, 2]
    with torch.no_grad():
        for found, own in ((healthy, images), (simulated, changed)):
            for level, wanted in zip(found, detector.teacher(own), strict=True):  # type: ignore[operator]
                torch.testing.assert_close(level, wanted, rtol=1e-4, atol=1e-4)


def _random_norms(detector: Detector) -> Detector:
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return detector
