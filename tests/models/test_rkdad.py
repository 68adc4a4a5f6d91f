"""RKDAD, a reconstruction: the FSP matrices, the loss, the map, and what trains."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medrd.config import TeacherConfig
from medrd.models.detector import Batch
from medrd.models.rkdad import RKDAD, fsp_matrix
from medrd.run.teacher_weights import load_teacher_weights
from training import SMALL, assert_a_square_stands_out, build, count, iterate, phantoms

SHAPES = ((2, 3, 8, 8), (2, 5, 4, 4), (2, 4, 2, 2))


def batch(images: Tensor | None = None) -> Batch:
    pictures = torch.rand(2, 3, 64, 64) if images is None else images
    return Batch(pictures, torch.ones_like(pictures[:, 0], dtype=torch.bool))


def with_levels(targets: list[Tensor], outputs: list[Tensor]) -> RKDAD:
    detector = build(RKDAD, SMALL, feature_weight=0.3).eval()
    detector.features = lambda images: (targets, outputs)  # type: ignore[method-assign]
    return detector


def unit(vector: Tensor) -> Tensor:
    return vector / vector.square().sum().sqrt()


def products(levels: list[Tensor], image: int) -> list[dict[tuple[int, int], Tensor]]:
    """Outer products of adjacent levels, by pair and position; the larger level is max-pooled."""
    found = []
    for level, deeper in pairwise(levels):
        side, ratio = deeper.shape[-1], level.shape[-1] // deeper.shape[-1]
        of_pair = {}
        for i in range(side):
            for j in range(side):
                window = level[image, :, ratio * i : ratio * (i + 1), ratio * j : ratio * (j + 1)]
                a, b = unit(window.amax((1, 2))), unit(deeper[image, :, i, j])
                of_pair[i, j] = torch.outer(a, b)
        found.append(of_pair)
    return found


def slow_fsp(targets: list[Tensor], outputs: list[Tensor], image: int) -> float:
    total = 0.0
    for a, b in zip(products(targets, image), products(outputs, image), strict=True):
        difference = sum(a.values()) / len(a) - sum(b.values()) / len(b)  # type: ignore[operator]
        total += float(difference.square().sum())
    return total


def test_the_student_is_as_large_as_the_teacher_and_alone_optimised() -> None:
    with torch.device("meta"):
        detector = build(RKDAD, "resnet18")
    assert count(detector.teacher) == count(detector.student) == 2_782_784
    (step,) = detector.steps()
    assert sum(p.numel() for p in step.parameters) == 2_782_784
    assert step.optimizer.kind == "adam"
    assert step.optimizer.settings == {"lr": 0.005, "betas": (0.9, 0.999)}


def test_loss_and_image_score_are_their_formulas_written_as_loops() -> None:
    targets = [torch.randn(shape) for shape in SHAPES]
    outputs = [torch.randn(shape) for shape in SHAPES]
    detector = with_levels(targets, outputs)
    relations = [slow_fsp(targets, outputs, image) for image in range(2)]
    features = 0.0
    for a, b in zip(targets, outputs, strict=True):
        vectors = zip(a.movedim(1, -1).flatten(0, 2), b.movedim(1, -1).flatten(0, 2), strict=True)
        distances = [float((unit(u) - unit(v)).square().sum()) for u, v in vectors]
        features += sum(distances) / len(distances)
    found = float(detector.distillation_loss(batch()))
    assert found == pytest.approx(sum(relations) / 2 + 0.3 * features, rel=1e-5)
    given = batch()
    _, score = detector.map_and_score(given.images, given.region)
    assert score.tolist() == pytest.approx(relations, rel=1e-5)


def test_the_map_is_the_distance_of_the_products_at_each_position() -> None:
    targets = [torch.randn(shape) for shape in SHAPES]
    outputs = [torch.randn(shape) for shape in SHAPES]
    found = with_levels(targets, outputs).anomaly_map(torch.rand(2, 3, 32, 32))
    expected = torch.zeros(2, 32, 32)
    for image in range(2):
        pairs = zip(products(targets, image), products(outputs, image), strict=True)
        for side, (a, b) in zip((4, 2), pairs, strict=True):
            level = torch.zeros(1, 1, side, side)
            for i, j in a:
                level[..., i, j] = (a[i, j] - b[i, j]).square().sum()
            expected[image] += F.interpolate(level, (32, 32), mode="bilinear")[0, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_image_score_does_not_depend_on_where_features_are_and_the_map_does() -> None:
    levels = [torch.randn(shape) for shape in SHAPES]
    detector = with_levels(levels, [level.flip(-1) for level in levels])
    images = torch.rand(2, 3, 32, 32)
    found, score = detector.map_and_score(images, images[:, 0] > 0)
    assert float(score.max()) < 1e-9
    assert float(found.mean()) > 0.1


def test_matrices_under_bfloat16_are_computed_in_float32() -> None:
    a, b = torch.randn(1, 7, 16, 16), torch.randn(1, 9, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fsp_matrix(a, b)
    assert torch.equal(found, fsp_matrix(a, b))


@pytest.mark.slow
def test_a_phantoms_planted_anomaly_stands_out_after_training() -> None:
    detector = build(RKDAD, "tf_efficientnet_lite0")
    load_teacher_weights(detector.teacher, TeacherConfig())
    detector.train()
    losses = iterate(detector, [batch(phantoms(4)) for _ in range(40)])
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    assert_a_square_stands_out(detector, 0.85)
    healthy = phantoms(8)
    changed = healthy.clone()
    changed[:, :, 24:36, 28:40] = 1
    with torch.no_grad():
        scores = [detector.map_and_score(x, x[:, 0] > 0)[1] for x in (changed, healthy)]
    assert (scores[0] > scores[1]).all()
