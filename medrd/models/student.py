"""The students: that of reverse distillation (fusion, embedding, and a decoder back to the levels),
and a new encoder of the teacher's architecture.

Deng & Li, CVPR 2022, after the released code; RD++, RD with Expert and others build on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from medrd.models.blocks import Block, basic, bottleneck, conv_bn_relu
from medrd.models.teacher import ResidualLayout, Teacher


class Bottleneck(nn.Module):
    """Multi-scale fusion and one-class embedding ("OCBE").

    Strided 3x3 convolutions bring each level to the deepest one's size and width; the three are
    concatenated, and ``depth`` residual blocks embed them at half that size.

    Parameters
    ----------
    channels, strides
        Those of the teacher's levels.
    block, depth
        Kind and number of residual blocks.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], *, block: Block, depth: int
    ) -> None:
        super().__init__()
        self.fuse = nn.ModuleList(
            _downsampler(channels[level:], strides[level:]) for level in range(len(channels))
        )
        wide, out = len(channels) * channels[-1], 2 * channels[-1]
        blocks = [block(wide, out, stride=2)]
        blocks += [block(out, out) for _ in range(depth - 1)]
        self.embed = nn.Sequential(*blocks)
        self.out_channels = out

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Teacher levels -> (B, 2 C_3, H_3 / 2, W_3 / 2)."""
        fused = [fuse(level) for fuse, level in zip(self.fuse, features, strict=True)]
        result: Tensor = self.embed(torch.cat(fused, dim=1))
        return result


def _downsampler(channels: Sequence[int], strides: Sequence[int]) -> nn.Module:
    """3x3 stride-2 convolutions through the widths of the deeper levels."""
    layers: list[nn.Module] = []
    for i in range(len(channels) - 1):
        ratio, rest = divmod(strides[i + 1], strides[i])
        if rest or ratio & (ratio - 1):
            raise ValueError(f"levels at strides {list(strides)} are not powers of two apart")
        width = channels[i]
        while ratio > 1:
            layers += conv_bn_relu(width, channels[i + 1], stride=2)
            width, ratio = channels[i + 1], ratio // 2
    return nn.Sequential(*layers)


class Decoder(nn.Module):
    """The student: from the embedding back to the teacher's levels, deepest first.

    Parameters
    ----------
    in_channels
        Channels of the embedding.
    channels, strides
        Those of the teacher's levels, shallow to deep.
    block
        Kind of residual block.
    blocks
        Number of blocks in each stage, deepest stage first (3, 4, 6 for 50 layers).
    signed
        True if the teacher's features can be negative: the last block of each stage then ends
        without ReLU, so that the student can match them.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        block: Block,
        blocks: Sequence[int],
        signed: bool,
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        stride = 2 * strides[-1]
        for count, width, target in zip(blocks, channels[::-1], strides[::-1], strict=True):
            layers = []
            for i in range(count):
                last = i == count - 1
                layers.append(
                    block(
                        in_channels if i == 0 else width,
                        width,
                        up=stride // target if i == 0 else 1,
                        signed=signed and last,
                    )
                )
            stages.append(nn.Sequential(*layers))
            in_channels, stride = width, target
        self.stages = nn.ModuleList(stages)

    def forward(self, embedding: Tensor) -> list[Tensor]:
        """(B, C, h, w) -> levels in the teacher's order, shallow to deep."""
        levels = []
        for stage in self.stages:
            embedding = stage(embedding)
            levels.append(embedding)
        return levels[::-1]


def fresh_encoder(teacher: Teacher) -> Teacher:
    """A network of the teacher's architecture with random weights: STFPM's kind of student."""
    student = Teacher(teacher.name)
    for module in student.modules():
        # timm starts a ResNet's residual branches at 0, torchvision (and so the paper's
        # student) at 1.
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return student


def reverse_student(teacher: Teacher) -> tuple[Bottleneck, Decoder]:
    """A bottleneck and a decoder for a teacher, initialised as in the released code.

    For ResNets they mirror the teacher: they have its blocks, as many in each stage (in the order
    of the teacher's layers, not reversed), and an embedding as deep as the teacher's fourth layer.
    For any other teacher (EfficientNet, ConvNeXt, …) the design is the same with widths and strides
    taken from the teacher's features: ResNet-34's layout of basic blocks, and signed outputs since
    such teachers end their levels without a ReLU.
    """
    block, counts = _mirrored(teacher)
    fusion = Bottleneck(teacher.channels, teacher.strides, block=block, depth=counts[-1])
    decoder = Decoder(
        fusion.out_channels,
        teacher.channels,
        teacher.strides,
        block=block,
        blocks=counts[:-1],
        signed=teacher.layout is None,
    )
    _initialise(fusion, decoder)
    return fusion, decoder


def deep_decoder(teacher: Teacher, *, bilinear: bool = False) -> Decoder:
    """A decoder without bottleneck, which starts from the teacher's fourth level.

    Parameters
    ----------
    teacher
        A teacher with the levels of :data:`medrd.models.teacher.DEEP_STRIDES`.
    bilinear
        False for the decoder of :func:`reverse_student`; True for EDC's, which upsamples bilinearly
        and has as many blocks per level as the teacher.
    """
    *channels, deepest = teacher.channels
    block, counts = _mirrored(teacher)
    blocks = counts[:-1]
    if bilinear:
        block, blocks = partial(block, bilinear=True), blocks[::-1]
    decoder = Decoder(
        deepest,
        channels,
        teacher.strides[:-1],
        block=block,
        blocks=blocks,
        signed=teacher.layout is None,
    )
    _initialise(decoder)
    return decoder


def _mirrored(teacher: Teacher) -> tuple[Block, tuple[int, ...]]:
    """The teacher's kind of block and their number in each of its layers."""
    layout = teacher.layout or ResidualLayout(None, (3, 4, 6, 3))
    ratio = layout.width_ratio
    return basic if ratio is None else bottleneck(ratio), layout.blocks


def _initialise(*networks: nn.Module) -> None:
    """Initialise as released: ConvTranspose2d is not a Conv2d, and keeps PyTorch's default."""
    for network in networks:
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
