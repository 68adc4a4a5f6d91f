"""Simulated anomalies: their places, contents and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from medrd.config import ChannelLayout, SimulationConfig
from medrd.simulate.anomalies import CONTENTS, GREY, SHAPES, AnomalySimulator
from medrd.simulate.fields import blur
from medrd.simulate.label import dilate, large_by_spreading, visible_label, without_specks
from medrd.simulate.shapes import draw_shapes, make_shapes, pack, places, unpack

COUNT, SIZE = 8, 128
COLOUR = ChannelLayout(("red", "green", "blue"))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def simulator_of(*, layout: ChannelLayout = GREY, **settings: Any) -> AnomalySimulator:
    """A simulator with the config's defaults for settings that are not given."""
    return AnomalySimulator(SimulationConfig(**settings), layout=layout)


def slices(count: int = COUNT, size: int = SIZE, *, tied: bool = True) -> tuple[Tensor, Tensor]:
    """Smooth textures between 0.2 and 0.7 in a disc, 0 around it."""
    noise = torch.randn(count, 1 if tied else 3, size, size, generator=seeded(99))
    flat = noise.flatten(0, 1)
    smooth = blur(flat, torch.full((len(flat),), 2.0), most_px=2.0).reshape(noise.shape)
    at = torch.arange(size) - (size - 1) / 2
    disc = at[:, None] ** 2 + at**2 < (0.42 * size) ** 2
    region = disc.expand(count, size, size).contiguous()
    images = (0.45 + 0.6 * smooth).clamp(0.2, 0.7) * region[:, None]
    return images.expand(-1, 3, -1, -1).contiguous(), region


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_labels_are_what_changed_visibly_in_the_region(
    content: str, shape: str, tied: bool
) -> None:
    images, region = slices(tied=tied)
    before = images.clone()
    simulator = simulator_of(contents=[content], shapes=[shape], layout=GREY if tied else COLOUR)
    made = simulator(images, region, seeded(1))

    assert torch.equal(images, before)
    assert made.images.shape == images.shape
    assert made.images.dtype == torch.float32
    assert made.mask.shape == region.shape
    assert made.mask.dtype == torch.bool
    assert float(made.images.min()) >= 0
    assert float(made.images.max()) <= 1
    if tied:
        assert torch.equal(made.images, made.images[:, :1].expand_as(made.images))
    elif content in ("brighter", "darker", "texture", "lesion"):
        change = (made.images - images)[made.mask[:, None].expand_as(images)]
        assert not torch.allclose(*change.reshape(3, -1)[:2])

    difference = (made.images - images).abs().amax(dim=1)
    assert not difference[~region].any()
    assert made.mask.any(dim=(1, 2)).float().mean() >= 0.6
    assert not (made.mask & ~region).any()
    visible = difference >= 0.02
    if content == "lesion":  # of a soft border only the inner part is outlined
        assert made.mask.sum() > 0.3 * visible.sum()
        return
    # Closing a gap takes a visible pixel no further than it is wide.
    assert not (made.mask & ~dilate(visible, 1)).any()
    # What is visible but not in the label, with what touches it, is a speck.
    least = 3  # 10 pixels at 256²
    left_out = (visible & ~made.mask).numpy()
    for sample in left_out:
        parts, number = ndimage.label(sample, np.ones((3, 3)))
        assert number == 0 or np.bincount(parts.ravel())[1:].max() < least
    for sample in made.mask.numpy():
        parts, number = ndimage.label(sample, np.ones((3, 3)))
        assert number == 0 or np.bincount(parts.ravel())[1:].min() >= least


@pytest.mark.parametrize("shape", SHAPES)
def test_a_hard_border_changes_nothing_beside_the_shape(shape: str) -> None:
    images, region = slices()
    generator = seeded(3)
    drawn = [draw_shapes(COUNT, 1, generator) for _ in range(2)]
    simulator = simulator_of(contents=["brighter"], shapes=[shape], softness_px=(0, 0), beta=(0, 0))
    made = simulator(images, region, seeded(3))
    allowed = make_shapes(drawn[0], [shape], region) | make_shapes(drawn[1], [shape], region)
    changed = made.images[:, 0] != images[:, 0]
    assert not (changed & ~allowed).any()
    assert changed.any()


def test_soft_borders_reach_no_further_than_their_width() -> None:
    images, region = slices()
    settings: dict[str, Any] = {"contents": ["brighter"], "shapes": ["blob"], "beta": (0, 0)}
    hard = simulator_of(softness_px=(0, 0), **settings)(images, region, seeded(2)).images
    soft = simulator_of(softness_px=(4, 4), **settings)(images, region, seeded(2)).images
    inside = (hard - images)[:, 0] > 0
    change = (soft - images)[:, 0]
    # 4 px at 256² are 2 here, so sigma is 1 and the blur ends after 3 pixels.
    assert not change[~dilate(inside, 3)].any()
    steep = (hard - images)[:, 0].diff(dim=1).abs().max()
    assert change.diff(dim=1).abs().max() < 0.7 * steep


def test_beta_lets_the_healthy_image_show() -> None:
    images, region = slices()
    settings: dict[str, Any] = {"contents": ["darker"], "shapes": ["ellipsoid"]}
    full, faint = (
        simulator_of(beta=(beta, beta), **settings)(images, region, seeded()).images - images
        for beta in (0.0, 0.75)
    )
    torch.testing.assert_close(faint, 0.25 * full, atol=1e-6, rtol=1e-4)
    nothing = simulator_of(beta=(1, 1), **settings)(images, region, seeded())
    assert torch.equal(nothing.images, images)
    assert not nothing.mask.any()


def test_brighter_and_darker_move_one_way() -> None:
    images, region = slices()
    up = simulator_of(contents=["brighter"])(images, region, seeded()).images - images
    down = simulator_of(contents=["darker"])(images, region, seeded()).images - images
    assert float(up.min()) >= 0
    assert float(up.max()) > 0.1
    assert float(down.max()) <= 0
    assert float(down.min()) < -0.1


def test_a_slice_is_another_samples() -> None:
    """Every sample has an intensity of its own, so that what is shown tells whose it is."""
    _, region = slices()
    own = torch.linspace(0.1, 0.8, COUNT)[:, None, None, None]
    images = (own * region[:, None]).expand(-1, 3, -1, -1).contiguous()
    simulator = simulator_of(contents=["slice"], beta=(0, 0), softness_px=(0, 0))
    made = simulator(images, region, seeded(4))
    sources = []
    for sample in range(COUNT):
        now, before = made.images[sample, 0], images[sample, 0]
        shown = now[now != before].unique()
        assert len(shown) == 1  # one other sample, and none of the background around it
        sources.append(int((own[:, 0, 0, 0] - shown).abs().argmin()))
        assert float((own[:, 0, 0, 0] - shown).abs().min()) < 1e-6
    assert sorted(sources) == list(range(COUNT))
    assert all(source != sample for sample, source in enumerate(sources))


def test_one_slice_alone_is_no_error() -> None:
    images, region = slices(1)
    assert simulator_of(contents=["slice"])(images, region, seeded()).images.shape[0] == 1


def test_deformation_moves_what_is_there() -> None:
    images, region = slices()
    simulator = simulator_of(contents=["deform"], shapes=["ellipsoid"])
    made = simulator(images, region, seeded())
    inside = region[:, None].expand_as(images)
    assert made.mask.any(dim=(1, 2)).all()
    assert float(made.images[inside].min()) >= float(images[inside].min()) - 1e-6
    assert float(made.images[inside].max()) <= float(images[inside].max()) + 1e-6


@pytest.mark.parametrize("along", [0, 1])
def test_deformation_pushes_outwards(along: int) -> None:
    """On a ramp, the dark side of the shape gets brighter and the bright side darker."""
    ramp = torch.linspace(0.2, 0.8, SIZE).expand(SIZE, SIZE)
    ramp = (ramp if along else ramp.T).expand(COUNT, 3, SIZE, SIZE).contiguous()
    whole = torch.ones(COUNT, SIZE, SIZE, dtype=torch.bool)
    simulator = simulator_of(contents=["deform"], shapes=["ellipsoid"])
    shifts = (simulator(ramp, whole, seeded()).images - ramp)[:, 0].numpy()
    # Of one part, and whole: at the border of the image a shape has lost its other side.
    inner = [s for s in shifts if np.count_nonzero(s) == np.count_nonzero(s[4:-4, 4:-4])]
    single = [s for s in inner if ndimage.label(s != 0)[1] == 1]
    assert single
    for shift in single:
        profile = shift.sum(axis=1 - along)
        at = np.flatnonzero(profile)
        middle = int(at[0] + at[-1]) // 2
        assert profile[:middle].sum() > 0
        assert profile[middle + 1 :].sum() < 0


def test_textures_differ_and_depend_on_the_image_only_by_beta() -> None:
    images, region = slices()
    settings: dict[str, Any] = {"contents": ["texture"], "shapes": ["ellipsoid"], "beta": (0, 0)}
    simulator = simulator_of(softness_px=(0, 0), **settings)
    made = simulator(images, region, seeded())
    on_black = simulator(torch.zeros_like(images), region, seeded())
    covered = on_black.images > 0
    torch.testing.assert_close(made.images[covered], on_black.images[covered])
    spread = [float(made.images[i, 0][made.mask[i]].std()) for i in range(COUNT)]
    assert max(spread) > 0.1
    assert len({round(s, 4) for s in spread}) > COUNT // 2


def test_nothing_but_the_generator_counts() -> None:
    images, region = slices()
    simulator = simulator_of()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = simulator(images, region, seeded(7))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = simulator(images, region, seeded(7))
    other = simulator(images, region, seeded(8))
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.mask, second.mask)
    assert not torch.equal(first.images, other.images)


def test_the_generator_moves_on_by_as_much_whatever_the_images_hold() -> None:
    images, region = slices()
    left = []
    for within in (region, torch.zeros_like(region)):
        generator = seeded(7)
        simulator_of()(images, within, generator)
        left.append(generator.get_state())
    assert torch.equal(*left)


def test_a_sample_depends_on_no_other() -> None:
    images, region = slices()
    simulator = simulator_of(contents=[c for c in CONTENTS if c != "slice"])
    whole = simulator(images, region, seeded(7))
    others, elsewhere = images.flip(2), region.clone()
    others[3], elsewhere[4] = images[3], False
    changed = simulator(others, elsewhere, seeded(7))
    assert torch.equal(whole.images[3], changed.images[3])
    assert torch.equal(whole.mask[3], changed.mask[3])
    assert not changed.mask[4].any()


def test_autocast_and_memory_format_change_nothing() -> None:
    images, region = slices()
    plain = simulator_of()(images, region, seeded())
    striped = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = simulator_of()(striped, region, seeded())
    assert torch.equal(plain.images, cast.images)
    assert cast.images.is_contiguous(memory_format=torch.channels_last)
    assert plain.images.is_contiguous()


def test_probability_leaves_the_rest_as_they_are() -> None:
    images, region = slices(64, 32)
    made = simulator_of(probability=0.25)(images, region, seeded())
    touched = (made.images != images).any(dim=3).any(dim=2).any(dim=1)
    assert 6 <= int(touched.sum()) <= 26
    assert not made.mask[~touched].any()
    assert not simulator_of(probability=0)(images, region, seeded()).mask.any()


def test_a_shape_that_misses_is_drawn_again() -> None:
    region = torch.zeros(200, 64, 64, dtype=torch.bool)
    region[:, 20:44, 20:44] = True
    images = torch.full((200, 1, 64, 64), 0.5) * region[:, None]
    simulator = simulator_of(contents=["brighter"], shapes=["perlin"], beta=(0, 0))
    empty = 1 - float(simulator(images, region, seeded()).mask.any(dim=(1, 2)).float().mean())
    once = make_shapes(draw_shapes(200, 1, seeded()), ["perlin"], region)
    empty_once = 1 - float(once.any(dim=(1, 2)).float().mean())
    assert empty_once > 0.1
    assert empty < 0.6 * empty_once


def test_places_are_spread_over_the_region() -> None:
    _, region = slices(1, 256)
    share = torch.rand(1, 500, generator=seeded())
    rows, columns = places(region, share)
    assert region[0, rows[0], columns[0]].all()
    assert abs(float(rows.float().mean()) - 127.5) < 8
    assert float(columns.float().std()) > 40


def random_specks(count: int) -> Tensor:
    noise = torch.randn(count, 60, 90, generator=seeded())
    return blur(noise, torch.full((count,), 1.2), most_px=2.0) > 0.3


def test_specks_go_and_everything_else_stays() -> None:
    mask = random_specks(5)
    kept = without_specks(mask, 10)
    for before, after in zip(mask.numpy(), kept.numpy(), strict=True):
        parts, _ = ndimage.label(before, np.ones((3, 3)))
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        np.testing.assert_array_equal(after, (sizes >= 10)[parts])
    assert kept.any()
    assert not torch.equal(mask, kept)


def test_the_gpus_way_of_finding_specks_finds_the_same() -> None:
    mask = random_specks(5)
    mask[0, ::4, :] = True  # long thin parts that join at one end
    mask[0, :, 0] = True
    assert torch.equal(large_by_spreading(mask, 10), without_specks(mask, 10))


def test_pinholes_close_and_real_gaps_do_not() -> None:
    before = torch.zeros(1, 1, 40, 40)
    after = before.clone()
    after[..., 5:15, 5:15] = 0.3
    after[..., 9, 9] = 0.01  # no visible change here
    after[..., 5:15, 25:35] = 0.3  # ten pixels further on
    after[..., 38, 38] = 0.3
    everywhere = torch.ones(1, 40, 40, dtype=torch.bool)
    label = visible_label(before, after, everywhere, min_change=0.02, gap_px=2, min_pixels=10)
    expected = torch.zeros(1, 40, 40, dtype=torch.bool)
    expected[:, 5:15, 5:15] = True
    expected[:, 5:15, 25:35] = True
    assert torch.equal(label, expected)


def test_draws_are_packed_for_one_copy_and_come_back_exactly() -> None:
    draws = [
        torch.rand(3, 2, 4, generator=seeded()),
        torch.randint(2**31, (3,), generator=seeded()),
        torch.tensor([True, False, True]),
    ]
    for found, given in zip(unpack(pack(draws), draws), draws, strict=True):
        assert found.dtype == given.dtype
        assert torch.equal(found, given)


STACK = ChannelLayout(("flair", "t1"), (0.0, -2.0, 2.0), place=True, pixel_mm=1.5)


@pytest.mark.parametrize("content", CONTENTS)
def test_anomalies_go_through_the_neighbours_and_leave_places_alone(content: str) -> None:
    one, region = slices(tied=False)
    images = torch.cat([one[:, :2]] * 3 + [torch.rand(COUNT, 3, SIZE, SIZE)], dim=1)
    images[:, 4:6, :, : SIZE // 2] = 0  # a neighbour with less brain
    made = simulator_of(contents=[content], beta=(0, 0), layout=STACK)(images, region, seeded(1))
    assert torch.equal(made.images[:, 6:], images[:, 6:])
    assert not (made.images[:, 4:6] - images[:, 4:6])[..., : SIZE // 2].any()
    changes = [(made.images - images)[:, k : k + 2].abs().amax(1) > 0.02 for k in (0, 2, 4)]
    right = torch.zeros_like(region)
    right[..., SIZE // 2 :] = True
    looked_at = [(changes[1], region), (changes[2], right)]
    # A slice that is laid mirrored has nothing to show where the neighbour ends.
    for beside, where in looked_at[: 1 if content == "slice" else 2]:
        both, either = ((f(changes[0], beside) & where).sum() for f in (torch.mul, torch.maximum))
        assert both / either > 0.7
    if content == "lesion":  # solid: larger on one side than on the other
        assert not torch.equal(changes[0], changes[1])
    # The label is the middle slice's: from it alone comes the same.
    alone = ChannelLayout(STACK.modalities, pixel_mm=1.5)
    middle = simulator_of(contents=[content], beta=(0, 0), layout=alone)(
        images[:, :2], region, seeded(1)
    )
    if content != "lesion":  # whose oedema is levelled over all slices
        assert torch.equal(middle.mask, made.mask)
