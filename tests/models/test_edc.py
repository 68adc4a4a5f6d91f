"""EDC against the released code: the bilinear decoder, where gradients go, loss and map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrd.config import TeacherConfig
from medrd.models.blocks import basic
from medrd.models.build import shapes_only
from medrd.models.detector import Batch
from medrd.models.edc import EDC
from medrd.run.teacher_weights import load_teacher_weights
from training import SMALL, assert_a_square_stands_out, build, count, iterate, phantoms, slow_flat


def batch(images: Tensor | None = None) -> Batch:
    pictures = torch.rand(2, 3, 64, 64) if images is None else images
    return Batch(pictures, torch.ones_like(pictures[:, 0], dtype=torch.bool))


def bottlenecks(inputs: int, width: int, outputs: int, blocks: int) -> int:
    """Parameters of a stage of EDC's decoder: a first block with a shortcut, then plain ones."""
    rest = 9 * width**2 + 2 * width + width * outputs + 2 * width + 2 * outputs
    first = inputs * width + rest + inputs * outputs + 2 * outputs
    return first + (blocks - 1) * (outputs * width + rest)


def test_resnet50_is_the_released_network_without_its_unused_parts() -> None:
    with shapes_only():
        detector = build(EDC, "resnet50")
    assert count(detector.encoder) == 25_557_032 - 2_049_000  # torchvision's but the classifier
    assert [len(stage) for stage in detector.decoder.stages] == [6, 4, 3]
    assert count(detector.decoder) == sum(
        bottlenecks(*stage)
        for stage in ((2048, 256, 1024, 6), (1024, 128, 512, 4), (512, 64, 256, 3))
    )
    assert not any(isinstance(m, nn.ConvTranspose2d) for m in detector.modules())
    for network in (detector.encoder, detector.decoder):
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {norm.momentum for norm in norms} == {0.01}


def test_the_optimiser_is_the_released_one_for_brain_mri() -> None:
    detector = build(EDC, SMALL)
    (step,) = detector.steps()
    decoder, encoder = step.groups
    assert step.optimizer.kind == "adamw"
    assert step.optimizer.settings == {"lr": 5e-4, "weight_decay": 1e-4}
    assert step.optimizer.schedule is None
    assert decoder.settings == {}
    assert encoder.settings == {"lr": 5e-5}
    assert sum(p.numel() for p in encoder.parameters) == count(detector.encoder)


def test_a_block_enlarges_between_its_convolutions_and_after_the_shortcuts() -> None:
    block = basic(3, 4, up=2, bilinear=True).eval()
    convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    given = torch.randn(2, 3, 5, 6)

    def doubled(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    with torch.no_grad():
        inner = F.conv2d(given, convs[0].weight, padding=1) / (1 + 1e-5) ** 0.5
        body = F.conv2d(doubled(inner.relu()), convs[1].weight, padding=1)
        shortcut = doubled(F.conv2d(given, convs[2].weight))
        expected = ((body + shortcut) / (1 + 1e-5) ** 0.5).relu()
        torch.testing.assert_close(block(given), expected, atol=1e-5, rtol=1e-5)


def test_the_loss_is_its_formula_written_as_a_loop() -> None:
    detector = build(EDC, SMALL).eval()
    shapes = ((2, 3, 4, 4), (2, 5, 2, 2), (2, 7, 2, 2))
    targets, outputs = ([torch.randn(shape) for shape in shapes] for _ in range(2))
    detector.features = lambda images: (targets, outputs)  # type: ignore[method-assign]
    found = float(detector.contrastive_loss(batch()))
    assert found == pytest.approx(slow_flat(targets, outputs), abs=1e-6)


def test_the_encoder_learns_through_its_fourth_level_alone() -> None:
    detector = build(EDC, SMALL).train()
    inner = detector.decoder.forward
    detector.decoder.forward = lambda deepest: inner(deepest.detach())  # type: ignore[method-assign]
    detector.contrastive_loss(batch()).backward()
    assert all(p.grad is None for p in detector.encoder.parameters())
    assert all(p.grad is not None for p in detector.decoder.parameters())


def test_the_map_is_the_mean_at_the_shallowest_size_then_enlarged() -> None:
    detector = build(EDC, SMALL).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        targets, outputs = detector.features(images)
        found = detector.anomaly_map(images)
    mean = torch.zeros(2, 1, 16, 24)
    for a, b in zip(targets, outputs, strict=True):
        level = (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)))[:, None]
        mean += F.interpolate(level, (16, 24), mode="bilinear", align_corners=False) / 3
    expected = F.interpolate(mean, (64, 96), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_prediction_needs_the_trained_encoder_and_not_the_teacher() -> None:
    detector = build(EDC, SMALL).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = detector.anomaly_map(images)
        detector.keep_for_prediction()
        assert torch.equal(detector.anomaly_map(images), before)


@pytest.mark.slow
def test_a_phantoms_planted_anomaly_stands_out_after_training() -> None:
    detector = build(EDC, "tf_efficientnet_lite0", lr=2e-3)
    load_teacher_weights(detector.teacher, TeacherConfig())
    detector.teacher_loaded()
    detector.train()
    # A short training: with the released momentum BatchNorm would still remember its start.
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    losses = iterate(detector, [batch(phantoms(2)) for _ in range(28)])
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    assert_a_square_stands_out(detector, 0.85)
