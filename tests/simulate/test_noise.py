"""Random fields against slow loops, and the noises of the denoising detectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medrd.config import ChannelLayout, CoarseNoiseConfig, SimplexBoxConfig
from medrd.simulate.anomalies import GREY
from medrd.simulate.fields import PERIOD, blur, fractal, perlin, rotate, simplex, turned_grid
from medrd.simulate.noise import CoarseNoise, SimplexBox

COLOUR = ChannelLayout(("red", "green", "blue"))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_angles(*shape: int) -> Tensor:
    return torch.rand(shape, generator=seeded()) * 2 * math.pi


def slow_perlin(angles: Tensor, cells: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Pixel by pixel, from the definition."""

    def fade(t: float) -> float:
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    noise = torch.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            y, x = row * cells[0] / size[0], column * cells[1] / size[1]
            i, j = int(y), int(x)
            v, u = y - i, x - j
            corners = {}
            for a in (0, 1):
                for b in (0, 1):
                    angle = float(angles[i + a, j + b])
                    corners[a, b] = math.sin(angle) * (v - a) + math.cos(angle) * (u - b)
            top = corners[0, 0] + fade(u) * (corners[0, 1] - corners[0, 0])
            bottom = corners[1, 0] + fade(u) * (corners[1, 1] - corners[1, 0])
            noise[row, column] = math.sqrt(2) * (top + fade(v) * (bottom - top))
    return noise


def test_perlin_equals_a_slow_loop_with_other_cells_for_each_sample() -> None:
    angles = random_angles(3, 9, 9)
    cells = [(1, 8), (4, 2), (8, 8)]
    fast = perlin(angles, torch.tensor(cells).float(), (24, 32))
    for sample, of_sample in enumerate(cells):
        slow = slow_perlin(angles[sample], of_sample, (24, 32))
        torch.testing.assert_close(fast[sample], slow, atol=2e-6, rtol=0)


def test_perlin_is_zero_at_lattice_points_and_half_passes_zero() -> None:
    noise = perlin(random_angles(8, 33, 33), torch.full((8, 2), 16.0), (128, 128))
    assert noise[:, ::8, ::8].abs().max() < 1e-5
    assert abs(float((noise > 0).float().mean()) - 0.5) < 0.02
    assert 0.9 < float(noise.abs().max() / 0.9) < 1.12


def test_fractal_is_a_weighted_sum_of_octaves() -> None:
    angles = [random_angles(2, 5, 5), random_angles(2, 9, 9), random_angles(2, 17, 17)]
    cells = torch.tensor([[2.5, 2.5], [4.0, 1.0]])
    octaves = [perlin(a, cells * 2**i, (40, 40)) for i, a in enumerate(angles)]
    expected = (octaves[0] + 0.5 * octaves[1] + 0.25 * octaves[2]) / 1.75
    torch.testing.assert_close(fractal(angles, cells, (40, 40), persistence=0.5), expected)


def slow_simplex(angles: Tensor, y: float, x: float) -> float:
    """One point: the three corners of the triangle around it, found among all nearby ones.

    Corner (i, j) of the skewed grid lies at (i, j) - (i + j) G; its bump ends half a squared
    unit away, so that corners of other triangles give nothing.
    """
    skew, unskew = (math.sqrt(3) - 1) / 2, (3 - math.sqrt(3)) / 6
    i0, j0 = math.floor(y + (y + x) * skew), math.floor(x + (y + x) * skew)
    total = 0.0
    for i in range(i0 - 2, i0 + 4):
        for j in range(j0 - 2, j0 + 4):
            dy, dx = y - (i - (i + j) * unskew), x - (j - (i + j) * unskew)
            near = max(0.0, 0.5 - dy * dy - dx * dx)
            angle = float(angles[i % PERIOD, j % PERIOD])
            total += near**4 * (math.sin(angle) * dy + math.cos(angle) * dx)
    return 99.2 * total


def test_simplex_equals_a_slow_loop_on_both_sides_of_zero() -> None:
    angles = random_angles(2, PERIOD, PERIOD)
    points = torch.rand(2, 2, 8, 8, generator=seeded(1)) * 50 - 25
    fast = simplex(angles, points[0], points[1])
    for index in torch.cartesian_prod(*(torch.arange(n) for n in fast.shape)).tolist():
        at = tuple(index)
        slow = slow_simplex(angles[at[0]], float(points[0][at]), float(points[1][at]))
        assert abs(float(fast[at]) - slow) < 2e-4


def test_simplex_stays_within_one_and_reaches_it() -> None:
    y, x = turned_grid(torch.zeros(4), (256, 256))
    noise = simplex(random_angles(4, PERIOD, PERIOD), 40 * y, 40 * x)
    assert 0.95 < float(noise.abs().max()) <= 1.0


def test_rotation_by_nothing_and_by_a_quarter() -> None:
    field = torch.rand(1, 20, 20, generator=seeded())
    still = rotate(field, torch.zeros(1), (20, 20))
    torch.testing.assert_close(still, field, atol=1e-5, rtol=0)
    quarter = rotate(field, torch.full((1,), math.pi / 2), (20, 20))
    error = min(float((quarter - field.rot90(k, (1, 2))).abs().max()) for k in (1, 3))
    assert error < 1e-4


def test_blur_equals_a_convolution_and_nothing_changes_nothing() -> None:
    images = torch.rand(2, 40, 70, generator=seeded())
    fast = blur(images, torch.tensor([1.3, 0.0]), most_px=2.0)
    away = torch.arange(-3, 4)  # 3 sigma = 3.9
    kernel = torch.exp(-0.5 * (away / 1.3) ** 2)
    kernel /= kernel.sum()
    padded = F.pad(images[:1, None], (3, 3, 3, 3), mode="replicate")
    expected = F.conv2d(padded, (kernel[:, None] * kernel)[None, None])
    torch.testing.assert_close(fast[:1], expected[:, 0])
    torch.testing.assert_close(fast[1], images[1])


def grey(count: int, size: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Images of one grey, and a region that is a disc."""
    at = torch.arange(size) - (size - 1) / 2
    disc = at[:, None] ** 2 + at**2 < (0.4 * size) ** 2
    region = disc.expand(count, size, size).contiguous()
    return torch.full((count, channels, size, size), 0.5) * region[:, None], region


@pytest.mark.parametrize(
    "make",
    [partial(CoarseNoise, CoarseNoiseConfig()), partial(SimplexBox, SimplexBoxConfig())],
)
@pytest.mark.parametrize("tied", [True, False])
def test_noise_stays_in_the_region_and_channels_are_tied_or_not(
    make: Callable[..., CoarseNoise | SimplexBox], tied: bool
) -> None:
    images, region = grey(4, 64)
    before = images.clone()
    noisy = make(layout=GREY if tied else COLOUR)(images, region, seeded())
    assert torch.equal(images, before)
    assert not (noisy.mask & ~region).any()
    outside = ~noisy.mask[:, None].expand_as(images)
    assert torch.equal(noisy.images[outside], images[outside])
    assert float(noisy.images.min()) >= 0
    assert float(noisy.images.max()) <= 1
    assert torch.equal(noisy.images[:, 0], noisy.images[:, 1]) is tied
    again = make(layout=GREY if tied else COLOUR)(images, region, seeded())
    assert torch.equal(noisy.images, again.images)


def test_coarse_noise_is_enlarged_and_rolled_as_torch_does_it() -> None:
    images = torch.full((2, 1, 96, 128), 0.5)
    region = torch.ones(2, 96, 128, dtype=torch.bool)
    noise = (
        CoarseNoise(CoarseNoiseConfig(sigma=0.05, grid=8))(images, region, seeded(5)).images - 0.5
    )
    assert CoarseNoise(CoarseNoiseConfig())(images, region, seeded()).mask.all()

    generator = seeded(5)
    values = 0.05 * torch.randn(2, 1, 8, 8, generator=generator)
    down = torch.randint(96, (2,), generator=generator).tolist()
    across = torch.randint(128, (2,), generator=generator).tolist()
    large = F.interpolate(values, (96, 128), mode="bilinear", align_corners=True)
    for sample in range(2):
        expected = large[sample].roll((down[sample], across[sample]), (1, 2))
        torch.testing.assert_close(noise[sample], expected, atol=1e-6, rtol=0)
    assert len({*down, *across}) > 2  # each image has a roll of its own


def test_coarse_noise_has_the_sigma_asked_for() -> None:
    images = torch.full((32, 1, 16, 16), 0.5)
    region = torch.ones(32, 16, 16, dtype=torch.bool)
    # As many points as pixels: enlarging changes nothing.
    noise = (
        CoarseNoise(CoarseNoiseConfig(sigma=0.1, grid=16))(images, region, seeded()).images - 0.5
    )
    assert abs(float(noise.std()) - 0.1) < 0.004


def test_boxes_have_sides_in_range_scaled_with_the_image() -> None:
    for size, least, most in ((256, 10, 31), (128, 5, 16)):
        images = torch.full((64, 1, size, size), 0.5)
        region = torch.ones(64, size, size, dtype=torch.bool)
        mask = SimplexBox(SimplexBoxConfig())(images, region, seeded()).mask
        heights, widths = mask.any(dim=2).sum(dim=1), mask.any(dim=1).sum(dim=1)
        assert torch.equal(mask.sum(dim=(1, 2)), heights * widths)  # a box, without holes
        sides = torch.cat([heights, widths])
        assert int(sides.min()) >= least
        assert int(sides.max()) <= most
        assert int(sides.max() - sides.min()) > 0.7 * (most - least)


def test_a_boxs_noise_is_octaves_of_simplex_noise() -> None:
    images = torch.full((1, 1, 256, 256), 0.5)
    region = torch.ones(1, 256, 256, dtype=torch.bool)
    made = SimplexBox(SimplexBoxConfig(octaves=2, box_px=(20, 20)))(images, region, seeded(2))
    generator = seeded(2)
    torch.rand(1, 1, generator=generator)
    torch.randint(1, (1, 2), generator=generator)
    angles = torch.rand(1, 2, PERIOD, PERIOD, generator=generator) * 2 * math.pi
    grid = torch.arange(20.0) / 32
    y, x = (g.expand(1, 20, 20) for g in (grid[:, None], grid[None]))
    first, second = simplex(angles[:, 0], y, x), simplex(angles[:, 1], 2 * y, 2 * x)
    found = made.images[0, 0][made.mask[0]].reshape(20, 20)
    torch.testing.assert_close(found, (0.5 + 0.2 * (first + 0.6 * second))[0])


def test_a_box_at_the_corner_is_moved_into_the_image() -> None:
    images = torch.full((10, 1, 256, 256), 0.5)
    region = torch.zeros(10, 256, 256, dtype=torch.bool)
    region[:5, -10:, -10:] = True
    region[5:, :10, :10] = True
    made = SimplexBox(SimplexBoxConfig(box_px=(31, 31)))(images, region, seeded())
    assert torch.equal(made.mask, region)
