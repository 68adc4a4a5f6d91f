"""STFPM against the released code: loss, map, what trains; and the watch over its student."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrd.config import TeacherConfig
from medrd.models.build import shapes_only
from medrd.models.detector import Batch
from medrd.models.monitors import GRACE, StudentMonitor
from medrd.models.stfpm import STFPM
from medrd.models.teacher import Teacher
from medrd.run.teacher_weights import load_teacher_weights
from training import assert_a_square_stands_out, build, count, iterate, phantoms


def batch(images: Tensor | None = None) -> Batch:
    pictures = torch.rand(2, 3, 64, 64) if images is None else images
    return Batch(pictures, torch.ones_like(pictures[:, 0], dtype=torch.bool))


@pytest.mark.parametrize(
    ("teacher", "parameters"), [("resnet18", 2_782_784), ("wide_resnet50_2", 24_862_528)]
)
def test_the_student_is_as_large_as_the_teacher_and_alone_optimised(
    teacher: str, parameters: int
) -> None:
    with shapes_only():
        detector = build(STFPM, teacher)
    assert count(detector.teacher) == count(detector.student) == parameters
    (step,) = detector.steps()
    assert sum(p.numel() for p in step.parameters) == parameters
    assert sum(p.numel() for p in detector.parameters() if p.requires_grad) == parameters
    assert step.optimizer.kind == "sgd"
    assert step.optimizer.settings == {"lr": 0.4, "momentum": 0.9, "weight_decay": 1e-4}
    assert step.optimizer.schedule is None


def test_the_student_starts_at_random_with_live_residual_branches() -> None:
    teacher = Teacher("resnet18")
    detector = build(STFPM, teacher)
    own = dict(detector.student.named_parameters())
    for name, parameter in teacher.named_parameters():
        assert parameter.dim() != 4 or not torch.equal(parameter, own[name]), name
    norms = [m for m in detector.student.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 15
    assert all(bool((m.weight == 1).all()) for m in norms)


def test_the_loss_is_its_formula_written_as_a_loop() -> None:
    detector = build(STFPM, "resnet18")
    shapes = ((2, 3, 4, 4), (2, 5, 2, 2))
    levels = [(torch.randn(s), torch.randn(s)) for s in shapes]
    detector.teacher.forward = lambda images: [a for a, _ in levels]  # type: ignore[method-assign]
    detector.student.forward = lambda images: [b for _, b in levels]  # type: ignore[method-assign]
    expected = 0.0
    for a, b in levels:
        distances = []
        for n in range(2):
            for i in range(a.shape[2]):
                for j in range(a.shape[3]):
                    u, v = a[n, :, i, j], b[n, :, i, j]
                    difference = u / u.square().sum().sqrt() - v / v.square().sum().sqrt()
                    distances.append(float(difference.square().sum()))
        expected += sum(distances) / len(distances)
    assert float(detector.distillation_loss(batch())) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("teacher", ["resnet18", "tf_efficientnet_lite0", "convnext_atto"])
def test_the_map_is_the_product_at_the_shallowest_size_then_enlarged(teacher: str) -> None:
    detector = build(STFPM, teacher).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        found = detector.anomaly_map(images)
        product = torch.ones(2, 1, 16, 24)
        pairs = zip(detector.teacher(images), detector.student(images), strict=True)
        for target, output in pairs:
            # squared distance of unit vectors = 2 (1 - cosine)
            level = 2 * (1 - F.cosine_similarity(target, output, dim=1))[:, None]
            product *= F.interpolate(level, (16, 24), mode="bilinear", align_corners=False)
    expected = F.interpolate(product, (64, 96), mode="bilinear", align_corners=False)[:, 0]
    assert found.shape == (2, 64, 96)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    # Enlarged from the product: between the centres of two positions a map is linear.
    along = found[:, 2::4, 2:6]
    torch.testing.assert_close(along.diff(2), torch.zeros_like(along.diff(2)), atol=1e-5, rtol=0)


def test_distances_under_bfloat16_are_computed_in_float32() -> None:
    detector = build(STFPM, "resnet18").eval()
    detector.student.load_state_dict(detector.teacher.state_dict())
    with torch.no_grad():
        for parameter in detector.student.parameters():
            parameter.mul_(1 + 0.02 * torch.randn_like(parameter))
        images = torch.rand(1, 3, 64, 64)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            targets, outputs = detector.features(images)
            found = detector.anomaly_map(images)
    assert all(level.dtype == torch.float32 for level in (*targets, *outputs))
    torch.testing.assert_close(targets[0].square().sum(1), torch.ones(1, 16, 16))
    assert found.dtype == torch.float32
    assert found.unique().numel() > found.numel() // 2


@pytest.mark.slow
def test_a_healthy_run_learns_finds_an_anomaly_and_is_never_called_dead() -> None:
    detector = build(STFPM, "tf_efficientnet_lite0", grace=20).train()
    load_teacher_weights(detector.teacher, TeacherConfig())
    losses = []
    for _ in range(3):
        losses += iterate(detector, [batch(phantoms(4)) for _ in range(20)])
        assert detector.fault() is None
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert_a_square_stands_out(detector, 0.8)


@torch.no_grad()
def watch(detector: STFPM, images: Tensor, batches: int) -> str | None:
    """An epoch in which the student does not move."""
    for _ in range(batches):
        detector.distillation_loss(batch(images))
    return detector.fault()


@pytest.mark.parametrize("part", ["student.backbone.conv1", "student.backbone.layer3"])
def test_a_dead_student_is_found_after_its_grace_and_the_level_named(
    part: str,
) -> None:
    detector = build(STFPM, "resnet18", grace=6).train()
    for parameter in detector.get_submodule(part).parameters():
        nn.init.zeros_(parameter)
    images = phantoms(4)
    assert watch(detector, images, 3) is None  # too young
    found = watch(detector, images, 3)
    assert found is not None
    assert "dead" in found
    assert f"level {3 if part.endswith('layer3') else 1} " in found
    assert detector.fault() is None  # nothing new was seen


@pytest.mark.slow
def test_a_student_that_stays_worse_than_a_constant_is_found_and_a_slow_one_is_not() -> None:
    detector = build(STFPM, "resnet18", grace=4).train()
    images = phantoms(4)
    assert watch(detector, images, 4) is None  # so far it may only be young
    found = watch(detector, images, 4)
    assert found is not None
    assert "learns nothing" in found

    slow = build(STFPM, "resnet18", lr=0.01, grace=4).train()
    for _ in range(3):
        iterate(slow, [batch(images)] * 4)
        beat = slow.monitor.batches[-1]
        assert bool((beat.loss > beat.constant).all())
        assert slow.fault() is None


def test_what_the_guard_has_seen_survives_a_resume() -> None:
    images = phantoms(4)
    detector = build(STFPM, "resnet18", grace=6).train()
    for parameter in detector.get_submodule("student.backbone.conv1").parameters():
        nn.init.zeros_(parameter)
    for _ in range(2):  # killed again and again, a dead student is found all the same
        assert watch(detector, images, 2) is None
        resumed = build(STFPM, "resnet18", grace=6).train()
        resumed.load_state_dict(detector.state_dict())
        resumed.load_monitor_state(detector.monitor_state())
        detector = resumed
    assert "dead" in str(watch(detector, images, 2))


def test_a_diverged_student_is_not_excused_by_drifting_a_little() -> None:
    watcher = StudentMonitor()
    target = F.normalize(torch.randn(4, 8, 4, 4) + 3, dim=1)  # nearly one direction
    found = []
    for epoch in range(3):
        for _ in range(GRACE):
            loss = torch.tensor([2.0 - 1e-3 * epoch])
            watcher.see([target], [F.normalize(torch.randn(4, 8, 4, 4), dim=1)], loss)
        found.append(watcher.fault())
    assert "learns nothing" in str(found[-1])


@pytest.mark.slow
def test_a_diverging_student_is_found() -> None:
    detector = build(STFPM, "tf_efficientnet_lite0", lr=1000, grace=10).train()
    found = None
    for _ in range(8):
        losses = iterate(detector, [batch(phantoms(4, size=32)) for _ in range(10)])
        found = detector.fault()
        if found is not None:
            break
    assert all(loss < float("inf") for loss in losses)
    assert found is not None
    assert "learns nothing" in found


def test_the_watch_sees_training_alone() -> None:
    detector = build(STFPM, "resnet18").eval()
    with torch.no_grad():
        detector.distillation_loss(batch())
    assert not detector.monitor.batches


def test_the_constant_is_the_best_that_one_vector_can_do() -> None:
    targets = F.normalize(torch.randn(3, 6, 4, 4) + 0.5, dim=1)
    watcher = StudentMonitor()
    watcher.see([targets], [targets], torch.zeros(1))
    limit = float(watcher.batches[0].constant)
    tries = F.normalize(targets.mean((0, 2, 3)) + 0.3 * torch.randn(500, 6), dim=1)
    reached = [(targets - t[:, None, None]).square().sum(1).mean() for t in tries]
    assert limit <= float(torch.stack(reached).min()) + 1e-6
    assert limit == pytest.approx(float(torch.stack(reached).min()), rel=0.05)
