"""The teacher: what goes into the backbone and what of it is kept."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
from torch import nn

from medrd.models.build import shapes_only
from medrd.models.lite0 import Lite0
from medrd.models.teacher import ResidualLayout, Teacher, TokenTeacher, middle_layers


def test_levels_are_those_of_the_whole_network() -> None:
    """Cutting the unused stages must not change what is left (blocks 5 and 6, the head)."""
    torch.manual_seed(0)
    teacher = Teacher("tf_efficientnet_lite0").eval()
    whole = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    state = whole.state_dict() | teacher.backbone.state_dict()
    whole.load_state_dict(state)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        mine = teacher(images)
        theirs = whole((images * 255 - 127) / 128)[1:4]
    for a, b in zip(mine, theirs, strict=True):
        # Normalised in another order, and summed in one that depends on the threads.
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
    assert sum(p.numel() for p in teacher.parameters()) < sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [64, 70])
def test_lite0_is_timms_to_the_bit(training: bool, size: int) -> None:
    """Names, initial weights from a seed and features; old models and seeds depend on them."""
    networks, states = [], []
    for make in (Lite0, partial(timm.create_model, "tf_efficientnet_lite0", features_only=True)):
        torch.manual_seed(0)
        networks.append(make(out_indices=(1, 2, 3, 4)).train(training))
        states.append(torch.get_rng_state())
    mine, theirs = networks
    assert torch.equal(*states)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    assert [p.shape for p in mine.parameters()] == [p.shape for p in theirs.parameters()]
    for key in ("channels", "reduction", "module_name"):
        assert getattr(mine.feature_info, key)() == getattr(theirs.feature_info, key)()
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        for a, b in zip(mine(images), theirs(images), strict=True):
            assert torch.equal(a, b)
    for key, value in theirs.state_dict().items():  # statistics too
        assert torch.equal(mine.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2", "resnet18.tv_in1k"])
def test_a_resnet_gets_imagenets_normalisation_and_loses_its_fourth_stage(name: str) -> None:
    with shapes_only():
        teacher = Teacher(name)
    assert not any("layer4" in key for key in teacher.state_dict())
    teacher = Teacher("resnet18")
    torch.testing.assert_close(teacher.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(teacher.std.flatten(), torch.tensor([0.229, 0.224, 0.225]))


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("resnet18", ResidualLayout(None, (2, 2, 2, 2))),
        ("resnet26", ResidualLayout(1 / 4, (2, 2, 2, 2))),
        ("resnet50d", ResidualLayout(1 / 4, (3, 4, 6, 3))),
        ("resnet101", ResidualLayout(1 / 4, (3, 4, 23, 3))),
        ("wide_resnet50_2", ResidualLayout(1 / 2, (3, 4, 6, 3))),
        ("resnext50_32x4d", None),
        ("res2net50d", None),
        ("tf_efficientnet_lite0", None),
    ],
)
def test_the_layout_of_any_resnet_is_known(name: str, layout: ResidualLayout | None) -> None:
    with shapes_only():
        assert Teacher(name).layout == layout


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("swin_tiny_patch4_window7_224", "takes no images of 64"),  # of one size only
        ("mambaout_femto", "levels of the shapes"),  # channels last
    ],
)
def test_a_backbone_whose_levels_are_no_feature_maps_is_refused(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Teacher(name)


def test_images_are_normalised_before_the_backbone() -> None:
    teacher = Teacher("resnet18")
    seen = []

    class Spy(nn.Module):
        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            seen.append(images)
            return []

    teacher.backbone = Spy()
    teacher(torch.full((1, 3, 2, 2), 0.5))
    expected = [(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225]
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("depth", "layers"),
    [
        (12, (2, 3, 4, 5, 6, 7, 8, 9)),
        (24, (4, 6, 8, 10, 12, 14, 16, 18)),
        (40, (6, 10, 13, 16, 20, 23, 26, 30)),
        (8, (1, 2, 3, 4, 5, 6)),
    ],
)
def test_the_layers_are_dinomalys_and_their_like_at_other_depths(
    depth: int, layers: tuple[int, ...]
) -> None:
    assert middle_layers(depth) == layers


@pytest.mark.parametrize(
    ("name", "prefix", "patch"),
    [("test_vit2", 1, 16), ("vit_tiny_patch16_dinov3_qkvb", 5, 16)],
)
def test_tokens_are_those_of_the_whole_networks_blocks(name: str, prefix: int, patch: int) -> None:
    torch.manual_seed(0)
    teacher = TokenTeacher(name).eval()
    whole = timm.create_model(name, dynamic_img_size=True).eval()
    whole.load_state_dict(whole.state_dict() | teacher.backbone.state_dict())
    seen = []
    for layer in teacher.layers:
        whole.blocks[layer].register_forward_hook(lambda *given: seen.append(given[2]))
    images = torch.rand(1, 3, 2 * patch, 3 * patch)
    with torch.no_grad():
        found = teacher(images)
        whole((images - teacher.mean) / teacher.std)
    assert (teacher.prefix, teacher.strides) == (prefix, (patch,))
    assert len(found) == len(seen)
    for mine, block in zip(found, seen, strict=True):
        assert mine.shape == (1, prefix + 6, teacher.width)
        torch.testing.assert_close(mine, block)
    assert len(teacher.backbone.blocks) == teacher.layers[-1] + 1


def test_tokens_of_a_network_without_a_class_token_are_its_patches() -> None:
    with torch.device("meta"):
        teacher = TokenTeacher("vit_base_patch16_siglip_224")
        tokens = teacher(torch.rand(2, 3, 32, 48))
    assert [level.shape for level in tokens] == [(2, 6, 768)] * 8


@pytest.mark.parametrize("name", ["vit_small_r26_s32_224", "vit_small_patch16_18x2_224"])
def test_a_transformer_of_another_build_is_refused(name: str) -> None:
    with shapes_only(), pytest.raises(ValueError, match=f"(tokens of )?{name}"):
        TokenTeacher(name)
