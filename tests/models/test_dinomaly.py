"""Dinomaly against the released code: its size, attention, groups, mining, optimiser and map."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrd.models.build import shapes_only
from medrd.models.detector import Batch, ParameterGroup, Step
from medrd.models.dinomaly import Dinomaly, LinearAttention, mined_distance
from medrd.training.loop import descend, make_optimizers
from training import (
    SMALL_VIT,
    build,
    count,
    iterate,
    phantoms,
    slow_distance,
    slow_flat,
)


def batch(progress: float, images: Tensor | None = None) -> Batch:
    pictures = torch.rand(2, 3, 32, 48) if images is None else images
    region = torch.ones_like(pictures[:, 0], dtype=torch.bool)
    return Batch(pictures, region, progress=progress)


def test_vit_base_has_the_released_networks_sizes() -> None:
    with shapes_only():
        detector = build(Dinomaly, "vit_base_patch14_reg4_dinov2")
    width, mlp = 768, 2 * 4 * 768**2 + 5 * 768
    block = 4 * width**2 + 4 * width + mlp + 4 * width  # attention, MLP, two LayerNorms
    assert count(detector.bottleneck) == mlp
    assert count(detector.decoder) == 8 * block
    patches = 3 * 14**2 * width + width
    tokens = (1 + 4 + 37**2) * width
    scales = 2 * width  # LayerScale
    assert count(detector.teacher) == patches + tokens + 10 * (block + scales)  # no block after 9
    assert detector.teacher.layers == tuple(range(2, 10))
    assert detector.size_multiple == 14
    attention = detector.decoder[0].get_submodule("attention")
    assert attention.heads == 12


def test_the_student_starts_as_released() -> None:
    detector = build(Dinomaly, "vit_tiny_patch16_224", dropout=0.3)
    trained = [*detector.bottleneck.modules(), *detector.decoder.modules()]
    drops = [m.p for m in detector.bottleneck.modules() if isinstance(m, nn.Dropout)]
    assert drops == [0.3] * 3
    assert {m.eps for m in trained if isinstance(m, nn.LayerNorm)} == {1e-8}
    linear = [m for m in trained if isinstance(m, nn.Linear)]
    assert len(linear) == 2 + 8 * 4
    for layer in linear:
        assert float(layer.weight.detach().abs().max()) <= 0.03
        assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
        assert not layer.bias.any()


def test_linear_attention_is_its_formula_written_as_a_loop() -> None:
    attention = LinearAttention(6, heads=2)
    tokens = 3 * torch.randn(2, 5, 6)
    expected = torch.empty(2, 5, 6)
    with torch.no_grad():
        q, k, v = attention.qkv(tokens).split(6, dim=-1)
        for n in range(2):
            for head in (slice(0, 3), slice(3, 6)):
                for i in range(5):
                    weights = [
                        float((F.elu(q[n, i, head]) + 1) @ (F.elu(k[n, j, head]) + 1))
                        for j in range(5)
                    ]
                    shares = [weight / sum(weights) for weight in weights]
                    expected[n, i, head] = sum(s * v[n, j, head] for j, s in enumerate(shares))
        torch.testing.assert_close(attention(tokens), attention.proj(expected))


def test_attention_to_very_negative_features_stays_finite_in_bfloat16() -> None:
    attention = LinearAttention(64, heads=1)
    with torch.no_grad():
        attention.qkv.bias[:128] = -20.0  # ELU + 1 computed as such would be 0 / 0
        with torch.autocast("cpu", torch.bfloat16):
            assert bool(attention(torch.randn(1, 5, 64)).isfinite().all())


def test_groups_are_means_and_the_last_block_gives_the_first_layer_back() -> None:
    detector = build(Dinomaly, SMALL_VIT).eval()
    layers = [torch.randn(2, 1 + 2 * 3, 64) for _ in range(6)]
    detector.teacher.forward = lambda images: layers  # type: ignore[method-assign]
    seen = []
    for module in (detector.bottleneck, *detector.decoder):
        module.register_forward_hook(lambda *given: seen.append((given[1][0], given[2])))
    with torch.no_grad():
        targets, outputs = detector.features(torch.rand(2, 3, 32, 48))
    (mixed, bottleneck), *blocks = seen
    torch.testing.assert_close(mixed, sum(layers) / 6)
    assert torch.equal(blocks[0][0], bottleneck)  # each takes what the one before it gives
    for before, after in itertools.pairwise(blocks):
        assert torch.equal(before[1], after[0])
    decoded = [output for _, output in blocks]
    for found, members in (
        (targets[0], layers[:3]),
        (targets[1], layers[3:]),
        (outputs[0], decoded[3:]),
        (outputs[1], decoded[:3]),
    ):
        patches = (sum(members) / 3)[:, 1:]  # without the class token
        assert found.shape == (2, 64, 2, 3)
        for row in range(2):
            for column in range(3):
                torch.testing.assert_close(found[:, :, row, column], patches[:, 3 * row + column])


def test_the_loss_is_its_formula_written_as_a_loop_whatever_is_mined() -> None:
    detector = build(Dinomaly, SMALL_VIT)
    targets, outputs = ([torch.randn(2, 5, 4, 3) for _ in range(2)] for _ in range(2))
    detector.features = lambda images: (targets, outputs)  # type: ignore[method-assign]
    expected = slow_flat(targets, outputs) / 2
    for progress in (0.0, 0.1, 0.9):
        found = float(detector.distillation_loss(batch(progress)))
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("progress", "easy"), [(0.0, 0), (0.05, 14), (0.1, 27), (0.2, 55), (1, 55)]
)
def test_easy_points_have_a_tenth_of_the_gradient_and_their_share_rises(
    progress: float, easy: int
) -> None:
    """Against the released hook, with the points of both images ranked together by hand."""
    detector = build(Dinomaly, SMALL_VIT)
    target = torch.randn(2, 6, 5, 6)
    output = (target + torch.rand(2, 1, 5, 6) * torch.randn(2, 6, 5, 6)).requires_grad_(True)
    detector.features = lambda images: ([target], [output])  # type: ignore[method-assign]
    detector.distillation_loss(batch(progress)).backward()
    distances = [
        slow_distance(target[n, :, i, j].tolist(), output[n, :, i, j].tolist())
        for n in range(2)
        for i in range(5)
        for j in range(6)
    ]
    limit = sorted(distances)[easy]
    factor = torch.tensor([0.1 if d < limit else 1.0 for d in distances]).view(2, 1, 5, 6)
    plain = output.detach().clone().requires_grad_(True)
    (1 - F.cosine_similarity(target.flatten(1), plain.flatten(1))).mean().backward()
    assert output.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(output.grad, plain.grad * factor, atol=1e-7, rtol=1e-5)


def test_a_single_point_is_hard() -> None:
    output = torch.randn(1, 4, 1, 1, requires_grad=True)
    mined_distance(torch.randn(1, 4, 1, 1), output, 0.9).backward()
    assert output.grad is not None
    assert bool(output.grad.any())


def test_the_learning_rate_warms_up_and_falls_to_its_last_value() -> None:
    (step,) = build(Dinomaly, SMALL_VIT).steps()
    assert step.optimizer.settings == {"lr": 2e-3, "weight_decay": 1e-4, "amsgrad": True}
    schedule = step.optimizer.schedule
    assert schedule is not None
    found = [2e-3 * schedule(p) for p in (0.0, 0.01, 0.02, 0.51, 1.0)]
    assert found == pytest.approx([0, 1e-3, 2e-3, 1.1e-3, 2e-4])


def test_a_step_is_the_released_stable_adamw_with_its_clipped_gradient() -> None:
    """The released optimiser as a loop; a gradient that jumps is what its clipping is for."""
    (of_detector,) = build(Dinomaly, SMALL_VIT).steps()
    weights = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))]
    gradients = [[torch.randn_like(w) * size for w in weights] for size in (1e-3, 1e-3, 5.0, 1e-2)]
    expected = [w.detach().double().clone() for w in weights]
    mean, square, largest = ([torch.zeros_like(w) for w in expected] for _ in range(3))
    lr, decay = 2e-3, 1e-4
    clipped = 0
    for time, given in enumerate(gradients, start=1):
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in given))
        for i, each in enumerate(given):
            g = each.double() * min(1, 0.1 / norm)
            expected[i] *= 1 - lr * decay
            mean[i] = 0.9 * mean[i] + 0.1 * g
            square[i] = 0.999 * square[i] + 0.001 * g**2
            largest[i] = torch.maximum(largest[i], square[i])
            scale = largest[i].sqrt() / math.sqrt(1 - 0.999**time) + 1e-8
            excess = max(1.0, float((g / scale).square().mean().sqrt()))
            clipped += excess > 1
            expected[i] -= lr / (1 - 0.9**time) / excess * mean[i] / scale
    assert clipped >= 2

    current: list[Tensor] = []
    step = Step(
        "x",
        [ParameterGroup(weights)],
        of_detector.optimizer,
        lambda batch: torch.stack(
            [(w * g).sum() for w, g in zip(weights, current, strict=True)]
        ).sum(),
    )
    (optimizer,) = make_optimizers([step]).values()
    for given in gradients:
        current[:] = given
        descend(step, optimizer, step.loss(batch(0)))
    for mine, theirs in zip(weights, expected, strict=True):
        torch.testing.assert_close(mine.detach().double(), theirs, atol=1e-7, rtol=1e-5)


def test_the_map_is_the_mean_of_the_groups_distances_enlarged() -> None:
    detector = build(Dinomaly, SMALL_VIT).eval()
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        targets, outputs = detector.features(images)
        found = detector.anomaly_map(images)
    levels = [
        (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)))[:, None]
        for a, b in zip(targets, outputs, strict=True)
    ]
    expected = F.interpolate(sum(levels) / 2, (32, 48), mode="bilinear", align_corners=True)
    torch.testing.assert_close(found, expected[:, 0], atol=1e-5, rtol=0)


def test_a_student_learns_a_random_transformers_features() -> None:
    detector = build(Dinomaly, SMALL_VIT, dropout=0.0).train()
    losses = iterate(detector, [batch(0.5, phantoms(4)) for _ in range(30)])
    assert losses[-1] < 0.1 * losses[0]
