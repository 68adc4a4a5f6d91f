"""Several processes that share each batch: the gradient of one process, and equal replicas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medrd.config import Config, make_config
from medrd.data.slices import SliceBatch
from medrd.models.detector import Detector
from medrd.run.device import Execution
from medrd.simulate.anomalies import Simulated
from medrd.training.checkpoint import Position
from medrd.training.loop import Loop
from medrd.training.setup import Training, build_detector_for
from medrd.training.worker import ALONE, Worker
from training import SMALL, phantoms
from workers import in_processes


class Double(Execution):
    """Computes in float64, where rounding moves no ReLU across its kink."""

    def moved(self, images: NDArray[np.float32]) -> Tensor:
        return super().moved(images).double()


class Slices:
    """Stands for HealthySlices: phantoms in memory, and which of them were read."""

    def __init__(self, count: int) -> None:
        torch.manual_seed(7)
        self.images = phantoms(count, 32)[:, :1].numpy()
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, which: Sequence[int]) -> SliceBatch:
        self.read += which
        images = self.images[list(which)]
        return SliceBatch(images, images[:, 0] > 0)


def inverted(images: Tensor, region: Tensor, generator: torch.Generator) -> Simulated:
    """A change that draws nothing: each image inverted in a rectangle."""
    mask = torch.zeros_like(region)
    mask[:, 8:16, 6:20] = True
    return Simulated(torch.where(mask[:, None], 1 - images, images), mask)


# Its layers join BatchNorm and activation.
TEACHER = {"name": SMALL, "weights": "random"}
MODELS: dict[str, dict[str, Any]] = {
    "rd4ad": {"name": "rd4ad", "teacher": TEACHER},
    "stfpm": {"name": "stfpm", "teacher": TEACHER},
    # Two steps, each with its own optimiser.
    "rd_expert": {"name": "rd_expert", "teacher": TEACHER},
    "dae": {"name": "dae", "base": 4, "depth": 2},
    "two branches": {"name": "bikd", "teacher": TEACHER, "variant": "two_branch"},
    "rdpp": {"name": "rdpp", "teacher": TEACHER},
    # Losses that are no means over slices: ratios over the batch, its mean and deviation, pairs.
    "rdseg": {"name": "rdseg", "teacher": TEACHER},
    "bikd": {"name": "bikd", "teacher": TEACHER},
    "recontrast": {"name": "recontrast", "teacher": TEACHER},
    "pairs": {"name": "rdpp", "teacher": TEACHER, "transport": "pairs"},
}
MEANS = ("rd4ad", "stfpm", "rd_expert", "dae", "two branches", "rdpp")
OTHERS = [name for name in MODELS if name not in ("stfpm", "two branches", "rdpp")]
"""Of those that differ in their loss alone, rd4ad."""


def config_of(name: str, **train: Any) -> Config:
    settings = {"batch_size": 5, "epochs": 2, "device": "cpu", "precision": "fp32"} | train
    return make_config(
        {"seed": 3, "model": MODELS[name], "recipe": {"size": 32}, "train": settings}
    )


def lively_detector(config: Config) -> Detector:
    detector = build_detector_for(config)
    torch.manual_seed(1)
    for module in detector.modules():  # no gradient is stopped by a weight of 0
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return detector


def two_epochs(
    config: Config, worker: Worker, *, count: int = 5, batchnorm: bool = False
) -> dict[str, Any]:
    """Gradients and losses of two epochs of one batch each, and the state at the end.

    With ``batchnorm`` it is in train mode where the detector has it so, anomalies are simulated,
    and slices augmented.
    """
    detector, slices = lively_detector(config), Slices(count)
    execution: Execution = Execution(torch.device("cpu"), bf16=False)
    if not batchnorm:
        execution = Double(torch.device("cpu"), bf16=False)
        detector.double()
        detector.frozen_batchnorm = tuple(detector.children())
    training = Training(config, Path(), slices, detector, execution)  # type: ignore[arg-type]
    loop = Loop(training, worker=worker)
    if not batchnorm and loop.simulator is not None:
        loop.simulator = inverted
    position, reports, gradients = Position(), [], []
    for _ in range(2):
        position, report = loop.epoch(position)
        assert report is not None
        reports.append(report)
        trained = [p for p in detector.parameters() if p.requires_grad]
        gradients.append(
            torch.cat([torch.zeros(1) if p.grad is None else p.grad.flatten() for p in trained])
        )
    return {
        "gradients": gradients,
        "state": detector.state_dict(),
        "losses": [report.losses for report in reports],
        "slices": reports[0].slices_per_s * reports[0].seconds,
        "read": slices.read,
    }


@pytest.mark.parametrize("name", MEANS)
def test_two_workers_have_the_gradient_of_one_process(name: str, tmp_path: Path) -> None:
    """Shares have two and three slices, and BatchNorm does not couple images."""
    config = config_of(name)
    one = two_epochs(config, ALONE)
    two = in_processes(2, tmp_path, lambda worker: two_epochs(config, worker))
    for found in two:
        for gradient, wanted in zip(found["gradients"], one["gradients"], strict=True):
            assert float((gradient - wanted).norm() / wanted.norm()) < 1e-6
        for line, wanted_line in zip(found["losses"], one["losses"], strict=True):
            assert line == pytest.approx(wanted_line, rel=1e-6)
        assert found["slices"] == pytest.approx(5)
    assert sorted(two[0]["read"] + two[1]["read"]) == sorted(one["read"])


@pytest.mark.parametrize("name", OTHERS)
def test_workers_hold_equal_replicas(name: str, tmp_path: Path) -> None:
    """Each draws anomalies and changes of its own, and sees its own share's statistics."""
    config = config_of(name, augment={"flip": True, "gamma": 0.3, "gain": 0.3, "bias": 0.3})
    first, second = in_processes(
        2, tmp_path, lambda worker: two_epochs(config, worker, batchnorm=True)
    )
    for key, value in first["state"].items():
        assert torch.equal(value, second["state"][key]), key
    assert first["losses"] == second["losses"]


@pytest.mark.parametrize(("count", "size"), [(16, 1), (16, 2), (17, 4), (4, 4)])
def test_shares_are_the_batch(count: int, size: int) -> None:
    workers = [Worker(rank, size) for rank in range(size)]
    batch = list(range(100, 100 + count))
    shares = [worker.share(batch) for worker in workers]
    assert [i for share in shares for i in share] == batch
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert np.mean([worker.weight(batch) for worker in workers]) == pytest.approx(1)


def test_the_first_worker_draws_what_one_process_draws_and_others_draw_otherwise() -> None:
    drawn = []
    config = config_of("rdseg", augment={"gamma": 0.3})
    detector = lively_detector(config)
    training = Training(config, Path(), Slices(5), detector, Execution(torch.device("cpu"), False))  # type: ignore[arg-type]
    for rank in (0, 1):
        loop = Loop(training, worker=Worker(rank))
        assert loop.augment is not None
        loop.augment = lambda images, region, generator: (
            drawn.append(generator.initial_seed()),
            (images, region),
        )[1]
        for position in (Position(0, 0), Position(0, 1), Position(1, 0), Position(0, 0)):
            loop.iteration(training.slices.batch([0, 1]), position)
    assert drawn[0] == drawn[3]
    assert drawn[4] == drawn[7]
    assert len(set(drawn)) == 6
