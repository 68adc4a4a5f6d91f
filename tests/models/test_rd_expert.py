"""RD with Expert against its specification: sizes, injection, losses, who moves when, maps."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrd.models import injection as injection_module
from medrd.models.build import shapes_only
from medrd.models.injection import Injection, similarity
from medrd.models.rd_expert import RDExpert
from medrd.models.simulated import masks_at_levels
from training import (
    SMALL,
    Answers,
    auroc,
    build,
    changed_batch,
    count,
    iterate_steps,
    levels,
    optimizers,
    slow_distance,
    slow_flat,
    square_phantoms,
)


def slow_mask(mask: list[list[float]], size: int) -> list[list[float]]:
    """Bilinear between corner positions, then cut at a half."""
    scale = (len(mask) - 1) / (size - 1)
    result = []
    for i in range(size):
        row = []
        for j in range(size):
            y, x = min(int(i * scale), len(mask) - 2), min(int(j * scale), len(mask) - 2)
            v, u = i * scale - y, j * scale - x
            value = (1 - v) * ((1 - u) * mask[y][x] + u * mask[y][x + 1])
            value += v * ((1 - u) * mask[y + 1][x] + u * mask[y + 1][x + 1])
            row.append(1.0 if value >= 0.5 else 0.0)
        result.append(row)
    return result


@pytest.mark.parametrize(("gating", "gate"), [(True, 11_799_552), (False, 0)])
def test_wide_resnet50_has_the_released_codes_parameter_counts(gating: bool, gate: int) -> None:
    with shapes_only():
        detector = build(RDExpert, "wide_resnet50_2", gating=gating)
    teacher_step, student_step = detector.steps()
    gates = [p for name, p in detector.named_parameters() if ".gate." in name]
    assert sum(p.numel() for p in gates) == gate
    # 47,853,568 more than RD4AD's student with the gate's convolutions.
    assert count(detector.student.injections) == 47_853_568 - 11_799_552 + gate
    assert count(detector.student) == 140_048_896 - 8_392_704 - 11_799_552 + gate
    assert sum(p.numel() for p in teacher_step.parameters) == 24_862_528
    assert sum(p.numel() for p in student_step.parameters) == count(detector.student)
    assert sum(p.numel() for p in detector.parameters() if not p.requires_grad) == 24_862_528


@pytest.mark.parametrize("teacher", ["resnet18", "tf_efficientnet_lite0", "convnext_atto"])
def test_any_teachers_student_has_its_shapes_and_signs(teacher: str) -> None:
    detector = build(RDExpert, teacher).eval()
    with torch.no_grad():
        targets = detector.trained_teacher(torch.rand(2, 3, 96, 64))
        outputs = detector.student(targets)
    assert [o.shape for o in outputs] == [t.shape for t in targets]
    for target, output in zip(targets, outputs, strict=True):
        assert (target.min() < 0) == (output.min() < 0)


def test_all_convolutions_of_the_student_start_xavier_normal() -> None:
    detector = build(RDExpert, "resnet18")
    seen = set()
    for name, module in detector.student.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        seen.add(name.split(".")[0])
        field = module.kernel_size[0] * module.kernel_size[1]
        expected = math.sqrt(2 / (field * (module.in_channels + module.out_channels)))
        assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.05)
        assert module.bias is None
    assert seen == {"bottleneck", "decoder", "injections"}


@pytest.mark.parametrize("gating", [True, False])
def test_an_injection_is_its_formula(gating: bool) -> None:
    inject = Injection(6, 4, gating=gating).eval()
    output, level = torch.rand(2, 6, 4, 4), torch.rand(2, 6, 4, 4)
    shallower = torch.rand(2, 4, 8, 8)

    def unit(network: nn.Module, x: Tensor) -> Tensor:
        weight = network.get_parameter("0.weight")  # BatchNorm as made: mean 0, variance 1
        return (F.conv2d(x, weight, padding=weight.shape[-1] // 2) / math.sqrt(1 + 1e-5)).relu()

    halved = F.avg_pool2d(shallower, 2)  # what bilinear by a half is for even sizes
    added = unit(inject.details, level + unit(inject.reduce, halved))
    if gating:
        assert inject.gate is not None
        likeness = (output * level).sum(1) / output.norm(dim=1) / level.norm(dim=1)
        likeness = likeness[:, None]
        added = unit(inject.gate, added * likeness + output * (1 - likeness))
    expected = unit(inject.join, torch.cat([output, added], 1))
    torch.testing.assert_close(inject(output, level, shallower), expected, atol=1e-6, rtol=1e-5)


def test_the_likeness_that_gates_is_a_number_without_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inject = Injection(6, 4, gating=True)
    output = torch.rand(2, 6, 4, 4, requires_grad=True)
    level, shallower = torch.rand(2, 6, 4, 4), torch.rand(2, 4, 8, 8)
    (found,) = torch.autograd.grad(inject(output, level, shallower).square().sum(), output)
    fixed = similarity(output, level)
    monkeypatch.setattr(injection_module, "similarity", lambda output, level: fixed)
    (expected,) = torch.autograd.grad(inject(output, level, shallower).square().sum(), output)
    torch.testing.assert_close(found, expected)
    opposite = similarity(output.detach(), -level)
    assert bool((opposite == 0).all())


def test_the_student_hands_out_its_stages_and_not_what_was_joined_after_them() -> None:
    student = build(RDExpert, "resnet18").eval().student
    made: list[Tensor] = []
    for stage in student.decoder.stages:
        stage.register_forward_hook(lambda module, inputs, output: made.append(output))
    features = [torch.rand(1, c, s, s) for c, s in ((64, 16), (128, 8), (256, 4))]
    outputs = student(features)
    assert all(a is b for a, b in zip(outputs, made[::-1], strict=True))
    # The shallower levels see the details, the deepest comes before any injection.
    with torch.no_grad():
        for inject in student.injections:
            nn.init.zeros_(inject.get_parameter("join.0.weight"))
    without = student(features)
    assert torch.equal(without[2], outputs[2])
    assert not torch.equal(without[1], outputs[1])
    assert not torch.equal(without[0], outputs[0])


def test_masks_shrink_from_level_to_level_and_are_cut_each_time() -> None:
    mask = torch.rand(2, 64, 64) < 0.45
    sizes = (16, 8, 4)
    found = masks_at_levels(mask, [torch.empty(2, 1, s, s) for s in sizes])
    for image in range(2):
        current = mask[image].float().tolist()
        for size, level in zip(sizes, found, strict=True):
            current = slow_mask(current, size)
            assert level[image].tolist() == current
    assert 0 < float(found[-1].mean()) < 1


def test_the_teachers_loss_is_its_formula_written_as_a_loop() -> None:
    detector = build(RDExpert, SMALL)
    e_n, e_a, t_n, t_a = levels(), levels(), levels(), levels()
    detector.teacher = Answers(e_n, e_a)  # type: ignore[assignment]
    detector.trained_teacher = Answers(t_n, t_a)  # type: ignore[assignment]
    given = changed_batch()
    assert given.mask is not None
    masks = masks_at_levels(given.mask, e_n)
    expected = slow_flat(t_a, e_a)
    for level, mask in enumerate(masks):
        size = mask.shape[-1]
        terms = []
        for b in range(2):
            for i in range(size):
                for j in range(size):
                    target = e_n[level][b, :, i, j].tolist()
                    near = slow_distance(t_n[level][b, :, i, j].tolist(), target)
                    apart = slow_distance(t_a[level][b, :, i, j].tolist(), target)
                    terms.append(near + abs(apart - float(mask[b, i, j])))
        expected += sum(terms) / len(terms)
    assert float(detector.teacher_loss(given)) == pytest.approx(expected, abs=1e-5)
    assert isinstance(detector.trained_teacher, Answers)
    assert detector.trained_teacher.calls == [(given.images, True), (given.simulated, True)]


def test_the_students_loss_is_its_formula_written_as_a_loop() -> None:
    detector = build(RDExpert, SMALL)
    e_n, t_n, t_a, s_n, s_a = (levels() for _ in range(5))
    detector.teacher = Answers(e_n)  # type: ignore[assignment]
    detector.trained_teacher = Answers(t_n, t_a)  # type: ignore[assignment]
    detector.student = Answers(s_n, s_a)  # type: ignore[assignment]
    given = changed_batch()
    found = float(detector.student_loss(given))
    expected = slow_flat(s_n, t_n) + slow_flat(s_a, t_n) + slow_flat(s_n, e_n) + slow_flat(s_a, e_n)
    assert found == pytest.approx(expected, abs=1e-5)
    assert isinstance(detector.student, Answers)
    assert isinstance(detector.trained_teacher, Answers)
    assert detector.student.calls == [(t_n, True), (t_a, True)]
    assert detector.trained_teacher.calls == [(given.images, False), (given.simulated, False)]
    assert detector.trained_teacher.training


def test_the_expert_sees_a_batch_once_and_never_answers_for_another() -> None:
    detector = build(RDExpert, SMALL)
    calls: list[Tensor] = []
    detector.teacher.register_forward_hook(lambda module, inputs, _: calls.append(inputs[0]))
    first, second = changed_batch(), changed_batch()
    detector.teacher_loss(first)
    shared = detector.student_loss(first)
    assert len(calls) == 2
    torch.testing.assert_close(detector.student_loss(first), shared)  # now by itself
    assert len(calls) == 3
    detector.teacher_loss(first)
    detector.student_loss(second)
    assert calls[-1] is second.images


def test_the_map_compares_student_and_trained_teacher_and_needs_no_expert() -> None:
    detector = build(RDExpert, SMALL)
    iterate_steps(detector, [changed_batch()])
    detector.eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        targets = detector.trained_teacher(images)
        expected = torch.zeros(2, 64, 64)
        for x, y in zip(targets, detector.student(targets), strict=True):
            apart = 1 - (x * y).sum(1) / x.norm(dim=1) / y.norm(dim=1).clamp(min=1e-8)
            expected += F.interpolate(
                apart[:, None], (64, 64), mode="bilinear", align_corners=True
            )[:, 0]
        detector.keep_for_prediction()
        found = detector.anomaly_map(images)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_few_dozen_steps_lower_both_losses_and_find_an_anomaly() -> None:
    torch.manual_seed(1)
    detector = build(RDExpert, SMALL, teacher_lr=1e-3).train()
    adams = optimizers(detector)
    losses = []
    for _ in range(60):  # after 30, one start in seven still finds little, on some processors
        losses += iterate_steps(detector, [square_phantoms(4)], adams)
    first, last = torch.tensor(losses[:3]).mean(0), torch.tensor(losses[-3:]).mean(0)
    assert bool((last < torch.tensor([0.9, 0.6]) * first).all())
    detector.eval()
    changed, mask = square_phantoms(8).changed()
    with torch.no_grad():
        found = detector.anomaly_map(changed)
    assert auroc(found[mask], found[~mask]) > 0.85


def test_with_batch_norm_in_eval_the_teacher_starts_as_the_expert() -> None:
    detector = build(RDExpert, SMALL, teacher_batch_norm="eval")
    detector.teacher_loaded()
    detector.train()
    images = torch.rand(2, 3, 64, 64)
    for one, other in zip(detector.trained_teacher(images), detector.teacher(images), strict=True):
        assert torch.equal(one, other)
    in_train = build(RDExpert, SMALL).train()
    assert not torch.equal(in_train.trained_teacher(images)[0], in_train.teacher(images)[0])


def test_healthy_and_changed_images_have_batch_statistics_of_their_own() -> None:
    detector = build(RDExpert, SMALL).train()
    detector.teacher_loss(changed_batch())
    tracked = [v for k, v in detector.trained_teacher.named_buffers() if k.endswith("tracked")]
    assert tracked
    assert all(v == 2 for v in tracked)
