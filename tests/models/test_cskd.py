"""CSKD, a reconstruction: the attention embeddings, the loss, the map, and what trains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medrd.config import TeacherConfig
from medrd.models.cosine import summed_map
from medrd.models.cskd import CSKD, attention_embedding
from medrd.models.detector import Batch
from medrd.run.teacher_weights import load_teacher_weights
from training import (
    SMALL,
    assert_a_square_stands_out,
    build,
    count,
    iterate,
    levels,
    phantoms,
    slow_flat,
    slow_map,
)


def batch(images: Tensor | None = None) -> Batch:
    pictures = torch.rand(2, 3, 64, 64) if images is None else images
    return Batch(pictures, torch.ones_like(pictures[:, 0], dtype=torch.bool))


def embedding(channels: int) -> int:
    """Parameters of an embedding of a quarter of the channels."""
    width = channels // 4
    convolutions = 2 * channels * width + 9 * width**2
    norms = 4 * width + 2 * channels
    attention = 2 * width * (width // 4) + 2 * 7 * 7 + 2
    return convolutions + norms + attention


def test_the_student_is_the_teachers_architecture_with_an_embedding_behind_each_level() -> None:
    with torch.device("meta"):
        detector = build(CSKD, "wide_resnet50_2")
    assert count(detector.teacher) == count(detector.student) == 24_862_528
    assert count(detector.embeddings) == sum(map(embedding, (256, 512, 1024)))
    (step,) = detector.steps()
    assert sum(p.numel() for p in step.parameters) == count(detector.student, detector.embeddings)
    assert step.optimizer.kind == "adam"


@pytest.mark.parametrize("loss", ["global", "pixel"])
def test_the_loss_is_its_formula_written_as_a_loop(loss: str) -> None:
    detector = build(CSKD, SMALL, loss=loss).eval()
    targets, outputs = levels(), levels()
    detector.features = lambda images: (targets, outputs)  # type: ignore[method-assign]
    if loss == "global":
        expected = slow_flat(targets, outputs)
    else:
        maps = [slow_map(a, b).values() for a, b in zip(targets, outputs, strict=True)]
        expected = sum(sum(each) / len(each) for each in maps)
    assert float(detector.distillation_loss(batch())) == pytest.approx(expected, rel=1e-5)


def test_attention_weighs_channels_then_positions_of_the_narrow_embedding() -> None:
    network = attention_embedding(8, 2, signed=False).eval()
    assert isinstance(network, nn.Sequential)
    narrow, wider, attention, back, norm, relu = network
    first, second = (
        attention.channel.fc1.weight[:, :, 0, 0],
        attention.channel.fc2.weight[:, :, 0, 0],
    )
    with torch.no_grad():
        level = torch.randn(2, 8, 9, 9)
        x = wider(narrow(level))
        assert x.shape == (2, 4, 9, 9)
        pooled = [(p @ first.T).relu() @ second.T for p in (x.mean((2, 3)), x.amax((2, 3)))]
        x = x * (pooled[0] + pooled[1]).sigmoid()[:, :, None, None]
        x = x * attention.spatial.conv(torch.stack([x.mean(1), x.amax(1)], 1)).sigmoid()
        torch.testing.assert_close(network(level), relu(norm(back(x))), atol=1e-5, rtol=1e-5)
    assert isinstance(relu, nn.ReLU)
    assert not isinstance(attention_embedding(8, 2, signed=True)[-1], nn.ReLU)  # type: ignore[index]


def test_the_map_is_rd4ads_of_the_embedded_levels() -> None:
    detector = build(CSKD, SMALL).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        pairs = zip(detector.embeddings, detector.student(images), strict=True)
        embedded = [network(level) for network, level in pairs]
        expected = summed_map(detector.teacher(images), embedded, images)
        assert torch.equal(detector.anomaly_map(images), expected)


@pytest.mark.slow
def test_a_phantoms_planted_anomaly_stands_out_after_training() -> None:
    detector = build(CSKD, "tf_efficientnet_lite0")
    load_teacher_weights(detector.teacher, TeacherConfig())
    detector.train()
    losses = iterate(detector, [batch(phantoms(4)) for _ in range(40)])
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    assert_a_square_stands_out(detector, 0.85)
