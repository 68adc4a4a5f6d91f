"""Several processes on one batch: the gradient, the statistics and the anomalies of one process."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from medrd.config import Config, make_config
from medrd.data.slices import SliceBatch
from medrd.errors import ModelError
from medrd.models import Detector
from medrd.models.synced import synchronise
from medrd.run.device import Execution
from medrd.simulate.anomalies import Simulated
from medrd.training.checkpoint import Position
from medrd.training.loop import Loop
from medrd.training.simulation import augment_for, simulator_for
from medrd.training.team import ALONE, Workers
from medrd.training.train import build_detector_for
from training import phantoms


def in_processes(size: int, folder: Path, work: Callable[[], Any]) -> list[Any]:
    """What ``work`` returns in each process of a group, in the order of their ranks.

    Forked, so that none of them imports torch anew; with one thread, since a pool of threads
    does not survive a fork.
    """
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                torch.set_num_threads(1)
                meeting = f"file://{folder}/meeting"
                dist.init_process_group("gloo", meeting, rank=rank, world_size=size)
                torch.save(work(), folder / f"{rank}.pt")
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * size
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


class Double(Execution):
    """In float64, where no ReLU at its kink falls to another side for a rounding."""

    def images(self, images: NDArray[np.float32]) -> Tensor:
        return super().images(images).double()


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


RESNET = {"name": "resnet18", "weights": "random"}
MODELS: dict[str, dict[str, Any]] = {
    "rd4ad": {"name": "rd4ad", "teacher": RESNET},
    "stfpm": {"name": "stfpm", "teacher": RESNET},
    # Two steps, each with an optimiser of its own; anomalies of which some show another slice.
    "rd_expert": {"name": "rd_expert", "teacher": RESNET, "teacher_batch_norm": "train"},
    "dae": {"name": "dae", "base": 4, "depth": 2},
    # Ratios of sums over the batch, and a threshold at its mean and deviation.
    "rdseg": {"name": "rdseg", "teacher": RESNET},
    "bikd": {"name": "bikd", "teacher": RESNET},
    "two branches": {"name": "bikd", "teacher": RESNET, "variant": "two_branch"},
    "recontrast": {"name": "recontrast", "teacher": RESNET},
    "rdpp": {"name": "rdpp", "teacher": RESNET},
    "pairs": {"name": "rdpp", "teacher": RESNET, "transport": "pairs"},
    # BatchNorm and activation in one layer, while the network learns.
    "fused": {"name": "stfpm", "teacher": {"name": "efficientnet_lite0", "weights": "random"}},
}


def config_of(model: dict[str, Any], *, augmented: bool = False) -> Config:
    augment = {"flip": True, "gamma": 0.3, "gain": 0.3, "bias": 0.3} if augmented else {}
    train = {"batch_size": 6, "augment": augment}
    return make_config({"model": model, "recipe": {"size": 32}, "train": train})


def detector_of(config: Config) -> Detector:
    detector = build_detector_for(config)
    torch.manual_seed(1)
    for module in detector.modules():  # not all alike, and no gradient stopped by a weight of 0
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return detector


def loop_of(config: Config, team: type[Workers] | None, count: int) -> Loop:
    detector, augment = detector_of(config), augment_for(config)
    simulator = simulator_for(config, detector)
    detector.double().train()

    def change(images: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        images, region = augment(images.float(), *rest)
        return images.double(), region

    def simulate(images: Tensor, *rest: Any) -> Simulated:
        made = simulator(images.float(), *rest)
        return Simulated(made.images.double(), made.mask)

    return Loop(
        detector,
        Slices(count),  # type: ignore[arg-type]
        Double(torch.device("cpu"), bf16=False),
        batch_size=count,
        seed=3,
        epochs=2,
        simulator=simulate if simulator else None,
        augment=change if augment else None,
        team=team(detector) if team else ALONE,
    )


def two_epochs(config: Config, team: type[Workers] | None, count: int) -> dict[str, Any]:
    """Of one batch each: gradients, what BatchNorm remembers, and the lines of metrics.

    Two, since a loss may change on the way: ReContrast's leaves nothing out at first.
    """
    loop = loop_of(config, team, count)
    position, reports, gradients = Position(0, 0, {}), [], []
    for _ in range(2):
        position, report = loop.epoch(position)
        assert report is not None
        reports.append(report)
        trained = [p for p in loop.detector.parameters() if p.requires_grad]
        flat = [torch.zeros(1) if p.grad is None else p.grad.flatten() for p in trained]
        gradients.append(torch.cat(flat))
    return {
        "gradients": gradients,
        "buffers": dict(loop.detector.named_buffers()),
        "losses": [report.losses for report in reports],
        "slices_per_s": reports[0].slices_per_s * reports[0].seconds,
        "read": loop.slices.read,  # type: ignore[attr-defined]
    }


def apart(found: Tensor, wanted: Tensor) -> float:
    """Relative distance of two tensors."""
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-12))


@pytest.mark.parametrize(
    ("name", "count", "augmented"),
    [
        ("rd4ad", 6, False),
        ("rd4ad", 4, True),
        ("rd_expert", 4, False),
        ("fused", 4, False),
        ("stfpm", 5, False),
        ("dae", 5, True),
        ("rdseg", 5, False),
        ("bikd", 5, False),
        ("two branches", 4, False),
        ("recontrast", 5, False),
        ("rdpp", 4, False),
        ("pairs", 4, False),
    ],
)
def test_two_processes_have_the_gradient_of_one(
    name: str, count: int, augmented: bool, tmp_path: Path
) -> None:
    config = config_of(MODELS[name], augmented=augmented)
    one = two_epochs(config, None, count)
    two = in_processes(2, tmp_path, lambda: two_epochs(config, Workers, count))
    for found in two:
        distances = [
            apart(*each) for each in zip(found["gradients"], one["gradients"], strict=True)
        ]
        if not detector_of(config).shares_alike:
            assert max(distances) > 1e-3
            continue
        assert max(distances) < 1e-6
        for key, wanted in one["buffers"].items():
            torch.testing.assert_close(found["buffers"][key], wanted, rtol=1e-6, atol=1e-9)
        for line, wanted_line in zip(found["losses"], one["losses"], strict=True):
            assert line == pytest.approx(wanted_line, rel=1e-6)
        assert found["slices_per_s"] == pytest.approx(count)
    reads = [found["read"] for found in two]
    if simulator_for(config, detector_of(config)) or augmented:  # what is drawn is drawn for all
        assert reads == [one["read"]] * 2
    else:
        assert sorted([*reads[0], *reads[1]]) == sorted(one["read"])


def normed(team: bool, images: list[Tensor]) -> list[Tensor]:
    """Outputs, gradients and running statistics of a BatchNorm that sees small variances."""
    norm = nn.BatchNorm2d(3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
    if team:
        synchronise(norm)
    here = images[dist.get_rank()] if team else torch.cat(images)
    here = here.clone().requires_grad_()
    outputs = [norm(here), norm(here * 2)]
    sum((out * here.detach().roll(1, -1)).square().sum() for out in outputs).backward()
    assert here.grad is not None
    assert norm.weight.grad is not None
    norm.eval()
    tensors = [
        *outputs,
        here.grad,
        norm.weight.grad,
        norm.running_mean,
        norm.running_var,
        norm(here),
    ]
    return [tensor.detach() for tensor in tensors if tensor is not None]


def test_batch_norm_is_that_of_all_processes_images(tmp_path: Path) -> None:
    """With parts of unequal size, and a mean that is large beside the deviation."""
    torch.manual_seed(0)
    images = [
        torch.randn(count, 3, 4, 4).double() + torch.tensor([0.0, 50.0, -3.0])[:, None, None]
        for count in (3, 1)
    ]
    one = normed(False, images)
    two = in_processes(2, tmp_path, lambda: normed(True, images))
    for index, wanted in enumerate(one):
        found = [each[index] for each in two]
        if wanted.ndim == 4:  # of images: in parts
            torch.testing.assert_close(torch.cat(found), wanted)
        elif index == 3:  # gradients of parameters: to be summed
            torch.testing.assert_close(found[0] + found[1], wanted)
        else:
            torch.testing.assert_close(found[0], wanted)
            assert torch.equal(found[0], found[1])


def test_all_processes_end_alike(tmp_path: Path) -> None:
    """A stop that one was asked for, a fault that one has seen, and a loss that is no number."""

    def work() -> list[Any]:
        loop = loop_of(config_of(MODELS["dae"]), Workers, 4)
        last = dist.get_rank() == 1
        team = loop.team
        said = [team.any(last), team.any(False), team.first("dead" if last else None)]
        said.append(team.first(None))
        loop.batch_size, loop.should_stop = 2, lambda: last
        position, report = loop.epoch(Position(0, 0, {}))
        said += [(position.epoch, position.batch), report]
        if last:
            with torch.no_grad():
                next(iter(loop.detector.parameters())).fill_(float("nan"))
        try:
            loop.epoch(position)
        except ModelError as error:
            said.append(error.where)
        return said

    both = in_processes(2, tmp_path, work)
    assert both[0] == both[1]
    assert both[0] == [True, False, "dead", None, (0, 1), None, "epoch 1, batch 2"]


@pytest.mark.parametrize(("count", "size"), [(16, 1), (16, 2), (17, 4), (4, 4)])
def test_shares_are_the_batch(count: int, size: int) -> None:
    shares, weights = [], []
    for rank in range(size):
        team = Workers.__new__(Workers)
        team.rank, team.size = rank, size
        shares.append(range(count)[team.share(count)])
        weights.append(team.weight(count))
    assert [i for share in shares for i in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert np.mean(weights) == pytest.approx(1)
    assert ALONE.share(count) == slice(0, count)
