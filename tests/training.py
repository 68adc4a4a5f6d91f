"""Shared parts of detector tests: steps without a data set, images, and hand-written loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from medrd.config import MEDIAN_INTENSITY, ScoringConfig
from medrd.models.detector import Batch, Detector
from medrd.models.detectors import DETECTORS, detector_class
from medrd.models.scoring import Scoring
from medrd.models.teacher import Backbone, Teacher, TokenTeacher
from medrd.run.model_folder import make_scoring
from medrd.training.loop import descend, make_optimizers

SMALL = "mobilenetv3_small_050"
"""A teacher for what holds with any: a tenth of a ResNet-18's work."""
SMALL_VIT = "test_vit2"
"""The same of the transformers: 8 blocks of width 64, patches of 16 pixels."""

CASES: dict[str, dict[str, Any]] = {name: {"name": name} for name in DETECTORS} | {
    "rd4ad_pixel": {"name": "rd4ad", "loss": "pixel"},
    "rd_expert_bn_eval": {"name": "rd_expert", "teacher_batch_norm": "eval"},
    "rd_expert_no_gate": {"name": "rd_expert", "gating": False},
    "bikd_two_branch": {"name": "bikd", "variant": "two_branch"},
    "rdpp_pairs": {"name": "rdpp", "transport": "pairs"},
    "edc_eval": {"name": "edc", "encoder_batch_norm": "eval"},
    "recontrast_eval": {"name": "recontrast", "encoder_batch_norm": "eval"},
}
"""The ``model`` sections of all detectors and of their variants."""
NETWORKS = [*DETECTORS, "rd_expert_no_gate", "bikd_two_branch"]
"""Without the variants that differ in training alone."""
FAST: dict[str, dict[str, Any]] = {
    "dae": {"base": 8, "depth": 2},
    "dinomaly": {"teacher": {"name": SMALL_VIT, "weights": "random"}},
}
"""Settings that make a detector small enough for tests without a particular size."""

D = TypeVar("D", bound=Detector)
T = TypeVar("T", bound=nn.Module)


def build(
    kind: type[D],
    teacher: str | Backbone | None = None,
    *,
    modalities: int = 3,
    channels: int = 3,
    **settings: Any,
) -> D:
    """A detector with the config's numbers where none are given, and random weights."""
    section = kind.section
    name = section.model_fields["name"].default
    keys = section.model_fields.keys() - {"name", "teacher", "simulation", "noise"}
    own = {key: settings.pop(key) for key in list(settings) if key in keys}
    # Dinomaly's section needs one to be valid; the network gets that of the arguments.
    named = {key: FAST[name][key] for key in ("teacher",) if key in FAST.get(name, {})}
    chosen = section(**own, **named)
    if section.takes_stacks:
        settings |= {"modalities": modalities, "channels": channels, "median": MEDIAN_INTENSITY}
    if teacher is None:
        return kind(chosen, **settings)
    if isinstance(teacher, str):
        assert kind.teacher_kind is not None
        teacher = kind.teacher_kind(teacher)
    return kind(teacher, chosen, **settings)


def small_teacher(name: str, convolutional: str = SMALL) -> str | None:
    """The small teacher of a detector's kind; None for one that has none."""
    kind = detector_class(name).teacher_kind
    if kind is None:
        return None
    return SMALL_VIT if kind is TokenTeacher else convolutional


def scoring_of(size: int, **settings: Any) -> Scoring:
    """A scoring with the config's numbers where none are given."""
    return make_scoring(ScoringConfig(**settings), size=size)


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
            descend(step, optimizer, loss)
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


def lively(name: str, kind: Callable[[str], T] = Teacher) -> T:  # type: ignore[assignment]
    """timm starts each residual block's last BatchNorm at 0: nothing before it has a gradient."""
    teacher = kind(name)
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


def square_phantoms(images: int) -> Batch:
    """Smooth slices, and copies with a textured square."""
    ramp = torch.linspace(0, 1, 64)
    tilt = torch.rand(images, 1, 1)
    healthy = 0.3 + 0.4 * (ramp[:, None] * tilt + ramp[None] * (1 - tilt))
    healthy = healthy[:, None].repeat(1, 3, 1, 1)
    mask = torch.zeros(images, 64, 64, dtype=torch.bool)
    for each in mask:
        top, left = torch.randint(0, 40, (2,)).tolist()
        each[top : top + 20, left : left + 20] = True
    changed = torch.where(mask[:, None], torch.rand(images, 1, 64, 64), healthy)
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


@torch.no_grad()
def assert_a_square_stands_out(detector: Detector, least: float) -> None:
    """The map of a white square is higher than around it, and than in its place without it."""
    detector.eval()
    healthy, inside = phantoms(8), torch.zeros(64, 64, dtype=torch.bool)
    inside[24:36, 28:40] = True
    found = detector.anomaly_map(healthy.masked_fill(inside, 1))
    assert auroc(found[:, inside], found[:, ~inside]) > least
    assert auroc(found[:, inside], detector.anomaly_map(healthy)[:, inside]) > least


def levels(images: int = 2) -> list[Tensor]:
    return [torch.randn(images, c, s, s) for c, s in ((3, 8), (5, 4), (4, 2))]


def slow_distance(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return 1 - dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def slow_map(a: Tensor, b: Tensor) -> dict[tuple[int, int, int], float]:
    """Distance by image, row and column."""
    images, _, height, width = a.shape
    return {
        (n, i, j): slow_distance(a[n, :, i, j].tolist(), b[n, :, i, j].tolist())
        for n in range(images)
        for i in range(height)
        for j in range(width)
    }


def slow_flat(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Flattened cosine distances, mean over images, summed over levels."""
    total = 0.0
    for x, y in zip(a, b, strict=True):
        pairs = zip(x, y, strict=True)
        total += sum(slow_distance(u.flatten().tolist(), v.flatten().tolist()) for u, v in pairs)
    return total / len(a[0])
