"""RDSeg: its loss and map as formulas, what learns from what, and that it finds what it should."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrd.models.detector import Batch
from medrd.models.rdseg import RDSeg, agreement, mirror_image, outline_loss
from training import (
    SMALL,
    Answers,
    auroc,
    build,
    changed_batch,
    iterate,
    levels,
    lively,
    phantoms,
    slow_flat,
)


class Says(nn.Module):
    """A head that says what it was told to say, and remembers what it was shown."""

    def __init__(self, log_odds: Tensor) -> None:
        super().__init__()
        self.answer = log_odds

    def forward(self, images: Tensor, features: list[Tensor], outputs: list[Tensor]) -> Tensor:
        self.shown, self.features, self.outputs = images, features, outputs
        return self.answer


def test_the_loss_is_its_formula_written_as_a_loop() -> None:
    detector = build(RDSeg, SMALL)
    healthy, anomalous, student = levels(), levels(), levels()
    log_odds = torch.randn(2, 64, 64)
    detector.teacher = Answers(healthy, anomalous)  # type: ignore[assignment]
    detector.bottleneck = nn.Identity()  # type: ignore[assignment]
    detector.decoder = Answers(student)  # type: ignore[assignment]
    detector.head = Says(log_odds)  # type: ignore[assignment]
    given = changed_batch()
    given.region[:, :10] = False
    assert given.mask is not None
    entropy, overlap, total, count = 0.0, 0.0, 0.0, 0
    for value, target, inside in zip(
        log_odds.flatten().tolist(),
        given.mask.flatten().tolist(),
        given.region.flatten().tolist(),
        strict=True,
    ):
        p = 1 / (1 + math.exp(-value))
        if inside:
            entropy, count = entropy - math.log(p if target else 1 - p), count + 1
        overlap += p * inside * target
        total += p * inside + target
    expected = slow_flat(student, healthy) + entropy / count
    expected += 0.5 * (1 - (2 * overlap + 1) / (total + 1))
    assert float(detector.loss(given)) == pytest.approx(expected, abs=1e-4)
    # Both networks were asked about the changed image, and the teacher about the healthy one.
    assert [
        torch.equal(question, image)
        for (question, _), image in zip(
            detector.teacher.calls,
            (given.images, given.simulated),
            strict=True,  # type: ignore[union-attr]
        )
    ] == [True, True]


def test_the_map_adds_brightness_to_the_heads_log_odds() -> None:
    detector = build(RDSeg, SMALL, intensity_weight=10).eval()
    images, log_odds = torch.rand(2, 3, 64, 64), 3 * torch.randn(2, 64, 64)
    detector.head = Says(log_odds)  # type: ignore[assignment]
    expected = torch.log1p(torch.exp(log_odds + 10 * (images[:, 0] - 0.4)))
    torch.testing.assert_close(detector.anomaly_map(images), expected)
    detector.intensity_weight = 0
    torch.testing.assert_close(detector.anomaly_map(images), torch.log1p(torch.exp(log_odds)))


def test_the_discrepancy_adds_what_the_student_cannot_follow() -> None:
    images, weight = torch.rand(2, 3, 64, 64), 0.7
    plain, added = build(RDSeg, SMALL).eval(), build(RDSeg, SMALL, discrepancy_weight=weight)
    added.eval().load_state_dict(plain.state_dict())
    with torch.no_grad():
        features = plain.teacher(images)
        outputs = plain.decoder(plain.bottleneck(features))
        expected = torch.zeros(2, 64, 64)
        for a, b in zip(features, outputs, strict=True):
            unlike = 1 - F.cosine_similarity(a, b, dim=1)[:, None]
            enlarged = F.interpolate(unlike, (64, 64), mode="bilinear", align_corners=True)
            expected += weight * enlarged[:, 0]
        difference = added.anomaly_map(images) - plain.anomaly_map(images)
    torch.testing.assert_close(difference, expected, atol=1e-4, rtol=1e-4)


def test_what_the_head_reads_sums_to_the_cosine() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 5, 3, 4, generator=generator) for _ in range(2))
    read = agreement(a, b)
    for image, row, column in np.ndindex(2, 3, 4):
        x, y = a[image, :, row, column].numpy(), b[image, :, row, column].numpy()
        each = x * y / np.linalg.norm(x) / np.linalg.norm(y)  # their sum is the cosine
        found = read[image, :, row, column].numpy()
        np.testing.assert_allclose(found, 3 * np.sqrt(5) * each, rtol=1e-5)


def test_head_and_student_learn_at_their_own_rates() -> None:
    detector = build(RDSeg, SMALL, lr=1e-3, student_lr=2e-3)
    (step,) = detector.steps()
    rates = {
        id(parameter): (group.settings | {}).get("lr", step.optimizer.settings["lr"])
        for group in step.groups
        for parameter in group.parameters
    }
    for name, parameter in detector.named_parameters():
        expected = {"teacher": None, "head": 1e-3}.get(name.split(".")[0], 2e-3)
        assert rates.get(id(parameter)) == expected, name


def test_the_mirror_image_is_a_mean_of_seven_by_seven_with_zeros_beyond_the_border() -> None:
    images = torch.rand(2, 3, 9, 12)
    expected = F.avg_pool2d(images.flip(-1), 7, 1, 3)
    torch.testing.assert_close(mirror_image(images), expected)
    last = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(mirror_image(last), expected)


def test_the_head_sees_the_blurred_mirror_image_and_not_where_told_not_to() -> None:
    images = torch.rand(1, 3, 64, 64)
    for mirror in (True, False):
        detector = build(RDSeg, SMALL, mirror=mirror)
        head = Says(torch.zeros(1, 64, 64))
        detector.head = head  # type: ignore[assignment]
        detector.anomaly_map(images)
        torch.testing.assert_close(head.shown[:, :3], images)
        assert head.shown.shape[1] == (6 if mirror else 3)
        if mirror:
            window = images[0, 1, 20 - 3 : 20 + 4, 63 - 30 - 3 : 63 - 30 + 4]
            assert float(head.shown[0, 4, 20, 30]) == pytest.approx(float(window.mean()))


@pytest.mark.parametrize(
    ("modalities", "channels", "taught"), [(1, 6, [0, 0, 0]), (2, 9, [0, 1, 0]), (4, 15, [0, 1, 2])]
)
def test_the_teacher_sees_the_slice_and_the_head_its_neighbours_too(
    modalities: int, channels: int, taught: list[int]
) -> None:
    detector = build(RDSeg, SMALL, modalities=modalities, channels=channels)
    seen: list[Tensor] = []
    detector.teacher.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    assert detector.anomaly_map(torch.rand(2, channels, 64, 64)).shape == (2, 64, 64)
    images = torch.rand(2, channels, 64, 64)
    head = Says(torch.zeros(2, 64, 64))
    detector.head = head  # type: ignore[assignment]
    detector.anomaly_map(images)
    assert torch.equal(seen[-1], images[:, taught])
    assert torch.equal(head.shown[:, :channels], images)
    assert head.shown.shape[1] == channels + modalities


def test_one_modality_in_three_equal_channels_is_read_once() -> None:
    detector = build(RDSeg, SMALL, modalities=1, channels=1)
    head = Says(torch.zeros(2, 64, 64))
    detector.head = head  # type: ignore[assignment]
    detector.anomaly_map(torch.rand(2, 1, 64, 64).expand(-1, 3, -1, -1))
    assert head.shown.shape[1] == 2


def test_the_outline_teaches_the_head_and_not_the_student() -> None:
    detector = build(RDSeg, lively(SMALL)).train()
    given = changed_batch()
    images, mask = given.changed()
    outline_loss(detector.log_odds(images)[0], mask, given.region).backward()
    for name, parameter in detector.named_parameters():
        assert (parameter.grad is not None) == name.startswith("head."), name


def test_the_learning_rate_rises_for_a_tenth_and_falls_to_nothing() -> None:
    (step,) = build(RDSeg, SMALL).steps()
    schedule = step.optimizer.schedule
    assert schedule is not None
    factors = [schedule(i / 1000) for i in range(1000)]
    peak = factors.index(max(factors))
    assert peak == 100
    assert factors[100] == pytest.approx(1)
    assert factors[:101] == sorted(factors[:101])
    assert factors[100:] == sorted(factors[100:], reverse=True)
    assert 0 < factors[0] < 0.05
    assert factors[-1] < 1e-5


@pytest.mark.slow
def test_a_few_dozen_steps_outline_an_anomaly() -> None:
    def sick(images: int) -> Batch:
        healthy = phantoms(images)
        mask = torch.zeros(images, 64, 64, dtype=torch.bool)
        for each in mask:
            y, x = (int(v) for v in torch.randint(16, 36, (2,)))
            each[y : y + 12, x : x + 12] = True
        darker = torch.where(mask[:, None], 0.6 * healthy, healthy)
        return Batch(healthy, torch.ones_like(mask), darker, mask)

    detector = build(RDSeg, SMALL, intensity_weight=0).train()
    losses = iterate(detector, [sick(4) for _ in range(40)])
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    detector.eval()
    given = sick(4)
    assert given.mask is not None
    assert given.simulated is not None
    with torch.no_grad():
        found = detector.anomaly_map(given.simulated)
        assert auroc(found[given.mask], found[~given.mask]) > 0.85
