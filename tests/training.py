"""What the tests of detectors share: steps without a data set, images, and loops by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from medrd.models import Batch, Detector, Teacher
from medrd.training.loop import make_optimizers

SMALL = "mobilenetv3_small_050"
"""A teacher for what holds with any: a tenth of a ResNet-18's work."""


def count(*networks: nn.Module) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


def optimizers(detector: Detector) -> list[torch.optim.Optimizer]:
    return list(make_optimizers(detector.steps()).values())


def iterate_steps(
    detector: Detector, batches: Sequence[Batch], given: Sequence[torch.optim.Optimizer] = ()
) -> list[list[float]]:
    """Losses by step, of every batch."""
    used = given or optimizers(detector)
    losses = []
    for batch in batches:
        values = []
        for step, optimizer in zip(detector.steps(), used, strict=True):
            loss = step.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(float(loss.detach()))
        losses.append(values)
    return losses


def iterate(detector: Detector, batches: Sequence[Batch]) -> list[float]:
    """The loss of every batch, of a detector with one step."""
    return [loss for (loss,) in iterate_steps(detector, batches)]


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def moved(network: nn.Module, before: dict[str, Tensor]) -> set[str]:
    now = network.state_dict()
    return {key for key, value in now.items() if not torch.equal(value, before[key])}


def lively(name: str) -> Teacher:
    """timm starts each residual block's last BatchNorm at 0: nothing before it has a gradient."""
    teacher = Teacher(name)
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return teacher


def changed_batch(images: int = 2, size: int = 64) -> Batch:
    """Noise, and the same with a rectangle inverted."""
    healthy = torch.rand(images, 3, size, size)
    mask = torch.zeros(images, size, size, dtype=torch.bool)
    mask[:, size // 4 : size // 2, size // 4 : 3 * size // 4] = True
    changed = torch.where(mask[:, None], 1 - healthy, healthy)
    return Batch(healthy, torch.ones_like(mask), changed, mask)


def phantoms(images: int, size: int = 64) -> Tensor:
    """Ellipses with a soft texture that differ in size, brightness and phase."""
    axis = torch.linspace(-1, 1, size)
    y, x = axis[:, None], axis[None]
    a, b, level, phase = torch.rand(4, images, 1, 1)
    inside = (x / (0.7 + 0.2 * a)) ** 2 + (y / (0.7 + 0.2 * b)) ** 2 < 1
    picture = 0.4 + 0.2 * level + 0.1 * torch.sin(6 * x + 6 * phase) * torch.cos(5 * y)
    return (inside * picture)[:, None].repeat(1, 3, 1, 1)


class Answers(nn.Module):
    """A network that says what it was told to say, call by call.

    ``calls`` has the question of each call, and whether the network was training.
    """

    def __init__(self, *answers: list[Tensor]) -> None:
        super().__init__()
        self.answers = list(answers)
        self.calls: list[tuple[object, bool]] = []

    def forward(self, question: object) -> list[Tensor]:
        self.calls.append((question, self.training))
        return self.answers[len(self.calls) - 1]


def auroc(positive: Tensor, negative: Tensor) -> float:
    scores = torch.cat([positive.flatten(), negative.flatten()]).tolist()
    return float(roc_auc_score([1] * positive.numel() + [0] * negative.numel(), scores))


def levels(images: int = 2) -> list[Tensor]:
    return [torch.randn(images, c, s, s) for c, s in ((3, 8), (5, 4), (4, 2))]


def slow_distance(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return 1 - dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def slow_flat(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Flattened cosine distances, mean over images, summed over levels."""
    total = 0.0
    for x, y in zip(a, b, strict=True):
        pairs = zip(x, y, strict=True)
        total += sum(slow_distance(u.flatten().tolist(), v.flatten().tolist()) for u, v in pairs)
    return total / len(a[0])
