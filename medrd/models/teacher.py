"""Teachers: timm backbones, cut off after the deepest level in use.

timm takes seconds to import, so it is imported inside the functions, and not for the embedded
teacher, which is in :mod:`medrd.models.lite0`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medrd.models.lite0 import NAME as LITE0
from medrd.models.lite0 import Lite0, Lite0Levels

if TYPE_CHECKING:
    from timm.models import FeatureInfo

LEVEL_STRIDES = (4, 8, 16)
"""The levels that RD4AD, STFPM and similar methods read: layer1 to layer3 of a ResNet."""
DEEP_STRIDES = (*LEVEL_STRIDES, 32)
"""These and layer4, from which some decoders start."""
_PROBE = 64
"""Side in pixels of the image on which backbones are tested."""
_checked: set[tuple[str, tuple[int, ...]]] = set()
"""Names and strides of the backbones that this process has tested."""


@dataclass(frozen=True)
class ResidualLayout:
    """The structure of a ResNet, for a student that mirrors it.

    Attributes
    ----------
    width_ratio
        Channels of a block's 3x3 convolution over those of its output: 1/4 in ResNet-50,
        1/2 in Wide-ResNet-50-2; None for basic blocks (two 3x3 convolutions).
    blocks
        Number of blocks in each of the four layers.
    """

    width_ratio: float | None
    blocks: tuple[int, int, int, int]


class Backbone(nn.Module):
    """A timm network with the image normalisation that it expects.

    Weights are random; the caller loads others.

    Raises
    ------
    ValueError
        Unknown to timm.
    """

    backbone: nn.Module
    strides: tuple[int, ...]
    mean: Tensor
    std: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        mean, std = _normalisation(name)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> what the backbone was trained on."""
        return (images - self.mean) / self.std


class Teacher(Backbone):
    """Levels of features of a timm backbone, shallow to deep.

    Parameters
    ----------
    name
        A timm model with feature levels at strides 4, 8 and 16 (``wide_resnet50_2``,
        ``tf_efficientnet_lite0``, ``convnext_tiny`` …).
    strides
        Strides of the levels; the usual three, or :data:`DEEP_STRIDES`.

    Attributes
    ----------
    channels, strides
        Those of the levels.
    layout
        For ResNets and Wide-ResNets; None for networks of other kinds.

    Raises
    ------
    ValueError
        Unknown to timm, or without those levels.
    """

    def __init__(self, name: str, strides: Sequence[int] = LEVEL_STRIDES) -> None:
        super().__init__(name)
        probe = _backbone(name)
        found = list(_levels(probe).reduction())
        if _is_transformer(getattr(probe, "model", None)):
            raise ValueError(
                f"{name} is a vision transformer, all of whose levels have stride {found[-1]}; "
                f"this detector needs strides {list(strides)} (dinomaly takes vision transformers)"
            )
        if any(stride not in found for stride in strides):
            raise ValueError(f"{name} has levels at strides {found}, not at {list(strides)}")
        indices = tuple(found.index(stride) for stride in strides)
        self.backbone = _backbone(name, out_indices=indices)
        self.layout = _residual_layout(probe)
        self.channels: tuple[int, ...] = tuple(_levels(self.backbone).channels())
        self.strides = tuple(_levels(self.backbone).reduction())
        _drop_unused_stages(self.backbone)
        if (name, self.strides) not in _checked:
            _check_levels(self.backbone, name, self.channels, self.strides)
            _checked.add((name, self.strides))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> levels (B, C_l, H / stride_l, W / stride_l)."""
        features: list[Tensor] = self.backbone(self.normalise(images))
        return features


class DeepTeacher(Teacher):
    """A teacher with a fourth level, for decoders that start from it."""

    def __init__(self, name: str) -> None:
        super().__init__(name, DEEP_STRIDES)


class TokenTeacher(Backbone):
    """Tokens of the middle blocks of a vision transformer, shallow to deep.

    They come as the blocks return them, without the network's last LayerNorm.

    Parameters
    ----------
    name
        A plain vision transformer of timm's that takes images of any multiple of its patch
        (``vit_base_patch14_reg4_dinov2``, ``vit_small_patch16_dinov3`` …). Position embeddings are
        resampled to the image as timm does it.

    Attributes
    ----------
    strides
        The side of a patch, in pixels.
    width, heads
        Of a token, and of a block's attention.
    layers
        The blocks whose tokens are read, counted from 0; see :func:`middle_layers`.
    prefix
        How many tokens (class, registers) stand before those of the patches.

    Raises
    ------
    ValueError
        Unknown to timm, or not such a network.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        import timm

        backbone: Any
        try:
            backbone = timm.create_model(
                name, pretrained=False, num_classes=0, dynamic_img_size=True
            )
        except (RuntimeError, AttributeError, AssertionError, TypeError):
            backbone = None
        if not _is_transformer(backbone):
            raise ValueError(
                f"{name} is not a plain vision transformer for any image size, which this detector "
                "needs (vit_base_patch14_reg4_dinov2, for example)"
            )
        self.layers = middle_layers(len(backbone.blocks))
        backbone.prune_intermediate_layers(list(self.layers), prune_norm=True)
        self.backbone = backbone
        self.width: int = backbone.embed_dim
        self.prefix: int = backbone.num_prefix_tokens
        patch: int = backbone.patch_embed.patch_size[0]
        self.strides = (patch,)
        try:
            self.heads: int = backbone.blocks[0].attn.num_heads
            with torch.no_grad():
                found = tuple(self(_blank(backbone, 2 * patch))[0].shape)
        except (AttributeError, RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(f"tokens of {name} cannot be read: {error}") from None
        if found != (1, self.prefix + 4, self.width):
            raise ValueError(f"{name} has tokens of the shape {found} for 2² patches")

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> tokens (B, prefix + H W / patch², width) by layer."""
        backbone: Any = self.backbone
        levels = backbone.forward_intermediates(
            self.normalise(images),
            indices=list(self.layers),
            return_prefix_tokens=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        if not self.prefix:
            return list(levels)
        return [torch.cat((prefix, patches), dim=1) for patches, prefix in levels]


def middle_layers(depth: int) -> tuple[int, ...]:
    """The blocks that Dinomaly reads, of a transformer with this number of blocks.

    As published, 2 to 9 of 12 and 4, 6, … 18 of 24. For other depths, they are evenly spaced
    between the same shares, and fewer than eight if a block would occur twice.

    Raises
    ------
    ValueError
        There would be fewer than two.
    """
    layers = sorted({depth * twelfths // 12 for twelfths in range(2, 10)})
    if len(layers) < 2:
        raise ValueError(f"a transformer of {depth} blocks is too shallow")
    return tuple(layers)


def _is_lite0(name: str) -> bool:
    return name.split(".")[0] == LITE0


def _backbone(name: str, **settings: Any) -> nn.Module:
    """A network that returns levels of features. Raises ValueError."""
    if _is_lite0(name):
        return Lite0(**settings)
    import timm

    try:
        network: nn.Module = timm.create_model(
            name, pretrained=False, features_only=True, **settings
        )
    except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
        raise ValueError(f"timm cannot read features from {name}: {error}") from None
    return network


def _is_transformer(network: nn.Module | None) -> bool:
    """Whether it is a plain vision transformer: one width and one stride throughout."""
    if network is None:
        return False
    from timm.models.eva import Eva  # RoPE ViTs, DINOv3 among them
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(network, VisionTransformer | Eva)


def _levels(backbone: nn.Module) -> FeatureInfo | Lite0Levels:
    """The description of the levels that a backbone returns."""
    info: FeatureInfo | Lite0Levels = backbone.feature_info  # type: ignore[assignment]
    return info


def _check_levels(
    backbone: nn.Module, name: str, channels: Sequence[int], strides: Sequence[int]
) -> None:
    """Check that the levels are (B, C, H, W) for images of any suitable size.

    Some timm backbones take only one image size, and some have levels (B, H, W, C).
    """
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            found = [tuple(level.shape) for level in backbone(_blank(backbone, _PROBE))]
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise ValueError(f"{name} takes no images of {_PROBE}² pixels: {error}") from None
    finally:
        backbone.train(training)
    expected = [(1, c, _PROBE // s, _PROBE // s) for c, s in zip(channels, strides, strict=True)]
    if found != expected:
        raise ValueError(f"{name} has levels of the shapes {found}, not {expected}")


def _blank(network: nn.Module, side: int) -> Tensor:
    """A black image on the network's device."""
    like = next(network.parameters())
    return torch.zeros(1, 3, side, side, device=like.device, dtype=like.dtype)


def _residual_layout(probe: nn.Module) -> ResidualLayout | None:
    """Read the layout from timm's own modules, so that it is right for every ResNet in timm."""
    layers = [getattr(probe, f"layer{i}", None) for i in range(1, 5)]
    if not all(isinstance(layer, nn.Sequential) for layer in layers):
        return None
    from timm.models.resnet import BasicBlock, Bottleneck

    counts = tuple(len(layer) for layer in layers if isinstance(layer, nn.Sequential))
    block = layers[2][0] if isinstance(layers[2], nn.Sequential) else None
    ratio: float | None
    if type(block) is BasicBlock:
        ratio = None
    elif type(block) is Bottleneck and block.conv2.groups == 1:
        ratio = block.conv2.out_channels / block.conv3.out_channels
    else:  # grouped or otherwise different residual networks
        return None
    return ResidualLayout(ratio, (counts[0], counts[1], counts[2], counts[3]))


def _drop_unused_stages(backbone: nn.Module) -> None:
    """Drop the stages after the deepest level, which timm would compute in vain."""
    module_name = _levels(backbone).module_name()[-1]
    blocks = getattr(backbone, "blocks", None)
    if isinstance(blocks, nn.Sequential) and module_name.startswith("blocks."):
        last = int(module_name.split(".")[1])
        backbone.blocks = blocks[: last + 1]


def _normalisation(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation that a network expects. Raises ValueError."""
    if _is_lite0(name):
        # The embedded weights were trained on (x - 127) / 128 with x in 0..255.
        return [127 / 255] * 3, [128 / 255] * 3
    import timm

    if name.split(".")[0] not in timm.list_models():
        raise ValueError(f"timm has no model named {name}")
    config = timm.get_pretrained_cfg(name)
    mean = getattr(config, "mean", None) or (0.485, 0.456, 0.406)
    std = getattr(config, "std", None) or (0.229, 0.224, 0.225)
    return mean, std
