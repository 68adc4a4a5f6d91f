"""DAE against its specification: network, loss, schedule, map, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from medrd.models.build import shapes_only
from medrd.models.dae import DAE, median_filter
from medrd.models.detector import Batch
from medrd.models.unet import StandardisedConv, UNet, group_count
from training import build, iterate


def small(**settings: object) -> DAE:
    return build(DAE, **{"base": 8, "depth": 3} | settings)


def batch(size: int = 16, images: int = 2) -> Batch:
    pictures = torch.rand(images, 3, size, size)
    region = torch.rand(images, size, size) < 0.6
    return Batch(pictures, region, torch.rand_like(pictures), region)


def test_the_network_has_the_released_widths_groups_and_parameters() -> None:
    with shapes_only():
        network = build(DAE).network
        x: Tensor = torch.empty(1, 3, 128, 128)
        assert network(x).shape == x.shape
    convs = [m for m in network.modules() if isinstance(m, StandardisedConv)]
    assert [(m.in_channels, m.out_channels) for m in convs] == [
        (3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512),
        (512, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64),
    ]  # fmt: skip
    assert [group_count(n) for n in (64, 128, 256, 512)] == [8, 16, 16, 32]
    # Each 3x3 convolution with bias and its norm, 2x2 enlargements with bias, the last 1x1.
    expected = sum(9 * m.in_channels * m.out_channels + 3 * m.out_channels for m in convs)
    expected += sum(4 * 2 * n * n + n for n in (256, 128, 64)) + 3 * 64 + 3
    assert sum(p.numel() for p in network.parameters()) == expected == 7_703_107


def test_filters_are_standardised_whatever_their_weights_and_borders_reflected() -> None:
    conv = StandardisedConv(3, 4)
    x = torch.randn(1, 3, 6, 5)
    weights = conv.weight.detach().clone()
    for each in weights:
        each.copy_((each - each.mean()) / (each.std(correction=1) + 1e-5))
    expected = F.conv2d(F.pad(x, [1] * 4, mode="reflect"), weights, conv.bias)
    torch.testing.assert_close(conv(x), expected)
    with torch.no_grad():
        conv.weight.mul_(7).add_(0.3)
    torch.testing.assert_close(conv(x), expected, atol=1e-3, rtol=1e-3)


def test_levels_are_pooled_enlarged_and_joined_as_a_loop_would() -> None:
    network = UNet(3, base=4, depth=3)
    x = torch.rand(1, 3, 16, 16)
    a = network.down[0](x)
    b = network.down[1](F.avg_pool2d(a, 2))
    c = network.down[2](F.avg_pool2d(b, 2))
    b = network.up[0](torch.cat([network.enlarge[0](c), b], 1))
    a = network.up[1](torch.cat([network.enlarge[1](b), a], 1))
    torch.testing.assert_close(network(x), network.last(a))


def test_images_of_a_multiple_of_size_multiple_fit_and_others_do_not() -> None:
    detector = small()
    assert detector.size_multiple == 4
    assert build(DAE, base=4).size_multiple == 8
    assert detector.anomaly_map(torch.rand(1, 3, 20, 12)).shape == (1, 20, 12)
    with pytest.raises(RuntimeError):
        detector.anomaly_map(torch.rand(1, 3, 18, 18))


def test_the_loss_is_the_squared_error_in_the_region_over_all_pixels() -> None:
    detector, given = small(), batch()
    simulated, _ = given.changed()
    outputs = detector.network(simulated).detach()
    total = 0.0
    for image, output, region in zip(given.images, outputs, given.region, strict=True):
        for i in range(16):
            for j in range(16):
                if region[i, j]:
                    total += float(((output[:, i, j] - image[:, i, j]) ** 2).sum())
    assert float(detector.loss(given).detach()) == pytest.approx(
        total / given.images.numel(), rel=1e-5
    )


def test_the_schedule_is_the_released_one_over_its_2100_epochs() -> None:
    (step,) = build(DAE, base=4, depth=1).steps()
    assert step.optimizer.kind == "adam"
    assert step.optimizer.settings == {"lr": 1e-4, "weight_decay": 1e-5, "amsgrad": True}
    schedule = step.optimizer.schedule
    assert schedule is not None
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    released = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    for epoch in range(2100):
        assert schedule(epoch / 2100) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        released.step()
    assert schedule(1.0) == pytest.approx(0, abs=1e-12)
    assert build(DAE, base=4, depth=1, cycles=0.5).schedule(0.5) == pytest.approx(0.5)


@pytest.mark.parametrize("side", [1, 3, 5])
def test_the_median_filter_is_scipys_with_mirrored_borders(side: int) -> None:
    maps = torch.rand(2, 11, 8)
    expected = np.stack([ndimage.median_filter(m, side, mode="mirror") for m in maps.numpy()])
    assert torch.equal(median_filter(maps, side), torch.from_numpy(expected))


def test_the_map_is_the_filtered_mean_absolute_residual() -> None:
    images = torch.rand(2, 3, 16, 16)
    for median in (1, 5):
        detector = small(median=median).eval()
        residual = (detector.network(images) - images).abs().sum(1) / 3
        torch.testing.assert_close(detector(images), median_filter(residual, median))


def test_maps_and_losses_under_bfloat16_are_float32_and_close() -> None:
    detector, given = small(), batch()
    with torch.no_grad():
        exact, exact_loss = detector(given.images), detector.loss(given)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded, rounded_loss = detector(given.images), detector.loss(given)
    assert rounded.dtype == rounded_loss.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.05 * float(exact.max()), rtol=0)
    torch.testing.assert_close(rounded_loss, exact_loss, atol=0, rtol=0.02)


def slices(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Smooth discs of varying brightness, and their regions."""
    axis = torch.linspace(-1, 1, 32)
    radius = (axis[:, None] ** 2 + axis**2).sqrt()
    region = (radius < 0.9).expand(count, 32, 32)
    slope = 0.3 * torch.rand(count, 1, 1, generator=generator)
    images = (0.35 + slope * radius.cos()) * region
    return images[:, None].repeat(1, 3, 1, 1), region


@pytest.mark.slow
def test_it_learns_to_remove_noise_and_finds_a_planted_lesion() -> None:
    generator = torch.Generator().manual_seed(0)
    detector, batches, noise_power = small(lr=5e-3).train(), [], []
    for _ in range(100):
        images, region = slices(4, generator)
        coarse = 0.2 * torch.randn(4, 1, 4, 4, generator=generator)
        noise = F.interpolate(coarse, size=32, mode="bilinear", align_corners=True)
        simulated = (images + noise * region[:, None]).clamp(0, 1)
        batches.append(Batch(images, region, simulated, region))
        noise_power.append(float((simulated - images).square().mean()))
    losses = iterate(detector, batches)
    assert losses[0] > 10 * noise_power[0]
    assert sum(losses[-5:]) < 0.6 * sum(noise_power[-5:])  # some of the noise is taken off

    detector.eval()
    images, region = slices(4, generator)
    lesion = torch.zeros(4, 32, 32, dtype=torch.bool)
    lesion[:, 12:19, 9:16] = True
    # Bright in one half and dark in the other: no threshold on the picture would find both.
    change = torch.tensor([0.25, -0.25, 0.25, -0.25]).view(4, 1, 1) * lesion
    sick = images + change[:, None]
    with torch.no_grad():
        found = detector(sick)
    assert roc_auc_score(lesion[region].numpy(), found[region].numpy()) > 0.85
