"""SK-RD4AD and Skip-TS against their released code: the skips, the consistency, what trains."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from medrd.config import TeacherConfig
from medrd.models.build import shapes_only
from medrd.models.cosine import summed_map
from medrd.models.detector import Batch, Detector
from medrd.models.skip_rd import SKRD4AD, SkipConnected, SkipTS, consistency
from medrd.run.teacher_weights import load_teacher_weights
from training import SMALL, assert_a_square_stands_out, build, count, iterate, phantoms, slow_flat

KINDS: list[type[SkipConnected]] = [SKRD4AD, SkipTS]


def batch(images: Tensor | None = None) -> Batch:
    pictures = torch.rand(2, 3, 64, 64) if images is None else images
    return Batch(pictures, torch.ones_like(pictures[:, 0], dtype=torch.bool))


def trained(detector: Detector) -> int:
    return sum(p.numel() for step in detector.steps() for p in step.parameters)


def test_wide_resnet50_has_rd4ads_parameters_and_those_without_a_bottleneck() -> None:
    with shapes_only():
        ours, bare = build(SKRD4AD, "wide_resnet50_2"), build(SkipTS, "wide_resnet50_2")
    assert count(ours.teacher) == 24_862_528
    assert trained(ours) == 83_802_624
    assert count(bare.teacher) == 66_834_240  # torchvision's 68,883,240 without the classifier
    assert trained(bare) == count(bare.decoder) == 24_917_504
    for detector in (ours, bare):
        (step,) = detector.steps()
        assert step.optimizer.kind == "adam"
        assert step.optimizer.settings == {"lr": 0.005, "betas": (0.5, 0.999)}
        assert detector.settings.consistency_weight == 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_each_stage_but_the_first_reads_the_output_before_it_and_the_teachers_level(
    kind: type[SkipConnected],
) -> None:
    detector = build(kind, "resnet18").eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        targets, outputs = detector.features(images)
        levels = detector.teacher(images)
        start = detector.bottleneck(levels) if isinstance(detector, SKRD4AD) else levels[3]
        deep = detector.decoder.stages[0](start)
        # With the released code's ReLU after the sums: for a ResNet it changes nothing.
        middle = detector.decoder.stages[1](torch.relu(deep + levels[2]))
        shallow = detector.decoder.stages[2](torch.relu(middle + levels[1]))
    for target, level in zip(targets, levels[:3], strict=True):
        assert torch.equal(target, level)
    for output, expected in zip(outputs, (shallow, middle, deep), strict=True):
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


def enlarged(level: Tensor, size: int) -> Tensor:
    """Bilinear with its corners on those of the original, written as a loop."""
    images, channels, side, _ = level.shape
    result = torch.zeros(images, channels, size, size)
    for i, j in product(range(size), range(size)):
        y, x = i * (side - 1) / (size - 1), j * (side - 1) / (size - 1)
        top, left = min(int(y), side - 2), min(int(x), side - 2)
        for dy, dx in product((0, 1), (0, 1)):
            weight = (1 - abs(y - top - dy)) * (1 - abs(x - left - dx))
            result[:, :, i, j] += weight * level[:, :, top + dy, left + dx]
    return result


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().sum() / a.numel())


def of_sk_rd4ad(a: list[Tensor], b: list[Tensor]) -> float:
    first = error(enlarged(a[2], 4), enlarged(b[2], 4)) - error(a[1], b[1])
    second = error(enlarged(a[1], 8), enlarged(b[1], 8)) - error(a[0], b[0])
    return abs(first) + abs(second)


def of_skip_ts(a: list[Tensor], b: list[Tensor]) -> float:
    deepest = error(enlarged(a[2], 8), enlarged(b[2], 8))
    middle = error(enlarged(a[1], 8), enlarged(b[1], 8))
    return (
        abs(deepest - error(a[1], b[1]))
        + abs(middle - error(a[0], b[0]))
        + abs(deepest - error(a[0], b[0]))
    )


@pytest.mark.parametrize(("kind", "slow"), [(SKRD4AD, of_sk_rd4ad), (SkipTS, of_skip_ts)])
def test_the_loss_is_its_formula_written_as_a_loop(
    kind: type[SkipConnected], slow: Callable[[list[Tensor], list[Tensor]], float]
) -> None:
    detector = build(kind, SMALL, consistency_weight=0.3)
    shapes = ((2, 3, 8, 8), (2, 5, 4, 4), (2, 4, 2, 2))
    targets = [torch.randn(shape) for shape in shapes]
    outputs = [3 * torch.randn(shape) for shape in shapes]
    detector.features = lambda images: (targets, outputs)  # type: ignore[method-assign]
    found = consistency(targets, outputs, detector.consistency_pairs)
    assert float(found) == pytest.approx(slow(targets, outputs), rel=1e-4)
    expected = slow_flat(targets, outputs) + 0.3 * slow(targets, outputs)
    assert float(detector.distillation_loss(batch())) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_compares_the_outputs_from_before_the_sums(kind: type[SkipConnected]) -> None:
    detector = build(kind, SMALL).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = summed_map(*detector.features(images), images)
        assert torch.equal(detector.anomaly_map(images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_phantoms_planted_anomaly_stands_out_after_training(kind: type[SkipConnected]) -> None:
    detector = build(kind, "tf_efficientnet_lite0")
    load_teacher_weights(detector.teacher, TeacherConfig())
    detector.train()
    losses = iterate(detector, [batch(phantoms(4)) for _ in range(40)])
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    assert_a_square_stands_out(detector, 0.85)
