"""PatchCore against its paper: patches, bank, map, reweighted score, and what is left out."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from medrd.models import patchcore
from medrd.models.build import shapes_only
from medrd.models.detector import Batch
from medrd.models.patchcore import PatchCore
from medrd.models.teacher import Teacher
from training import build


@cache
def teacher(name: str) -> Teacher:
    """Frozen by every detector, so all may share it."""
    torch.manual_seed(0)
    return Teacher(name)


def detector(name: str = "resnet18", **settings: Any) -> PatchCore:
    return build(PatchCore, teacher(name), **settings).eval()


def whole(images: Tensor) -> Tensor:
    return torch.ones(len(images), *images.shape[-2:], dtype=torch.bool)


def textures(count: int, *, seed: int = 0, size: int = 64) -> Tensor:
    """Gray stripes with noise, all of one kind."""
    generator = torch.Generator().manual_seed(seed)
    phase = 6.28 * torch.rand(count, 1, 1, generator=generator)
    stripes = 0.5 + 0.2 * torch.sin(torch.arange(size) / 3.0 + phase).expand(-1, size, -1)
    noise = 0.03 * torch.randn(count, size, size, generator=generator)
    return (stripes + noise).clamp(0, 1)[:, None].repeat(1, 3, 1, 1)


def fitted(count: int = 8, **settings: Any) -> PatchCore:
    model = detector(**{"fraction": 0.1, **settings})
    images = textures(count)
    model.collect(Batch(images, whole(images)))
    model.finish(torch.Generator().manual_seed(0))
    return model


@pytest.fixture(scope="module")
def model() -> PatchCore:
    """Shared where it is only looked at: eight textures' 512 patches, 51 kept."""
    return fitted()


def slow_map(model: PatchCore, images: Tensor) -> Tensor:
    """Distances on the grid, in double precision."""
    patches = model.patches(images)
    distances = torch.cdist(patches.flatten(0, 2).double(), model.bank.double()).amin(1)
    return distances.view(patches.shape[:3])


def test_it_is_a_collector_with_nothing_to_train(model: PatchCore) -> None:
    assert model.collects
    assert model.scores_images
    assert model.steps() == []
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.train().teacher.training
    model.eval()


@pytest.mark.parametrize(
    ("name", "width"),
    [("wide_resnet50_2", 1024), ("resnet18", 384), ("tf_efficientnet_lite0", 152)],
)
def test_patches_lie_at_stride_8_with_what_the_teacher_has(name: str, width: int) -> None:
    with shapes_only():
        given = build(PatchCore, name)
        assert given.patches(torch.empty(2, 3, 64, 96)).shape == (2, 8, 12, width)
    assert given.bank.shape == (0, width)
    assert given.bank.dtype == torch.float16


def test_patches_follow_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patchcore, "DIMENSION", 320)
    given = detector()  # 128 channels kept, 256 pooled to 160
    images = textures(2)
    shallow, deep = given.teacher(images)[-2:]
    expected = torch.zeros(2, 8, 8, 288)
    larger = F.interpolate(
        F.pad(deep, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).mean((-1, -2)),
        (8, 8),
        mode="bilinear",
        align_corners=False,
    )
    padded = F.pad(shallow, (1, 1, 1, 1))
    for y in range(8):
        for x in range(8):
            around = padded[:, :, y : y + 3, x : x + 3].mean((2, 3))
            expected[:, y, x, :128] = around * math.sqrt(160 / 128)
            for i in range(160):
                first, last = 256 * i // 160, -(-256 * (i + 1) // 160)
                expected[:, y, x, 128 + i] = larger[:, first:last, y, x].mean(1)
    torch.testing.assert_close(given.patches(images), expected, rtol=1e-4, atol=1e-5)


def test_a_level_weighs_as_if_its_channels_were_repeated() -> None:
    """Released pools 40 channels to 512 numbers by repeating: half of the distance each."""
    given = detector()  # 128 and 256 channels, to 512 each
    one, two = (given.patches(textures(1, seed=seed)).flatten(0, 2) for seed in (1, 2))
    found = (one - two).norm(dim=1)
    factors = torch.tensor([2.0] * 128 + [math.sqrt(2)] * 256)
    plain_one, plain_two = one / factors, two / factors
    repeated = [
        torch.cat([v[:, :128].repeat_interleave(4, 1), v[:, 128:].repeat_interleave(2, 1)], 1)
        for v in (plain_one, plain_two)
    ]
    torch.testing.assert_close(found, (repeated[0] - repeated[1]).norm(dim=1))


def test_the_map_is_the_distance_to_the_nearest_patch_in_the_bank(model: PatchCore) -> None:
    images = textures(2, seed=9)
    with torch.no_grad():
        found = model.anomaly_map(images)
        grid = slow_map(model, images)
    expected = F.interpolate(grid[:, None], (64, 64), mode="bilinear", align_corners=False)[:, 0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found, model(images))


def test_distances_are_float32_in_the_callers_autocast(model: PatchCore) -> None:
    images = textures(1, seed=9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        patches = model.patches(images)
        found, _ = model.to_bank(patches.flatten(0, 2))
    expected = torch.cdist(patches.flatten(0, 2).double(), model.bank.double()).amin(1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_the_image_score_is_the_papers(model: PatchCore) -> None:
    images = textures(3, seed=9)
    _, scores = model.map_and_score(images, whole(images))
    bank = model.bank.double()
    for image, score in zip(images, scores, strict=True):
        patches = model.patches(image[None]).flatten(0, 2).double()
        distances = torch.cdist(patches, bank)
        worst = int(distances.amin(1).argmax())
        m = int(distances[worst].argmin())
        around = (bank - bank[m]).norm(dim=1).argsort()[:9]
        assert m in around
        away = [math.exp(float(distances[worst, i])) for i in around]
        weight = 1 - math.exp(float(distances[worst, m])) / sum(away)
        assert 0 < weight < 1
        assert float(score) == pytest.approx(weight * float(distances[worst, m]), rel=1e-4)


def test_one_neighbour_or_a_bank_of_one_leaves_the_score_as_it_is(model: PatchCore) -> None:
    images = textures(2, seed=9)
    plain = slow_map(model, images).amax((1, 2)).float()
    alone = detector(neighbours=1)
    alone.load_state_dict(model.state_dict())
    torch.testing.assert_close(alone.map_and_score(images, whole(images))[1], plain)
    one = detector()
    one.bank = model.bank[:1]
    expected = slow_map(one, images).amax((1, 2)).float()
    torch.testing.assert_close(one.map_and_score(images, whole(images))[1], expected)


def test_the_score_of_a_very_distant_patch_is_finite() -> None:
    given = fitted()
    given.bank = given.bank + 1000  # exp of these distances is far beyond float32
    images = textures(2, seed=9)
    _, scores = given.map_and_score(images, whole(images))
    assert torch.isfinite(scores).all()
    assert (scores > 1000).all()


def test_air_is_neither_remembered_nor_looked_at() -> None:
    images = textures(4)
    region = whole(images)
    region[..., 32:] = False
    inside = detector(fraction=1.0)
    inside.collect(Batch(images, region))
    assert inside.candidates.seen == 4 * 8 * 4
    inside.finish(torch.Generator().manual_seed(0))
    kept = inside.patches(images)[:, :, :4].flatten(0, 2).half()
    assert set(map(tuple, inside.bank.tolist())) == set(map(tuple, kept.tolist()))

    other = textures(2, seed=5)
    changed = other.clone()
    changed[..., 62:] = 1.0  # so far off that no patch inside sees it
    grid = slow_map(inside, changed)
    found, scores = inside.map_and_score(changed, region[:2])
    assert float(grid[..., 7].max()) > 1.2 * float(grid[..., :4].max())
    torch.testing.assert_close(
        found[..., 36:].double(), found[..., 36:37].double().expand(-1, -1, 28)
    )
    assert (scores <= grid[..., :4].amax((1, 2)) + 1e-4).all()
    exact = F.interpolate(grid[:, None], (64, 64), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(found[..., :28].double(), exact[..., :28], rtol=1e-4, atol=1e-4)


def test_with_everything_inside_the_map_is_the_plain_one(model: PatchCore) -> None:
    images = textures(2, seed=9)
    found, _ = model.map_and_score(images, whole(images))
    torch.testing.assert_close(found, model.anomaly_map(images))


def test_positions_count_by_their_share_of_the_region(model: PatchCore) -> None:
    region = torch.zeros(3, 64, 64, dtype=torch.bool)
    region[0, :12] = True  # the second row of positions is half inside
    region[0, 12, :8] = True
    region[1, 20:23, 20:23] = True  # nowhere half inside
    counting = model.counting(region, (8, 8))
    assert counting[0, :2].all()
    assert not counting[0, 2:].any()
    assert counting[1].nonzero().tolist() == [[2, 2]]
    assert not counting[2].any()


def test_an_empty_region_scores_0_and_changes_no_other_image(model: PatchCore) -> None:
    images = textures(3, seed=9)
    region = whole(images)
    region[1] = False
    maps, scores = model.map_and_score(images, region)
    plain_maps, plain = model.map_and_score(images, whole(images))
    assert float(scores[1]) == 0
    assert not maps[1].any()
    assert torch.equal(scores[::2], plain[::2])
    assert torch.equal(maps[::2], plain_maps[::2])
    maps, scores = model.map_and_score(images, region & False)
    assert not maps.any()
    assert not scores.any()


def test_the_bank_is_saved_in_any_size_and_the_candidates_are_not(model: PatchCore) -> None:
    state = model.state_dict()
    assert [key for key in state if not key.startswith("teacher.")] == ["bank"]
    assert len(state["bank"]) == 51
    other = detector()
    images = textures(1)
    other.collect(Batch(images, whole(images)))
    assert len(other.state_dict()["bank"]) == 0
    for assign in (False, True):
        other.load_state_dict(state, assign=assign)
        given = textures(2, seed=9)
        assert torch.equal(other.anomaly_map(given), model.anomaly_map(given))
    fresh = {key: value.clone() for key, value in state.items()} | {"bank": state["bank"][:0]}
    other.load_state_dict(fresh)
    assert len(other.bank) == 0
    assert len(model.bank) == 51


def test_a_bank_of_another_width_is_refused(
    model: PatchCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patchcore, "DIMENSION", 64)
    with pytest.raises(RuntimeError, match="bank"):
        detector().load_state_dict(model.state_dict())


def test_an_empty_bank_says_so() -> None:
    given, images = detector(), textures(1)
    with pytest.raises(ValueError, match="bank of patches is empty"):
        given.anomaly_map(images)
    with pytest.raises(ValueError, match="bank of patches is empty"):
        given.map_and_score(images, whole(images))


def test_nothing_to_remember_says_so() -> None:
    given, images = detector(), textures(1)
    given.collect(Batch(images, whole(images) & False))
    with pytest.raises(ValueError, match="nothing was collected"):
        given.finish(torch.Generator())


def test_collecting_again_starts_afresh() -> None:
    given, images = detector(fraction=1.0), textures(1)
    for _ in range(2):
        given.collect(Batch(images, whole(images)))
        given.finish(torch.Generator().manual_seed(0))
        assert len(given.bank) == 64


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_a_planted_anomaly_stands_out(name: str) -> None:
    given = fitted(name=name)
    images = textures(8, seed=7)
    lesion = torch.zeros(8, 64, 64, dtype=torch.bool)
    lesion[:4, 24:40, 16:32] = True
    images = images.masked_fill(lesion[:, None], 1.0)
    maps, scores = given.map_and_score(images, whole(images))
    assert scores[:4].min() > scores[4:].max()
    assert roc_auc_score(lesion[:4].flatten(), maps[:4].flatten()) > 0.9


def test_pools_are_thinned_inside_bfloat16_autocast() -> None:
    detector = build(PatchCore, "resnet18", fraction=0.1)
    detector.candidates.pool = 50
    region = torch.ones(2, 64, 64, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(3):
            detector.collect(Batch(torch.rand(2, 3, 64, 64), region))
    assert len(detector.candidates) < 3 * 2 * 64
    detector.finish(torch.Generator().manual_seed(0))
    assert len(detector.bank) == 38
