"""RD++ against its specification, and the Sinkhorn divergence against exact transport."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment, linprog
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from medrd.models.build import shapes_only
from medrd.models.cosine import summed_map
from medrd.models.detector import Batch
from medrd.models.rdpp import RDPP, paired_transport, projection
from medrd.models.sinkhorn import sinkhorn_divergence
from training import SMALL, build, count, iterate, slow_distance, slow_flat, slow_map

DIAMETER = 10.0  # no points here are farther apart


def batch(size: int = 64, images: int = 2) -> Batch:
    pictures = torch.rand(images, 3, size, size)
    simulated, mask = pictures.clone(), torch.zeros(images, size, size, dtype=torch.bool)
    mask[:, 20:36, 24:44] = True
    simulated += 0.2 * torch.randn_like(simulated) * mask[:, None]
    return Batch(pictures, torch.ones_like(mask), simulated.clamp(0, 1), mask)


# ---------------------------------------------------------------- the networks


def test_wide_resnet50_has_the_released_parameter_counts() -> None:
    with shapes_only():
        detector = build(RDPP, "wide_resnet50_2")
    # C -> C/2 -> C/4 -> C/2 -> C by 3x3 convolutions: 9 * 5/4 C^2 weights, 9/4 C biases
    counts = [count(each) for each in detector.projections]
    assert counts == [9 * 5 * c * c // 4 + 9 * c // 4 for c in (256, 512, 1024)]
    assert sum(counts) == 15_486_912
    assert count(detector.bottleneck, detector.decoder) == 83_802_624
    assert count(detector.teacher) == 24_862_528
    assert sum(p.numel() for p in detector.parameters() if p.requires_grad) == 99_289_536


def test_student_and_projections_are_optimised_at_their_own_rates() -> None:
    detector = build(RDPP, SMALL, lr=0.02, projection_lr=0.004)
    (step,) = detector.steps()
    student, projections = step.groups
    assert step.optimizer.settings == {"lr": 0.02, "betas": (0.5, 0.999)}
    assert step.optimizer.schedule is None
    assert student.settings == {}
    assert projections.settings == {"lr": 0.004}
    assert sum(p.numel() for p in projections.parameters) == count(detector.projections)
    assert {id(p) for p in step.parameters} == {
        id(p) for p in detector.parameters() if p.requires_grad
    }


def test_a_projection_normalises_each_slice_by_itself() -> None:
    network = projection(16).train()
    x = torch.randn(3, 16, 8, 8)
    together = network(x)
    assert together.shape == x.shape
    torch.testing.assert_close(together[1:2], network(x[1:2]))
    before = torch.where(together < 0, together * 100, together)  # LeakyReLU undone
    torch.testing.assert_close(before.mean((2, 3)), torch.zeros(3, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        before.var((2, 3), correction=0), torch.ones(3, 16), atol=0.02, rtol=0
    )


@pytest.mark.parametrize(
    ("teacher", "size"), [("resnet18", 64), ("tf_efficientnet_lite0", 96), ("resnet26", 32)]
)
def test_the_map_compares_teacher_and_student_fed_with_projections(teacher: str, size: int) -> None:
    detector = build(RDPP, teacher).eval()
    assert size % detector.size_multiple == 0
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        levels = detector.teacher(images)
        projected = [each(level) for each, level in zip(detector.projections, levels, strict=True)]
        outputs = detector.decoder(detector.bottleneck(projected))
        expected = summed_map(levels, outputs, images)
        torch.testing.assert_close(detector(images), expected)


# ---------------------------------------------------------------- the losses


def some_levels(shift: float = 0.0) -> list[Tensor]:
    return [torch.randn(2, c, s, s) + shift for c, s in ((3, 4), (5, 2))]


def test_projection_losses_are_their_formula_written_as_a_loop() -> None:
    detector = build(RDPP, SMALL)
    noisy, projected_noisy, projected = some_levels(1), some_levels(1), some_levels(1)
    noisy[0][0] = projected[0][0] + 0.1  # one above the margin for certain,
    noisy[1][1] = -projected[1][1]  # and one below it
    reconstruct = contrast = 0.0
    for n, pn, p in zip(noisy, projected_noisy, projected, strict=True):
        distances = slow_map(pn, p)
        reconstruct += sum(distances.values()) / len(distances)
        contrast += sum(
            max(0.0, 0.5 - slow_distance(a.flatten().tolist(), b.flatten().tolist())) / 2
            for a, b in zip(n, p, strict=True)
        )
    assert contrast > 0.1
    expected = (0.01 * reconstruct + 0.1 * contrast) / 1.11
    found = detector.projection_loss(noisy, projected_noisy, projected)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_the_total_adds_the_weighted_projection_losses_to_the_distillation() -> None:
    given = batch()
    simulated, _ = given.changed()
    detector = build(RDPP, SMALL)
    clean, noisy = detector.teacher(given.images), detector.teacher(simulated)
    projected = detector.project(clean)
    outputs = detector.decoder(detector.bottleneck(projected))
    distil = slow_flat(clean, outputs)
    added = float(detector.projection_loss(noisy, detector.project(noisy), projected).detach())
    assert added > 0
    assert float(detector.loss(given).detach()) == pytest.approx(distil + 0.2 * added, abs=1e-5)
    detector.settings = detector.settings.model_copy(update={"projection_weight": 0})
    assert float(detector.loss(given).detach()) == pytest.approx(distil, abs=1e-5)


def test_pairs_add_the_transport_between_neighbours_in_the_batch() -> None:
    levels = [torch.randn(3, 6, 16, 16), torch.randn(3, 5, 4, 4)]
    batchwise = build(RDPP, SMALL).projection_loss(levels, levels, levels)
    paired = build(RDPP, SMALL, transport="pairs").projection_loss(levels, levels, levels)
    expected = 0.0
    for level, size in zip(levels, (8, 4), strict=True):
        points = nn.functional.adaptive_avg_pool2d(level, size).flatten(2).mT
        points = points / points.norm(dim=2, keepdim=True)
        for i, j in ((0, 2), (1, 0), (2, 1)):
            expected += (
                float(sinkhorn_divergence(points[i : i + 1], points[j : j + 1], diameter=DIAMETER))
                / 3
            )
    assert expected > 0.1
    # The levels of annealing come from the whole batch there: alike, not equal.
    assert float(paired - batchwise) == pytest.approx(expected / 1.11, rel=1e-2)
    assert float(paired_transport(levels[0][:1])) == pytest.approx(0, abs=1e-6)  # its own partner


# ---------------------------------------------------------------- what trains


def stripes(images: int) -> Tensor:
    """Healthy pictures: soft stripes at random phases."""
    phase = 6.3 * torch.rand(images, 1, 1)
    axis = torch.linspace(0, 12, 64)
    picture = 0.5 + 0.3 * torch.sin(axis[:, None] + 0 * axis + phase)
    return picture[:, None].repeat(1, 3, 1, 1)


@pytest.mark.slow
def test_it_learns_and_finds_a_planted_anomaly() -> None:
    detector = build(RDPP, "resnet18").train()
    batches = []
    for _ in range(15):
        images, given = stripes(4), batch(images=4)
        simulated, mask = given.changed()
        noise = (simulated - given.images) * mask[:, None]
        batches.append(Batch(images, given.region, (images + noise).clamp(0, 1), mask))
    losses = iterate(detector, batches)
    # Means, since single losses differ between processors, which round differently.
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    detector.eval()
    sick, lesion = stripes(4), torch.zeros(4, 64, 64, dtype=torch.bool)
    lesion[:, 24:44, 16:36] = True
    sick = torch.where(lesion[:, None], sick.flip(3).mT, sick)  # stripes across
    with torch.no_grad():
        found = detector(sick)
    assert roc_auc_score(lesion.flatten().numpy(), found.flatten().numpy()) > 0.75


# ---------------------------------------------------------------- transport


def half_squares(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None] - y[None]).square().sum(2) / 2


def test_at_little_blur_the_divergence_is_the_exact_transport_cost() -> None:
    x, y = torch.rand(2, 6, 3), torch.rand(2, 6, 3)
    found = sinkhorn_divergence(x, y, blur=0.005, scaling=0.97, diameter=DIAMETER)
    for a, b, value in zip(x, y, found, strict=True):
        costs = half_squares(a, b)
        rows, columns = linear_sum_assignment(costs.numpy())
        assert float(value) == pytest.approx(float(costs[rows, columns].mean()), rel=2e-3)


def test_sets_of_different_sizes_are_transported_too() -> None:
    x, y = torch.rand(1, 4, 2), torch.rand(1, 6, 2)
    costs = half_squares(x[0], y[0]).flatten().numpy()
    plan = torch.arange(24).view(4, 6)
    marginals = [(plan // 6 == i).flatten().double().numpy() for i in range(4)]
    marginals += [(plan % 6 == j).flatten().double().numpy() for j in range(6)]
    exact = linprog(costs, A_eq=marginals, b_eq=[1 / 4] * 4 + [1 / 6] * 6).fun
    found = sinkhorn_divergence(x, y, blur=0.005, scaling=0.97, diameter=DIAMETER)
    assert float(found) == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("blur", [0.05, 0.5, 5.0])
def test_debiased_a_shifted_set_costs_half_the_squared_shift_at_any_blur(blur: float) -> None:
    x = torch.rand(1, 12, 4, requires_grad=True)
    shift = torch.tensor([0.05, -0.1, 0.0, 0.02])
    found = sinkhorn_divergence(x, x.detach() + shift, blur=blur, scaling=0.97, diameter=DIAMETER)
    assert float(found.detach()) == pytest.approx(float(shift.square().sum()) / 2, rel=0.02)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    if blur > 0.1:  # at less the plan is nearly a permutation, and slow to settle
        torch.testing.assert_close(12 * gradient[0], -shift.expand(12, 4), atol=2e-3, rtol=0)


def test_the_gradient_is_that_of_the_value() -> None:
    x = torch.rand(1, 5, 3, requires_grad=True)
    y, direction = torch.rand(1, 4, 3), torch.randn(1, 5, 3)

    def value(points: Tensor) -> Tensor:
        return sinkhorn_divergence(points, y, blur=0.5, scaling=0.95, diameter=DIAMETER)

    (gradient,) = torch.autograd.grad(value(x).sum(), x)
    small = 1e-2
    slope = (value(x + small * direction) - value(x - small * direction)) / (2 * small)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope.detach()), rel=1e-2)


def test_the_released_transport_term_is_zero_since_a_shuffled_batch_is_the_same_set() -> None:
    features = torch.randn(16, 12, 8, 8, requires_grad=True)
    rows = features.flatten(1).softmax(1)[None]
    term = sinkhorn_divergence(rows, rows[:, torch.randperm(16)], diameter=DIAMETER)
    (gradient,) = torch.autograd.grad(term.sum(), features)
    other = sinkhorn_divergence(rows, torch.randn(1, 16, 768).softmax(2), diameter=DIAMETER)
    assert abs(float(term.detach())) < 1e-3 * float(other.detach())
    assert float(gradient.abs().max()) < 1e-9


def test_points_far_from_the_origin_keep_their_small_distances() -> None:
    x, y = torch.rand(1, 6, 3), torch.rand(1, 6, 3)
    near = sinkhorn_divergence(x, y, diameter=DIAMETER)
    torch.testing.assert_close(
        sinkhorn_divergence(x + 100, y + 100, diameter=DIAMETER), near, atol=1e-4, rtol=1e-3
    )


def test_a_diverged_network_ends_in_no_endless_annealing() -> None:
    x = torch.full((1, 3, 2), math.inf)
    assert not bool(sinkhorn_divergence(x, torch.rand(1, 3, 2), diameter=DIAMETER).isfinite())
