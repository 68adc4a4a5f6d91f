"""Bidirectional distillation (a reconstruction): losses, who moves when, scales, the alarm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import pytest
import torch
from torch import Tensor

from medrd.models import bikd as bikd_module
from medrd.models.bikd import BiKD, HealthyScale
from medrd.models.build import shapes_only
from medrd.models.cosine import summed_map
from medrd.models.monitors import CollapseMonitor
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
    lively,
    slow_flat,
    slow_map,
    square_phantoms,
)

Variant = Literal["reciprocal", "two_branch"]
VARIANTS: tuple[Variant, ...] = ("reciprocal", "two_branch")


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def test_wide_resnet50_has_rd4ads_student_and_one_more_teacher() -> None:
    with shapes_only():
        detectors = {v: build(BiKD, "wide_resnet50_2", variant=v) for v in VARIANTS}
    for detector in detectors.values():
        assert count(detector.student) == 83_802_624
        assert count(detector.teacher) == 24_862_528
        trained = sum(p.numel() for step in detector.steps() for p in step.parameters)
        assert trained == 83_802_624 + 24_862_528
        assert count(detector) == trained + 24_862_528
        needing = sum(p.numel() for p in detector.parameters() if p.requires_grad)
        assert needing == trained
    names = {v: [step.name for step in d.steps()] for v, d in detectors.items()}
    assert names == {"reciprocal": ["student", "teacher"], "two_branch": ["students"]}
    rates = {s.name: s.optimizer.settings["lr"] for s in detectors["reciprocal"].steps()}
    assert rates == {"student": 5e-3, "teacher": 1e-5}


def test_the_students_loss_is_its_formula_written_as_a_loop() -> None:
    detector = build(BiKD, SMALL)
    t_n, t_a, s_n, s_a = (levels() for _ in range(4))
    detector.trained_teacher = Answers(t_n, t_a)  # type: ignore[assignment]
    detector.student = Answers(s_n, s_a)  # type: ignore[assignment]
    found = float(detector.student_loss(changed_batch()))
    assert found == pytest.approx(slow_flat(s_n, t_n) + slow_flat(s_a, t_n), abs=1e-5)


def test_the_teachers_loss_is_its_formula_written_as_a_loop() -> None:
    margin, anchor = 0.9, 0.7
    detector = build(BiKD, SMALL, margin=margin, anchor=anchor)
    t_n, t_a, s_n, s_a, e_n = (levels() for _ in range(5))
    detector.trained_teacher = Answers(t_n, t_a)  # type: ignore[assignment]
    detector.student = Answers(s_n, s_a)  # type: ignore[assignment]
    detector.teacher = Answers(e_n)  # type: ignore[assignment]
    given = changed_batch()
    assert given.mask is not None
    expected, hinges = 0.0, []
    for level, mask in enumerate(masks_at_levels(given.mask, t_n)):
        apart = slow_map(t_a[level], s_a[level])
        inside = [d for key, d in apart.items() if mask[key] == 1]
        outside = [d for key, d in apart.items() if mask[key] == 0]
        hinges += [max(0.0, margin - d) for d in inside]
        expected += mean(list(slow_map(t_n[level], s_n[level]).values())) + mean(outside)
        expected += mean([max(0.0, margin - d) for d in inside]) if inside else 0
        expected += anchor * mean(list(slow_map(t_n[level], e_n[level]).values()))
    assert 0 in hinges  # both sides of the margin are met
    assert max(hinges) > 0
    assert float(detector.teacher_loss(given)) == pytest.approx(expected, abs=1e-5)
    assert isinstance(detector.student, Answers)
    for (question, _), features in zip(detector.student.calls, (t_n, t_a), strict=True):
        torch.testing.assert_close(question, features, rtol=0, atol=0)
    assert not any(training for _, training in detector.student.calls)
    assert detector.student.training


def test_the_loss_of_both_branches_is_its_formula_written_as_a_loop() -> None:
    detector = build(BiKD, SMALL, variant="two_branch")
    e_n, e_a, f_n, f_a, r_n, r_a = (levels() for _ in range(6))
    detector.teacher = Answers(e_n, e_a)  # type: ignore[assignment]
    detector.encoder = Answers(f_n, f_a)  # type: ignore[assignment]
    detector.student = Answers(r_n, r_a)  # type: ignore[assignment]
    expected = slow_flat(r_n, e_n) + slow_flat(r_a, e_n)
    for outputs in (f_n, f_a):
        for x, y in zip(outputs, e_n, strict=True):
            expected += mean(list(slow_map(x, y).values()))
    assert float(detector.branches_loss(changed_batch())) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("teacher", ["resnet18", SMALL])
def test_the_teachers_gradient_is_the_same_through_shared_features(teacher: str) -> None:
    detector = build(BiKD, lively(teacher)).train()
    assert detector.trained_teacher is not None
    seen: list[Tensor] = []
    detector.trained_teacher.register_forward_hook(lambda m, inputs, _: seen.append(inputs[0]))
    given = changed_batch()
    parameters = list(detector.trained_teacher.parameters())
    detector.student_loss(given).backward()
    shared = torch.autograd.grad(detector.teacher_loss(given), parameters)
    assert len(seen) == 2
    alone = torch.autograd.grad(detector.teacher_loss(given), parameters)
    assert len(seen) == 4
    torch.testing.assert_close(shared, alone)
    detector.student_loss(given)
    other = changed_batch()
    detector.teacher_loss(other)  # features of one batch never answer for another
    assert seen[-2] is other.images


def test_the_reciprocal_map_compares_student_and_trained_teacher() -> None:
    detector = build(BiKD, SMALL, teacher_lr=1e-2)
    iterate_steps(detector, [changed_batch()])
    detector.eval()
    assert detector.trained_teacher is not None
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = detector.trained_teacher(images)
        expected = summed_map(features, detector.student(features), images)
        pretrained = detector.teacher(images)
        other = summed_map(pretrained, detector.student(pretrained), images)
        assert torch.equal(detector.anomaly_map(images), expected)
    assert not torch.allclose(other, expected, atol=1e-4)


def test_the_two_branches_map_sums_maps_in_units_of_their_healthy_spread() -> None:
    detector = build(BiKD, SMALL, variant="two_branch")
    iterate_steps(detector, [changed_batch(), changed_batch()])
    detector.eval()
    healthy, images = changed_batch(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = detector.anomaly_map(images)
        detector.collect(healthy)
        detector.finish(torch.Generator())
        expected = torch.zeros(2, 64, 64)
        for network in (detector.encoder, None):
            one, other = (
                summed_map(
                    detector.teacher(x),
                    detector.student(detector.teacher(x)) if network is None else network(x),
                    x,
                )
                for x in (images, healthy.images)
            )
            expected += one / other[healthy.region].std(correction=0)
        found = detector.anomaly_map(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, before, rtol=0.1)


def test_the_scale_is_the_deviation_inside_the_region_over_all_batches() -> None:
    scale = HealthyScale()
    regions = [torch.rand(3, 8, 8) < share for share in (0.5, 0.9, 0.0)]
    maps = [torch.rand(3, 8, 8) * (k + 1) + 5 for k in range(3)]
    for one, region in zip(maps, regions, strict=True):
        scale.add(torch.where(region, one, 1e3), region)
    scale.finish()
    inside = torch.cat([one[region] for one, region in zip(maps, regions, strict=True)])
    torch.testing.assert_close(
        scale(maps[0]), maps[0] / inside.std(correction=0), rtol=1e-5, atol=0
    )
    untouched = HealthyScale()
    untouched.add(maps[0], regions[2])
    untouched.finish()  # no pixel was seen
    assert torch.equal(untouched(maps[0]), maps[0])


def test_a_student_that_says_the_same_everywhere_raises_the_alarm() -> None:
    detector = build(BiKD, lively(SMALL)).train()
    deepest = detector.student.get_submodule("1.stages.0")
    deepest.register_forward_hook(lambda module, inputs, output: torch.ones_like(output))
    detector.student_loss(changed_batch())
    fault = detector.fault()
    assert fault is not None
    assert "student" in fault
    assert "level 3" in fault


def test_the_watch_knows_directions_from_lengths_and_forgives_flat_images() -> None:
    monitor = CollapseMonitor()
    reference = [torch.randn(4, 6, 8, 8)]
    monitor.see("net", [reference[0] * 1e-3], reference)  # short, but as varied
    assert monitor.fault() is None
    flat = [torch.ones(4, 6, 8, 8)]
    monitor.see("other", flat, flat)
    assert monitor.fault() is None
    monitor.see("third", [torch.full((4, 6, 8, 8), math.nan)], reference)
    assert "third" in str(monitor.fault())


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_few_dozen_steps_lower_the_loss_and_find_an_anomaly(variant: Variant) -> None:
    detector = build(BiKD, SMALL, variant=variant, teacher_lr=1e-4).train()
    losses = iterate_steps(detector, [square_phantoms(4) for _ in range(30)])
    first, last = torch.tensor(losses[:3]).mean(0), torch.tensor(losses[-3:]).mean(0)
    assert bool((last < 0.7 * first).all())
    assert detector.fault() is None
    detector.eval()
    given = square_phantoms(8)
    images, mask = given.changed()
    with torch.no_grad():
        found = detector.anomaly_map(images)
    assert auroc(found[mask], found[~mask]) > 0.7


def test_the_module_says_that_it_is_a_reconstruction() -> None:
    text = str(bikd_module.__doc__)
    assert "RECONSTRUCTION" in text.splitlines()[0]
    assert "do not claim the paper's numbers" in " ".join(text.split())
