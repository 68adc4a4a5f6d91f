"""ReContrast against the released code: what goes where, which points teach, what trains."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrd.config import TeacherConfig
from medrd.models.build import shapes_only
from medrd.models.detector import Batch
from medrd.models.recontrast import ReContrast, hardness, mined_distance
from medrd.run.teacher_weights import load_teacher_weights
from training import assert_a_square_stands_out, build, count, iterate, phantoms, slow_flat


def batch(images: Tensor | None = None, progress: float = 0.0) -> Batch:
    pictures = torch.rand(2, 3, 64, 64) if images is None else images
    return Batch(pictures, torch.ones_like(pictures[:, 0], dtype=torch.bool), progress=progress)


def test_wide_resnet50_is_rd4ad_with_an_encoder_and_two_heads_for_each_level() -> None:
    with shapes_only():
        detector = build(ReContrast, "wide_resnet50_2")
    assert count(detector.teacher) == 24_862_528
    assert count(detector.encoder) == 24_862_528
    assert count(detector.bottleneck) + count(detector.decoder) == 83_802_624
    assert count(detector.heads) == 2 * sum(c * c + c for c in (256, 512, 1024))
    trained = 83_802_624 + 24_862_528 + 2_756_096
    assert sum(p.numel() for p in detector.parameters() if p.requires_grad) == trained
    assert sum(p.numel() for s in detector.steps() for p in s.parameters) == trained


def test_the_optimiser_is_the_released_one() -> None:
    (step,) = build(ReContrast, "resnet18").steps()
    rest, encoder = step.groups
    assert step.optimizer.kind == "adamw"
    assert step.optimizer.settings == {"lr": 2e-3, "weight_decay": 1e-5}
    assert step.optimizer.schedule is None
    assert rest.settings == {}
    assert encoder.settings == {"lr": 1e-5}
    assert sum(p.numel() for p in encoder.parameters) == 2_782_784


def test_what_the_encoder_sees_must_match_the_teacher_and_the_reverse() -> None:
    detector = build(ReContrast, "resnet18").eval()
    with torch.no_grad():
        for parameter in detector.encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        images = torch.rand(2, 3, 64, 64)
        targets, outputs = detector.features(images)
        frozen, adapted = detector.teacher(images), detector.encoder(images)
        for i in range(3):
            assert torch.equal(targets[i], frozen[i])
            assert torch.equal(targets[3 + i], adapted[i])
            assert not torch.allclose(frozen[i], adapted[i])
        # In eval mode BatchNorm does not mix the views, so each can be decoded alone.
        for view, seen in enumerate((adapted, frozen)):
            decoded = detector.decoder(detector.bottleneck(seen))
            heads = detector.heads[view]
            assert isinstance(heads, nn.ModuleList)
            for i in range(3):
                expected = heads[i](decoded[i])
                torch.testing.assert_close(outputs[3 * view + i], expected, atol=1e-4, rtol=1e-4)


def test_both_views_share_the_batch_statistics_of_the_student() -> None:
    detector = build(ReContrast, "resnet18", encoder_batch_norm="eval").train()
    with torch.no_grad():
        for parameter in detector.encoder.parameters():
            parameter.mul_(1.5)
    norm = detector.bottleneck.fuse[0][1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.momentum = 1.0
    images = torch.rand(2, 3, 64, 64)
    detector.features(images)
    with torch.no_grad():
        seen = torch.cat([detector.encoder(images)[0], detector.teacher(images)[0]])
        inputs = detector.bottleneck.fuse[0][0](seen)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, inputs.mean((0, 2, 3)), atol=1e-4, rtol=1e-4)


def test_the_loss_is_its_formula_written_as_a_loop_whatever_is_mined() -> None:
    detector = build(ReContrast, "resnet18")
    shapes = ((3, 4), (5, 2), (7, 2)) * 2
    targets = [torch.randn(2, c, s, s) for c, s in shapes]
    outputs = [torch.randn(2, c, s, s) for c, s in shapes]
    detector.features = lambda images: (targets, outputs)  # type: ignore[method-assign]
    expected = slow_flat(targets, outputs) / 2
    for progress in (0.0, 0.05, 0.9):
        found = float(detector.contrastive_loss(batch(progress=progress)))
        assert found == pytest.approx(expected, abs=1e-6)


def test_easy_points_get_no_gradient_and_hard_ones_that_of_the_whole_cosine() -> None:
    target = torch.randn(3, 6, 5, 4)
    output = (target + torch.rand(3, 1, 5, 4) * torch.randn(3, 6, 5, 4)).requires_grad_(True)
    mined_distance(target, output, alpha=0.5).backward()
    mined = output.grad
    assert mined is not None

    # The same by hand: every point's distance, mean and std over the batch, and a plain gradient.
    distances = [
        1 - float(F.cosine_similarity(target[n, :, i, j], output[n, :, i, j].detach(), dim=0))
        for n in range(3)
        for i in range(5)
        for j in range(4)
    ]
    mean = sum(distances) / 60
    std = math.sqrt(sum((d - mean) ** 2 for d in distances) / 59)
    hard = torch.tensor([d >= mean + 0.5 * std for d in distances]).view(3, 1, 5, 4)
    assert 0 < int(hard.sum()) < 30
    plain = output.detach().clone().requires_grad_(True)
    (1 - F.cosine_similarity(target.flatten(1), plain.flatten(1))).mean().backward()
    assert plain.grad is not None
    assert bool((plain.grad != 0).all())
    torch.testing.assert_close(mined, plain.grad * hard, atol=1e-7, rtol=1e-5)
    assert bool((mined[~hard.expand_as(mined)] == 0).all())


def test_alpha_rises_over_the_first_tenth_and_the_loss_follows_it() -> None:
    detector = build(ReContrast, "resnet18")
    found = [hardness(p) for p in (0.0, 0.025, 0.05, 0.1, 0.5, 0.999)]
    assert found == pytest.approx([-3, -2, -1, 1, 1, 1])
    target = torch.randn(2, 4, 8, 8)
    output = (target + torch.rand(2, 1, 8, 8) * torch.randn(2, 4, 8, 8)).requires_grad_(True)
    fixed = [target] * 6, [output] + [target] * 5  # of what is learnt, only the first level
    detector.features = lambda images: fixed  # type: ignore[method-assign]
    taught = []
    for progress in (0.0, 0.075, 0.5):
        output.grad = None
        detector.contrastive_loss(batch(progress=progress)).backward()
        assert output.grad is not None
        taught.append(float((output.grad != 0).any(1).float().mean()))
    assert taught[0] == 1
    assert 0.3 < taught[1] < 0.8
    assert 0 < taught[2] < 0.3


def test_targets_get_no_gradient_so_the_encoder_learns_through_the_bottleneck_alone() -> None:
    target = torch.randn(2, 4, 3, 3, requires_grad=True)
    mined_distance(target, torch.randn(2, 4, 3, 3, requires_grad=True), -3).backward()
    assert target.grad is None

    detector = build(ReContrast, "resnet18").train()
    for network in (detector.bottleneck, detector.decoder):
        network.requires_grad_(False)
    # The encoder's features detached on their way into the bottleneck: no other way is left.
    inner = detector.bottleneck.forward
    detector.bottleneck.forward = lambda levels: inner([x.detach() for x in levels])  # type: ignore[method-assign]
    detector.contrastive_loss(batch()).backward()
    assert all(p.grad is None for p in detector.encoder.parameters())
    assert all(p.grad is not None for p in detector.heads.parameters())


@pytest.mark.parametrize("teacher", ["resnet18", "tf_efficientnet_lite0", "convnext_atto"])
def test_the_map_is_the_sum_of_six_distances(teacher: str) -> None:
    detector = build(ReContrast, teacher).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        targets, outputs = detector.features(images)
        found = detector.anomaly_map(images)
    assert [t.shape for t in targets] == [o.shape for o in outputs]
    expected = torch.zeros(2, 64, 96)
    for a, b in zip(targets, outputs, strict=True):
        level = (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)))[:, None]
        expected += F.interpolate(level, (64, 96), mode="bilinear", align_corners=True)[:, 0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_phantoms_planted_anomaly_stands_out_after_training() -> None:
    detector = build(ReContrast, "tf_efficientnet_lite0")
    load_teacher_weights(detector.teacher, TeacherConfig())
    detector.teacher_loaded()
    detector.train()
    iterations = 28
    losses = iterate(
        detector, [batch(phantoms(2), progress=i / iterations) for i in range(iterations)]
    )
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    assert_a_square_stands_out(detector, 0.85)
