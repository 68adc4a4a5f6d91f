"""Several processes on one batch: the gradient, the statistics and the anomalies of one process."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from medrd.config import make_config
from medrd.data.slices import SliceBatch
from medrd.models import Detector
from medrd.workflows.checkpoint import Position
from medrd.workflows.device import Execution
from medrd.workflows.loop import Loop
from medrd.workflows.simulation import simulator_for
from medrd.workflows.team import ALONE, Workers
from medrd.workflows.train import build_detector_for
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


class Slices:
    """Stands for HealthySlices: phantoms in memory, and which of them were read."""

    def __init__(self, count: int) -> None:
        torch.manual_seed(7)
        self.images = phantoms(count, 64)[:, :1].numpy()
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
    "rd_expert": {"name": "rd_expert", "teacher": RESNET, "teacher_norm": "train"},
    "dae": {"name": "dae", "base": 4, "depth": 2},
    # BatchNorm and activation in one layer, while the network learns.
    "fused": {"name": "stfpm", "teacher": {"name": "efficientnet_lite0", "weights": "random"}},
}


def detector_of(model: dict[str, Any]) -> tuple[Detector, Any]:
    config = make_config({"model": model, "recipe": {"size": 64}, "train": {"batch_size": 6}})
    detector = build_detector_for(config)
    torch.manual_seed(1)
    for module in detector.modules():  # not all alike, and no gradient stopped by a weight of 0
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return detector, simulator_for(config, detector)


def loop_of(model: dict[str, Any], team: type[Workers] | None, count: int) -> Loop:
    detector, simulator = detector_of(model)
    detector.train()
    return Loop(
        detector,
        Slices(count),  # type: ignore[arg-type]
        Execution(torch.device("cpu"), bf16=False),
        batch_size=count,
        seed=3,
        epochs=2,
        simulator=simulator,
        team=team(detector) if team else ALONE,
    )


def one_epoch(model: dict[str, Any], team: type[Workers] | None, count: int) -> dict[str, Any]:
    """One batch: its gradients, what BatchNorm remembers, and the line of metrics."""
    loop = loop_of(model, team, count)
    _, report = loop.epoch(Position(0, 0, {}))
    assert report is not None
    return {
        "gradients": {n: p.grad for n, p in loop.detector.named_parameters() if p.requires_grad},
        "buffers": dict(loop.detector.named_buffers()),
        "losses": report.losses,
        "slices_per_s": report.slices_per_s * report.seconds,
        "read": loop.slices.read,  # type: ignore[attr-defined]
    }


def apart(found: Tensor, wanted: Tensor) -> float:
    """Relative distance of two tensors."""
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-12))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [6, 5], ids=["even", "uneven"])
def test_two_processes_have_the_gradient_of_one(name: str, count: int, tmp_path: Path) -> None:
    model = MODELS[name]
    one = one_epoch(model, None, count)
    two = in_processes(2, tmp_path, lambda: one_epoch(model, Workers, count))
    for found in two:
        assert found["gradients"].keys() == one["gradients"].keys()
        whole = torch.cat([g.flatten() for g in one["gradients"].values()])
        theirs = torch.cat([g.flatten() for g in found["gradients"].values()])
        assert apart(theirs, whole) < 1e-4
        for key, wanted in one["buffers"].items():
            torch.testing.assert_close(found["buffers"][key], wanted, rtol=1e-4, atol=1e-6)
        assert found["losses"] == pytest.approx(one["losses"], rel=1e-5)
        assert found["slices_per_s"] == pytest.approx(count)
    reads = [found["read"] for found in two]
    if model["name"] in ("rd_expert", "dae"):  # whoever simulates reads all
        assert reads == [one["read"]] * 2
    else:
        assert [*reads[0], *reads[1]] == one["read"]
