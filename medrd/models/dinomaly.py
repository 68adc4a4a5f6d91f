"""Dinomaly: reverse distillation of a vision transformer.

Guo et al., "Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised Anomaly Detection",
CVPR 2025, after the released code:

- the mean of eight middle layers of a frozen transformer (all tokens, including class and
  registers) goes through one MLP with dropout ("noisy bottleneck") and eight blocks of linear
  attention, which cannot focus and so hardly copies;
- the decoder reconstructs not the layers but the means of two groups of them ("loose
  reconstruction"): its last four blocks reconstruct the first four layers, its first four the last;
- the loss is one cosine per flattened group, in which easy points get a tenth of their gradient.

We have read the code and the abstract, not the paper. Where the released scripts differ, we follow
the one for a single class of MVTec AD. Others have a dropout of 0.4 (all classes of Real-IAD at
once), an eps of 1e-10 in AdamW, or more iterations. In that script, 5,000 iterations begin with a
warm-up of 100, and the share of easy points rises during the first 1,000; here both are shares of
the training.

There are two more differences: timm resamples the position embeddings with antialiasing, and the
config's Gaussian smooths the maps instead of 5 x 5 weights at 256 x 256 pixels (standard deviation
1.4 pixels).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medrd.models.cosine import global_distance, pixel_distance, summed_map
from medrd.models.detector import Batch, Detector, OptimizerSpec, Step, group, warmed_up_cosine
from medrd.models.settings import ModelSection, Rate, TransformerTeacherConfig, Weight
from medrd.models.teacher import TokenTeacher

WARM_UP = 0.02
"""Share of the training in which the learning rate rises from 0."""
RAMP = 0.2
"""Share of the training in which the share of easy points rises from 0 to :data:`EASY`."""
EASY = 0.9
EASY_GRADIENT = 0.1
"""Factor on the gradient of easy points."""
CLIP_NORM = 0.1


class DinomalyConfig(ModelSection):
    """Dinomaly, Guo et al., CVPR 2025."""

    name: Literal["dinomaly"] = "dinomaly"
    # Validated, so that the error about the missing weights says what there is.
    teacher: TransformerTeacherConfig = Field(default_factory=dict, validate_default=True)
    dropout: float = Field(0.2, ge=0, lt=1)
    """Of the bottleneck; 0.4 in the released run over all of Real-IAD."""
    lr: Rate = 2e-3
    final_lr: Rate = 2e-4
    """Learning rate at the end of the training."""
    weight_decay: Weight = 1e-4


class Dinomaly(Detector):
    """Frozen transformer, trainable bottleneck and decoder.

    Parameters
    ----------
    teacher
        Built and loaded; it is frozen here. The decoder has a block for each of its layers.
    settings
        Its section of a config.
    """

    section = DinomalyConfig
    source = "Guo et al., CVPR 2025"
    teacher_kind = TokenTeacher

    def __init__(self, teacher: TokenTeacher, settings: DinomalyConfig) -> None:
        super().__init__()
        self.settings = settings
        self.teacher = teacher
        width = teacher.width
        self.bottleneck = nn.Sequential(
            nn.Dropout(settings.dropout), *_mlp(width, settings.dropout)
        )
        self.decoder = nn.ModuleList(Block(width, teacher.heads) for _ in teacher.layers)
        _initialise(self.bottleneck, self.decoder)
        (self.size_multiple,) = teacher.strides
        self.freeze(teacher)

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Teacher's and student's two groups of (B, 3, H, W) images, the shallower first.

        (B, C, H / patch, W / patch) each.
        """
        with torch.no_grad():
            layers = self.teacher(images)
        tokens, outputs = self.bottleneck(_mean(layers)), []
        for block in self.decoder:
            tokens = block(tokens)
            outputs.append(tokens)
        outputs.reverse()  # in the teacher's order: the last block gives the shallowest layer
        half = len(layers) // 2
        size = tuple(side // self.size_multiple for side in images.shape[-2:])
        targets, outputs = (
            [self._as_map(_mean(part), size) for part in (levels[:half], levels[half:])]
            for levels in (layers, outputs)
        )
        return targets, outputs

    def distillation_loss(self, batch: Batch) -> Tensor:
        """Mean over both groups of the mined cosine distance: a scalar in [0, 2]."""
        targets, outputs = self.features(batch.images)
        easy = EASY * min(batch.progress / RAMP, 1)
        return torch.stack(
            [mined_distance(a, b, easy) for a, b in zip(targets, outputs, strict=True)]
        ).mean()

    def schedule(self, progress: float) -> float:
        """Factor on the learning rate at this share of the training."""
        settings = self.settings
        return warmed_up_cosine(progress, WARM_UP, last=settings.final_lr / settings.lr)

    def steps(self) -> list[Step]:
        """One: StableAdamW on bottleneck and decoder, with the gradient clipped too."""
        settings = self.settings
        optimizer = {"lr": settings.lr, "weight_decay": settings.weight_decay, "amsgrad": True}
        return [
            Step(
                name="distil",
                groups=[group(self.bottleneck, self.decoder)],
                optimizer=OptimizerSpec("stable_adamw", optimizer, self.schedule, CLIP_NORM),
                loss=self.distillation_loss,
            )
        ]

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Mean of the groups' cosine distances, in [0, 2]: (B, H, W) float32."""
        targets, outputs = self.features(images)
        return summed_map(targets, outputs, images) / len(targets)

    def _as_map(self, tokens: Tensor, size: tuple[int, ...]) -> Tensor:
        """(B, prefix + h w, C) -> (B, C, h, w)."""
        return tokens[:, self.teacher.prefix :].transpose(1, 2).unflatten(2, size)


class LinearAttention(nn.Module):
    """Attention whose weights are products of ELU + 1 instead of a softmax.

    Katharopoulos et al., "Transformers are RNNs", ICML 2020. The sum over keys comes first, so time
    and memory grow with the number of tokens, not with its square.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = _positive(q), _positive(k)
        total = (q * k.sum(-2, keepdim=True)).sum(-1, keepdim=True)
        mixed = q @ (k.transpose(-2, -1) @ v) / total
        attended: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return attended


class Block(nn.Module):
    """A transformer block with linear attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-8)
        self.attention = LinearAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-8)
        self.mlp = _mlp(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        tokens = tokens + self.attention(self.norm1(tokens))
        result: Tensor = tokens + self.mlp(self.norm2(tokens))
        return result


def mined_distance(target: Tensor, output: Tensor, easy: float) -> Tensor:
    """Mean over images of 1 - cosine of the flattened levels; easy points learn less.

    (B, C, H, W) x 2 -> scalar. Its value does not depend on ``easy``, the share of the batch's
    points (those of the smallest cosine distance) whose gradient is multiplied by
    :data:`EASY_GRADIENT`.
    """
    with torch.no_grad():
        distance = pixel_distance(target, output)
        hard = max(1, int(distance.numel() * (1 - easy)))
        threshold = distance.flatten().topk(hard).values[-1]
        weight = torch.where(distance < threshold, EASY_GRADIENT, 1.0)[:, None]
    # Interpolating a tensor with its detached copy keeps the value and scales the gradient.
    gated = torch.lerp(output.detach().float(), output.float(), weight)
    return global_distance(target, gated).mean()


def _mlp(width: int, dropout: float = 0.0) -> nn.Sequential:
    """Two linear layers, four times as wide between them; dropout after each."""
    return nn.Sequential(
        nn.Linear(width, 4 * width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(4 * width, width),
        nn.Dropout(dropout),
    )


def _positive(x: Tensor) -> Tensor:
    """ELU + 1, written so that bfloat16 does not round small values to 0."""
    return x.clamp(max=0).exp() + x.relu()


def _mean(levels: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(levels)).mean(0)


def _initialise(*networks: nn.Module) -> None:
    """Initialise as in the released code."""
    for network in networks:
        for module in network.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.01, a=-0.03, b=0.03)
                nn.init.zeros_(module.bias)
