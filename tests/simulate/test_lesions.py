"""Simulated gliomas: their shape as a formula, their appearance, place and random draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medrd.config import ChannelLayout
from medrd.simulate.lesions import LesionDraws, draw_lesions, grow_lesions

MM = 1.5
SIZE = 96
MIDDLE = (46 * 92 + 46) / 92**2  # of the square below, in reading order


def layout(*offsets_mm: float, modalities: tuple[str, ...] = ("flair",)) -> ChannelLayout:
    return ChannelLayout(modalities, (0.0, *offsets_mm), pixel_mm=MM)


def plain(modalities: tuple[str, ...] = ("flair",), **changes: Tensor) -> LesionDraws:
    """One smooth hard-edged ball of 20 mm in the middle: no noise, no core, all contrast kept."""
    drawn = draw_lesions(1, modalities, torch.Generator().manual_seed(0))
    zero = torch.zeros(1, 2)
    simple = replace(
        drawn,
        present=torch.tensor([[True, False]]),
        place=torch.full((1, 2), MIDDLE),
        radius_mm=torch.full((1, 2), 20.0),
        below=zero,
        aspect=torch.ones(1, 2, 3),
        roughness=zero,
        follow=zero,
        softness=torch.full((1, 2), 1e-5),
        flattened=zero,
        reach=zero,
        rim=zero,
        oedema=torch.zeros_like(drawn.oedema),
        core=torch.zeros_like(drawn.core),
    )
    return replace(simple, **changes)


def square(k: int = 1, m: int = 1, value: float = 0.4) -> tuple[Tensor, Tensor]:
    inside = torch.zeros(1, k, SIZE, SIZE, dtype=torch.bool)
    inside[..., 2:-2, 2:-2] = True
    return torch.full((1, k, m, SIZE, SIZE), value) * inside[:, :, None], inside


def test_a_lesion_is_solid_its_section_shrinks_as_a_balls_does() -> None:
    stack, inside = square(4)
    changed, cover = grow_lesions(plain(), stack, inside, layout(6.0, 12.0, -12.0))
    areas = ((changed - stack).abs()[0, :, 0] > 1e-4).sum(dim=(1, 2)).float() * MM**2
    expected = [np.pi * (20**2 - z**2) for z in (0, 6, 12, 12)]
    np.testing.assert_allclose(areas, expected, rtol=0.03)
    assert torch.equal(cover[0] > 0.5, (changed - stack).abs()[0, 0, 0] > 1e-4)
    lower = plain(below=torch.full((1, 2), -0.6))  # 12 mm below: the slice there is the widest
    changed, _ = grow_lesions(lower, stack, inside, layout(6.0, 12.0, -12.0))
    areas = ((changed - stack).abs()[0, :, 0] > 1e-4).sum(dim=(1, 2)).float() * MM**2
    np.testing.assert_allclose(areas, [np.pi * (20**2 - z**2) for z in (12, 6, 0, 20)], atol=40)


def test_axes_turn_and_stretch() -> None:
    stack, inside = square()
    stretched = plain(
        aspect=torch.tensor([[[1.5, 0.5, 1.0]] * 2]), turn=torch.full((1, 2), np.pi / 2)
    )
    changed, _ = grow_lesions(stretched, stack, inside, layout())
    rows, columns = np.nonzero(((changed - stack).abs()[0, 0, 0] > 1e-4).numpy())
    assert np.ptp(rows) * MM == pytest.approx(2 * 30, abs=2 * MM)  # the first axis has turned down
    assert np.ptp(columns) * MM == pytest.approx(2 * 10, abs=2 * MM)


def test_oedema_levels_the_contrast_of_tissues_and_raises_it() -> None:
    stack, inside = square(value=0.3)
    stack[..., 48:] += 0.1
    drawn = plain(flattened=torch.full((1, 2), 0.7), shift=torch.full((1, 2, 1), 0.2))
    changed, cover = grow_lesions(drawn, stack, inside, layout())
    within = cover[0] > 0.99
    mean = stack[0, 0, 0][within].mean()
    within[:, 47:49] = False  # at the edge between the two
    expected = 0.3 * stack[0, 0, 0] + 0.7 * mean + 0.2
    torch.testing.assert_close(changed[0, 0, 0][within], expected[within], atol=2e-3, rtol=0)


def test_the_grain_of_the_image_stays_in_oedema_and_core() -> None:
    stack, inside = square()
    grain = 0.02 * torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    stack = stack + (grain * inside)[:, :, None]
    drawn = plain(
        flattened=torch.ones(1, 2), reach=torch.full((1, 2), 0.5), level=torch.full((1, 2, 1), 0.8)
    )
    changed, cover = grow_lesions(drawn, stack, inside, layout())
    left = grain - F.avg_pool2d(grain[None], 3, 1, 1)[0]
    away = MM * ((torch.arange(SIZE) - 48)[:, None] ** 2 + (torch.arange(SIZE) - 48) ** 2).sqrt()
    for part in (away < 7, (away > 13) & (away < 18)):
        assert (cover[0][part] > 0.99).all()
        shown = changed[0, 0, 0][part] - changed[0, 0, 0][part].mean()
        assert np.corrcoef(shown, left[part])[0, 1] > 0.8
        assert float(shown.std()) < 2 * float(left[part].std())


def test_the_core_lies_within_and_its_rim_shows_on_t1ce_alone() -> None:
    names = ("flair", "t1ce")
    stack, inside = square(m=2)
    drawn = plain(
        names,
        reach=torch.full((1, 2), 0.5),
        level=torch.tensor([[[0.9, 0.1]] * 2]),
        shift=torch.full((1, 2, 2), 0.1),
        rim=torch.full((1, 2), 0.5),
    )
    changed, cover = grow_lesions(drawn, stack, inside, layout(modalities=names))
    flair, t1ce = changed[0, 0]
    assert float(flair[48, 48]) == pytest.approx(0.9, abs=0.01)
    assert float(t1ce[48, 48]) == pytest.approx(0.1, abs=0.01)
    core = (flair > 0.7).sum() / (cover[0] > 0.5).sum()
    assert float(core) == pytest.approx(0.25, abs=0.04)
    edge = 48 + round(10 / MM)
    assert float(t1ce[48, edge - 1 : edge + 2].max()) > 0.7
    assert float(flair[48, 48 + 10]) == pytest.approx(0.5, abs=0.02)


def test_an_edge_that_follows_tissue_leaves_out_what_is_dark() -> None:
    stack, inside = square(value=0.5)
    stack[..., 46:52] = 0.2  # a dark fissure through the middle
    shares = []
    for follow in (0.0, -0.25):
        drawn = plain(follow=torch.full((1, 2), follow), radius_mm=torch.full((1, 2), 24.0))
        _, cover = grow_lesions(drawn, stack, inside, layout())
        fissure = cover[0, :, 46:52] > 0.5
        shares.append(float(fissure.sum() / (cover[0] > 0.5).sum()))
    assert shares[1] < 0.9 * shares[0]


def test_noise_is_alike_in_slices_that_are_near_and_not_in_those_that_are_far() -> None:
    drawn = draw_lesions(1, ("flair",), torch.Generator().manual_seed(3))
    noisy = plain(
        oedema=drawn.oedema,
        shift=torch.full((1, 2, 1), 0.3),
        radius_mm=torch.full((1, 2), 60.0),
    )
    stack, inside = square(3)
    changed, _ = grow_lesions(noisy, stack, inside, layout(1.0, 9.0))
    at = slice(20, 76)
    here, near, far = (changed[0, k, 0, at, at].flatten() for k in range(3))
    assert np.corrcoef(here, near)[0, 1] > 0.95
    assert np.corrcoef(here, far)[0, 1] < 0.6


def test_what_is_drawn() -> None:
    drawn = draw_lesions(2000, ("flair", "t1"), torch.Generator().manual_seed(0))
    assert drawn.present[:, 0].all()
    assert drawn.present[:, 1].float().mean() == pytest.approx(0.35, abs=0.03)
    bright = drawn.shift[..., 0] > 0
    assert bright.float().mean() == pytest.approx(0.8, abs=0.03)
    assert torch.equal(bright, drawn.shift[..., 1] < 0)  # T1 falls where FLAIR rises
    assert float(drawn.shift[..., 0].abs().max()) < 0.45 * 1.2
    assert (drawn.reach > 0).float().mean() == pytest.approx(0.5, abs=0.03)
    assert float(drawn.radius_mm.log().mean()) == pytest.approx(np.log(4 * 38) / 2, abs=0.05)
    np.testing.assert_allclose(drawn.aspect.prod(dim=2), 1, rtol=1e-5)
