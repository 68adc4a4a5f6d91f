"""Random changes of healthy slices: what each does, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medrd.config import AugmentConfig, ChannelLayout
from medrd.simulate.augment import augment

LAYOUT = ChannelLayout(("flair", "t1"), (0.0, -1.0, 1.0), place=True)


def batch(count: int = 16) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(5)
    images = 0.2 + 0.3 * torch.rand(count, LAYOUT.channels, 24, 24, generator=drawn)
    images[:, 2:6] = images[:, :2].repeat(1, 2, 1, 1)
    images[:, 6:] = torch.linspace(0, 1, 24)[:, None]
    return images, torch.rand(count, 24, 24, generator=drawn) > 0.5


def changed(seed: int = 0, **wanted: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return augment(*batch(), AugmentConfig(**wanted), LAYOUT, generator)  # type: ignore[arg-type]


def test_half_are_mirrored_with_their_region() -> None:
    (before, region), (after, turned) = batch(), changed(flip=True)
    flipped = [torch.equal(a, b.flip(-1)) for a, b in zip(after, before, strict=True)]
    assert 3 <= sum(flipped) <= 13
    for sample, flip in enumerate(flipped):
        expected = before[sample].flip(-1) if flip else before[sample]
        assert torch.equal(after[sample], expected)
        assert torch.equal(turned[sample], region[sample].flip(-1) if flip else region[sample])


@pytest.mark.parametrize(("what", "spread"), [("gamma", 0.5), ("gain", 0.3)])
def test_contrast_and_brightness_change_by_modality_alike_in_all_slices(
    what: str, spread: float
) -> None:
    before, after = batch()[0], changed(**{what: spread})[0]
    if what == "gamma":
        factors = (after[:, :6] / 0.4).log() / (before[:, :6] / 0.4).log()
    else:
        factors = after[:, :6] / before[:, :6]
    own = factors.flatten(2).median(dim=2).values
    torch.testing.assert_close(
        factors, own[..., None, None].expand_as(factors), rtol=0.02, atol=0.02
    )
    torch.testing.assert_close(own[:, :2], own[:, 2:4])
    assert float((own[:, 0] - own[:, 1]).abs().max()) > 0.05
    assert float(own.log().abs().max()) <= spread + 1e-3
    assert float(own.log().abs().max()) > 0.5 * spread
    assert torch.equal(after[:, 6:], before[:, 6:])


def test_a_bias_field_is_smooth_and_the_same_in_all_slices() -> None:
    before, after = batch()[0], changed(bias=0.2)[0]
    field = (after[:, :6] / before[:, :6]).log()
    torch.testing.assert_close(field[:, :2], field[:, 4:6])
    assert float(field.diff(dim=3).abs().max()) < 0.2 * float(field.abs().max())
    assert float(field.abs().max()) > 0.1


def test_one_modality_in_three_equal_channels_stays_so() -> None:
    images = torch.rand(4, 1, 8, 8).expand(-1, 3, -1, -1)
    wanted = AugmentConfig(flip=True, gamma=0.3, gain=0.3, bias=0.3)
    after, _ = augment(
        images,
        images[:, 0] > 0.5,
        wanted,
        ChannelLayout(("flair",)),
        torch.Generator().manual_seed(0),
    )
    assert torch.equal(after, after[:, :1].expand_as(after))
    assert not torch.equal(after, images)
    assert after.shape == images.shape


def test_what_is_drawn_does_not_depend_on_what_is_asked_for() -> None:
    left = []
    for wanted in ({}, {"gamma": 0.2, "flip": True}, {"bias": 1.0}):
        generator = torch.Generator().manual_seed(0)
        augment(*batch(), AugmentConfig(**wanted), LAYOUT, generator)  # type: ignore[arg-type]
        left.append(generator.get_state())
    assert torch.equal(left[0], left[1])
    assert torch.equal(left[0], left[2])
