"""The teacher: a timm backbone cut after the deepest level that is read.

timm is imported inside the functions, and not for the embedded teacher, which is in
:mod:`medrd.models.lite0`: the import takes seconds.
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
"""Also layer4, from which some decoders start."""
_PROBE = 64
"""Side in pixels of the image that a backbone is tried with."""
_checked: set[tuple[str, tuple[int, ...]]] = set()
"""Names and strides of the backbones that this process has tried."""


@dataclass(frozen=True)
class ResidualLayout:
    """The structure of a ResNet, for a student that mirrors it.

    Attributes
    ----------
    width_ratio
        Channels of a block's 3x3 convolution over those of its output: 1/4 in ResNet-50,
        1/2 in Wide-ResNet-50-2; None for basic blocks (two 3x3 convolutions).
    blocks
        How many in each of the four layers.
    """

    width_ratio: float | None
    blocks: tuple[int, int, int, int]


class Teacher(nn.Module):
    """Levels of features of a timm backbone, shallow to deep.

    Parameters
    ----------
    name
        A timm model with feature levels at strides 4, 8 and 16 (``wide_resnet50_2``,
        ``tf_efficientnet_lite0``, ``convnext_tiny`` …). Weights are random; loading is
        the caller's part.
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

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, strides: Sequence[int] = LEVEL_STRIDES) -> None:
        super().__init__()
        probe = _backbone(name)
        found = list(_levels(probe).reduction())
        if any(stride not in found for stride in strides):
            raise ValueError(f"{name} has levels at strides {found}, not at {list(strides)}")
        indices = tuple(found.index(stride) for stride in strides)
        self.backbone = _backbone(name, out_indices=indices)
        self.name = name
        self.layout = _residual_layout(probe)
        self.channels: tuple[int, ...] = tuple(_levels(self.backbone).channels())
        self.strides: tuple[int, ...] = tuple(_levels(self.backbone).reduction())
        _drop_unused_stages(self.backbone)
        if (name, self.strides) not in _checked:
            _check_levels(self.backbone, name, self.channels, self.strides)
            _checked.add((name, self.strides))
        mean, std = _normalisation(name)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> levels (B, C_l, H / stride_l, W / stride_l)."""
        features: list[Tensor] = self.backbone((images - self.mean) / self.std)
        return features


def _is_lite0(name: str) -> bool:
    return name.split(".")[0] == LITE0


def _backbone(name: str, **settings: Any) -> nn.Module:
    """A network that returns levels of features. Raises ValueError."""
    if _is_lite0(name):
        return Lite0(**settings)
    import timm

    if name.split(".")[0] not in timm.list_models():
        raise ValueError(f"timm has no model named {name}")
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=False, features_only=True, **settings
        )
    except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
        raise ValueError(f"timm cannot read features from {name}: {error}") from None
    return network


def _levels(backbone: nn.Module) -> FeatureInfo | Lite0Levels:
    """The description of the levels that a backbone returns."""
    info: FeatureInfo | Lite0Levels = backbone.feature_info  # type: ignore[assignment]
    return info


def _check_levels(
    backbone: nn.Module, name: str, channels: Sequence[int], strides: Sequence[int]
) -> None:
    """See that the levels come as (B, C, H, W) for images of any suitable size.

    timm has backbones of one image size, and such whose levels are (B, H, W, C).
    """
    like = next(backbone.parameters())
    image = torch.zeros(1, 3, _PROBE, _PROBE, device=like.device, dtype=like.dtype)
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            found = [tuple(level.shape) for level in backbone(image)]
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise ValueError(f"{name} takes no images of {_PROBE}² pixels: {error}") from None
    finally:
        backbone.train(training)
    expected = [(1, c, _PROBE // s, _PROBE // s) for c, s in zip(channels, strides, strict=True)]
    if found != expected:
        raise ValueError(f"{name} has levels of the shapes {found}, not {expected}")


def _residual_layout(probe: nn.Module) -> ResidualLayout | None:
    """Read off timm's own modules, so that every ResNet of timm's is known."""
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
    """Drop the stages after the deepest level, which timm would compute for nothing."""
    module_name = _levels(backbone).module_name()[-1]
    blocks = getattr(backbone, "blocks", None)
    if isinstance(blocks, nn.Sequential) and module_name.startswith("blocks."):
        last = int(module_name.split(".")[1])
        backbone.blocks = blocks[: last + 1]


def _normalisation(name: str) -> tuple[Sequence[float], Sequence[float]]:
    if _is_lite0(name):
        # The embedded weights were trained on (x - 127) / 128 with x in 0..255.
        return [127 / 255] * 3, [128 / 255] * 3
    import timm

    config = timm.get_pretrained_cfg(name)
    mean = getattr(config, "mean", None) or (0.485, 0.456, 0.406)
    std = getattr(config, "std", None) or (0.229, 0.224, 0.225)
    return mean, std
