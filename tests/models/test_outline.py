"""The U-Net that outlines anomalies: several networks learn apart and answer together."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from medrd.models.outline import BRIGHTEST, Outline, OutlineConfig, PairedUNet
from training import changed_batch

MEDIAN = 0.3


def ensemble() -> Outline:
    torch.manual_seed(0)
    settings = OutlineConfig(widths=(4, 8), members=3, mirror=False, intensity_weight=5)
    detector = Outline(settings, modalities=3, channels=3, median=MEDIAN)
    for member in detector.members:
        assert isinstance(member, PairedUNet)
        torch.nn.init.normal_(member.last.bias)  # else all answer nearly the same
    return detector


def test_the_map_is_that_of_the_members_mean_log_odds() -> None:
    detector, images = ensemble().eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        answers = [member(images) for member in detector.members]
        assert not torch.allclose(answers[0], answers[1], atol=0.1)
        mean = (answers[0] + answers[1] + answers[2]) / 3
        brightness = (images[:, 0] - MEDIAN).clamp(max=BRIGHTEST)
        assert torch.allclose(detector.anomaly_map(images), F.softplus(mean + 5 * brightness))


def test_each_member_learns_as_if_it_were_alone() -> None:
    detector, given = ensemble().train(), changed_batch()
    detector.loss(given).backward()
    for number, member in enumerate(detector.members):
        alone = OutlineConfig(widths=(4, 8), mirror=False, intensity_weight=5)
        single = Outline(alone, modalities=3, channels=3, median=MEDIAN).train()
        single.network.load_state_dict(ensemble().members[number].state_dict())
        single.loss(given).backward()
        for mine, its in zip(single.network.parameters(), member.parameters(), strict=True):
            assert mine.grad is not None
            assert its.grad is not None
            assert torch.allclose(its.grad, mine.grad / 3, rtol=1e-3, atol=1e-7)


def test_one_network_keeps_the_names_of_earlier_models() -> None:
    one = Outline(OutlineConfig(widths=(4, 8)), modalities=1, channels=1, median=MEDIAN)
    assert all(name.startswith("network.") for name in one.state_dict())
    assert not any("members" in name for name in one.state_dict())
