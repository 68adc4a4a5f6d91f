"""Detection of the object in a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medrd.simulate.foreground import foreground, otsu


def everywhere(count: int = 1, size: int = 128) -> Tensor:
    return torch.ones(count, size, size, dtype=torch.bool)


@pytest.mark.parametrize(("background", "colour"), [(0.95, 0.4), (0.05, 0.12)])
def test_an_object_is_found_on_a_light_and_on_a_dark_ground(
    background: float, colour: float
) -> None:
    at = torch.arange(128)
    disc = (at[:, None] - 60) ** 2 + (at - 70) ** 2 < 30**2
    images = torch.full((1, 3, 128, 128), background)
    images[:, :, disc] = colour
    images = (images + 0.01 * torch.randn(images.shape, generator=seeded())).clamp(0, 1)
    found = foreground(images, everywhere())[0]
    overlap = (found & disc).sum() / (found | disc).sum()
    assert float(overlap) > 0.85


def test_where_no_object_stands_out_the_whole_region_counts() -> None:
    noise = torch.rand(2, 3, 128, 128, generator=seeded())
    flat = torch.full((1, 3, 128, 128), 0.5)
    at_the_border = torch.full((1, 3, 128, 128), 0.9)
    at_the_border[:, :, :, :70] = 0.2  # either side could be the object
    images = torch.cat([noise, flat, at_the_border])
    region = everywhere(4)
    region[0, :, 100:] = False
    assert torch.equal(foreground(images, region), region)


def test_the_threshold_is_otsus() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.3, 0.05, 3000), rng.normal(0.7, 0.08, 1096)])
    image = torch.from_numpy(values.clip(0, 0.999).astype(np.float32)).view(1, 64, 64)
    threshold, explained = otsu(image)
    # Brute force: least variance within the two parts, on the same 64 steps.
    flat = image.flatten().double()
    cuts = [k / 64 for k in range(1, 64)]
    parts = [(flat[flat < cut], flat[flat >= cut]) for cut in cuts]
    within = [
        sum(float(part.var(correction=0)) * len(part) for part in pair if len(part)) / len(flat)
        for pair in parts
    ]
    best = min(range(len(cuts)), key=within.__getitem__)
    assert float(threshold) == pytest.approx(cuts[best], abs=1 / 64)
    total = float(flat.var(correction=0))
    assert float(explained) == pytest.approx(1 - within[best] / total, abs=0.01)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
