"""RD4AD against its specification: sizes, losses, maps, what trains and what must not."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrd.models.build import shapes_only
from medrd.models.cosine import global_distance, pixel_distance, summed_map
from medrd.models.detector import Batch
from medrd.models.intensity import Intensity
from medrd.models.rd4ad import RD4AD
from medrd.models.teacher import Teacher
from training import SMALL, build, count, iterate, slow_flat, slow_map


@pytest.fixture(scope="module")
def resnet18() -> RD4AD:
    """Shared where it is only looked at."""
    torch.manual_seed(0)
    detector = build(RD4AD, "resnet18")
    return detector


def batch(size: int = 64, images: int = 2) -> Batch:
    pictures = torch.rand(images, 3, size, size)
    return Batch(pictures, torch.ones(images, size, size, dtype=torch.bool))


def test_wide_resnet50_has_the_papers_parameter_counts() -> None:
    with shapes_only():
        detector = build(RD4AD, "wide_resnet50_2")
    assert count(detector.teacher) == 24_862_528
    assert count(detector.decoder) == 24_917_504
    assert count(detector.bottleneck.fuse) == 10_621_952
    assert count(detector.bottleneck.embed) == 48_263_168
    assert sum(p.numel() for p in detector.parameters() if p.requires_grad) == 83_802_624
    assert sum(p.numel() for s in detector.steps() for p in s.parameters) == 83_802_624


def test_wide_resnet50_decoder_has_3_4_6_blocks_from_the_deepest_stage_on() -> None:
    with shapes_only():
        detector = build(RD4AD, "wide_resnet50_2")
        assert [len(stage) for stage in detector.decoder.stages] == [3, 4, 6]
        levels = detector.teacher(torch.empty(1, 3, 256, 256))
        embedding = detector.bottleneck(levels)
        outputs = detector.decoder(embedding)
    assert [tuple(x.shape[1:]) for x in levels] == [(256, 64, 64), (512, 32, 32), (1024, 16, 16)]
    assert tuple(embedding.shape[1:]) == (2048, 8, 8)
    assert [x.shape for x in outputs] == [x.shape for x in levels]


@pytest.mark.parametrize(
    ("teacher", "blocks", "depth", "signed"),
    [
        ("resnet26", [2, 2, 2], 2, False),
        ("resnet101", [3, 4, 23], 3, False),
        ("resnext50_32x4d", [3, 4, 6], 3, True),
    ],
)
def test_the_student_mirrors_any_resnet_and_is_generic_for_the_rest(
    teacher: str, blocks: list[int], depth: int, signed: bool
) -> None:
    with shapes_only():
        detector = build(RD4AD, teacher)
        targets, outputs = detector.features(torch.empty(1, 3, 64, 64))
    assert [t.shape for t in targets] == [o.shape for o in outputs]
    assert [len(stage) for stage in detector.decoder.stages] == blocks
    assert len(detector.bottleneck.embed) == depth
    # Blocks of three convolutions, as the teacher's, or of two.
    one_by_one = [
        module
        for name, module in detector.decoder.stages[0][1].named_modules()
        if isinstance(module, nn.Conv2d) and "body" in name and module.kernel_size == (1, 1)
    ]
    assert bool(one_by_one) == (not signed)


@pytest.mark.parametrize(
    ("teacher", "size"),
    [
        ("resnet18", 96),
        ("resnet26", 64),
        ("tf_efficientnet_lite0", 96),
        ("convnext_atto", 64),
        (SMALL, 64),
    ],
)
def test_student_levels_have_the_teachers_shapes(teacher: str, size: int) -> None:
    with shapes_only():
        detector = build(RD4AD, teacher).eval()
        targets, outputs = detector.features(torch.empty(2, 3, size, size))
    assert [t.shape for t in targets] == [o.shape for o in outputs]
    assert [size // t.shape[-1] for t in targets] == [4, 8, 16]


def test_images_of_a_multiple_of_size_multiple_fit_and_others_do_not(resnet18: RD4AD) -> None:
    assert resnet18.size_multiple == 32
    resnet18.eval()
    with torch.no_grad():
        assert resnet18.anomaly_map(torch.rand(1, 3, 96, 32)).shape == (1, 96, 32)
        with pytest.raises(RuntimeError):
            resnet18.anomaly_map(torch.rand(1, 3, 80, 80))


def test_a_teacher_with_negative_features_has_a_student_that_can_reach_them() -> None:
    detector = build(RD4AD, "tf_efficientnet_lite0")
    targets, outputs = detector.features(torch.rand(2, 3, 64, 64))
    for target, output in zip(targets, outputs, strict=True):
        assert target.min() < 0
        assert output.min() < 0


def test_a_resnets_student_ends_its_levels_with_relu_as_its_teacher_does(resnet18: RD4AD) -> None:
    _, outputs = resnet18.features(torch.rand(2, 3, 64, 64))
    assert all(float(output.detach().min()) == 0 for output in outputs)


@pytest.mark.parametrize("name", ["no_such_network", "vit_tiny_patch16_224"])
def test_a_teacher_without_the_levels_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Teacher(name)


def test_weights_start_as_released(resnet18: RD4AD) -> None:
    seen = set()
    for module in (*resnet18.bottleneck.modules(), *resnet18.decoder.modules()):
        if isinstance(module, nn.Conv2d):
            seen.add("conv")
            assert module.bias is None
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            expected = math.sqrt(2 / fan_out)
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.05)
        elif isinstance(module, nn.ConvTranspose2d):
            seen.add("transposed")
            assert module.bias is None
            # PyTorch's default: uniform within 1 / sqrt(fan in), as ConvTranspose2d counts it
            bound = 1 / math.sqrt(module.out_channels * module.kernel_size[0] ** 2)
            weight = module.weight.detach()
            assert float(weight.abs().max()) <= bound
            assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
        elif isinstance(module, nn.BatchNorm2d):
            seen.add("norm")
            assert bool((module.weight == 1).all())
            assert bool((module.bias == 0).all())
    assert seen == {"conv", "transposed", "norm"}


@pytest.mark.parametrize("form", ["global", "pixel"])
def test_the_loss_is_its_formula_written_as_a_loop(form: str) -> None:
    detector = build(RD4AD, SMALL, loss=form)
    levels = [(torch.randn(2, c, s, s), torch.randn(2, c, s, s)) for c, s in ((3, 4), (5, 2))]
    detector.features = lambda images: tuple(zip(*levels, strict=True))  # type: ignore[assignment,method-assign,return-value]
    if form == "global":
        expected = slow_flat(*zip(*levels, strict=True))
    else:
        expected = 0.0
        for a, b in levels:
            distances = slow_map(a, b)
            expected += sum(distances.values()) / len(distances)
    assert float(detector.distillation_loss(batch())) == pytest.approx(expected, abs=1e-6)


def test_the_map_sums_per_position_distances_enlarged_with_aligned_corners() -> None:
    a = [torch.randn(2, c, s, s) for c, s in ((4, 8), (6, 4), (8, 2))]
    b = [torch.randn_like(x) for x in a]
    expected = torch.zeros(2, 32, 24)
    for x, y in zip(a, b, strict=True):
        dot, norms = (x * y).sum(1), x.norm(dim=1) * y.norm(dim=1)
        level = (1 - dot / norms)[:, None]
        expected += F.interpolate(level, (32, 24), mode="bilinear", align_corners=True)[:, 0]
    found = summed_map(a, b, torch.empty(1, 3, 32, 24))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    # aligned corners: the corner pixel is the corner position itself
    corner = sum(float(pixel_distance(x, y)[0, 0, 0]) for x, y in zip(a, b, strict=True))
    assert float(found[0, 0, 0]) == pytest.approx(corner, abs=1e-6)


def test_cosines_of_bfloat16_features_are_computed_in_float32() -> None:
    a = torch.randn(2, 64, 8, 8)
    b = a + 0.02 * torch.randn_like(a)  # distances near 2e-4: less than a step of bfloat16
    low_a, low_b = a.bfloat16(), b.bfloat16()
    for distance in (global_distance, pixel_distance):
        found = distance(low_a, low_b)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, distance(low_a.float(), low_b.float()))
        assert found.unique().numel() > found.numel() // 2


def test_maps_under_bfloat16_are_close_to_those_in_float32(resnet18: RD4AD) -> None:
    resnet18.eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        exact = resnet18.anomaly_map(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = resnet18.anomaly_map(images)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert float((rounded - exact).abs().max()) < 0.03 * float(exact.max())


@pytest.mark.slow
def test_a_dozen_steps_lower_the_loss() -> None:
    detector = build(RD4AD, "resnet18").train()
    ramp = torch.linspace(0, 1, 64)
    images = torch.stack([(ramp[:, None] * k + ramp[None] * (1 - k)) for k in (0.2, 0.8)])
    given = Batch(images[:, None].repeat(1, 3, 1, 1), torch.ones(2, 64, 64, dtype=torch.bool))
    losses = iterate(detector, [given] * 12)
    assert losses[-1] < 0.35 * losses[0]


def test_intensity_returns_the_channel_that_was_asked_for() -> None:
    images = torch.rand(2, 3, 8, 8)
    detector = build(Intensity, channel=2)
    assert detector.steps() == []
    found: Tensor = detector(images)
    assert torch.equal(found, images[:, 2])
