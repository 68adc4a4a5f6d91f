"""The look of a lesion: its plateau as a formula, its core in the middle, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medrd.data.simulate_lesions import LesionDraws, draw_lesions, make_lesion


def draws(*, cored: bool, reach: float = 0.6) -> LesionDraws:
    return LesionDraws(
        shift=torch.tensor([[0.2, -0.1]]),
        flattened=torch.tensor([0.7]),
        cored=torch.tensor([cored]),
        reach=torch.tensor([reach]),
        level=torch.tensor([[0.9, 0.05]]),
    )


def disc(size: int = 64, radius: int = 16) -> Tensor:
    at = torch.arange(size) - size // 2
    return (at[:, None] ** 2 + at**2 < radius**2).float()[None]


def test_oedema_levels_contrast_and_raises_it() -> None:
    images, alpha = 0.3 + 0.2 * torch.rand(1, 2, 64, 64), disc() * 0.8
    noise = 2 * torch.rand(1, 1, 64, 64) - 1
    found = make_lesion(draws(cored=False), images, alpha, noise)
    for channel, shift in enumerate((0.2, -0.1)):
        picture = images[0, channel].numpy()
        mean = np.average(picture, weights=alpha[0].numpy())
        expected = 0.3 * picture + 0.7 * mean + shift * (1 + 0.6 * noise[0, 0].numpy())
        np.testing.assert_allclose(found[0, channel].numpy(), expected.clip(0, 1), atol=1e-5)


def test_the_core_lies_in_the_middle_and_its_size_follows_its_reach() -> None:
    images, alpha, noise = torch.full((1, 2, 64, 64), 0.4), disc(), torch.zeros(1, 1, 64, 64)
    plain = make_lesion(draws(cored=False), images, alpha, noise)
    areas = []
    for reach in (0.65, 0.8):
        found = make_lesion(draws(cored=True, reach=reach), images, alpha, noise)
        assert found[0, :, 32, 32].tolist() == pytest.approx([0.9, 0.05], abs=0.03)
        assert found[0, 0, 32, 32 + 15] == pytest.approx(float(plain[0, 0, 32, 32 + 15]), abs=0.1)
        areas.append(int(((found - plain).abs()[0, 0] > 0.1).sum()))
    assert 0 < areas[1] < areas[0] < int(disc().sum())


def test_most_lesions_are_bright_in_all_channels_alike_and_half_have_a_core() -> None:
    drawn = draw_lesions(2000, 3, torch.Generator().manual_seed(0))
    assert (drawn.shift > 0).all(dim=1).float().mean() == pytest.approx(0.8, abs=0.03)
    assert ((drawn.shift > 0).all(dim=1) | (drawn.shift < 0).all(dim=1)).all()
    assert drawn.shift.abs().min() > 0.06 * 0.6
    assert drawn.shift.abs().max() < 0.45 * 1.2
    assert drawn.cored.float().mean() == pytest.approx(0.5, abs=0.04)
