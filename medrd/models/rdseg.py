"""Reverse distillation with a segmentation head, which also sees the image itself.

This is our design from published parts. As in DeSTSeg (Zhang et al., "DeSTSeg: Segmentation Guided
Denoising Student-Teacher for Anomaly Detection", CVPR 2023), a student learns to restore the frozen
teacher's features of the *healthy* image from an image with a simulated anomaly, and a head learns
to segment the anomaly from both networks' features. Unlike in DeSTSeg, the student is that of
reverse distillation (Deng & Li, CVPR 2022), the head also sees the image at full resolution and its
mirror image, and brightness is added to its output: on FLAIR, brightness is the baseline that few
methods reach (Meissen et al. 2021), and it sharpens the outline of what the head finds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Final, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medrd.models.blocks import conv_bn_relu
from medrd.models.cosine import summed_distance, summed_map
from medrd.models.detector import Batch, Detector, OptimizerSpec, Step, group, warmed_up_cosine
from medrd.models.settings import ModelSection, Rate, SimulationConfig, TeacherConfig, Weight
from medrd.models.student import reverse_student
from medrd.models.teacher import Teacher

WARM_UP = 0.1
"""Share of the training in which the learning rate rises."""
FIRST_FACTOR = 0.04
"""The learning rate's factor at the first step."""
_BRIGHT_LESIONS: Final = "flair"
"""The modality in which lesions are brightest; on T2 the ventricles are as bright."""


def check_mirror_and_brightness(
    mirror: bool, intensity_weight: float, *, channels: Sequence[str], axis: str, normalise: str
) -> None:
    """Require comparable brightness, and slices that show left and right."""
    if mirror and axis == "sagittal":
        raise ValueError("model.mirror compares left and right, which sagittal slices do not show")
    if intensity_weight == 0:
        return
    if channels[0] != _BRIGHT_LESIONS:
        raise ValueError(
            f"model.intensity_weight adds the brightness of the first channel, {channels[0]}; "
            f"put {_BRIGHT_LESIONS} first in recipe.channels, or set it to 0"
        )
    if normalise != "median":
        raise ValueError(
            "model.intensity_weight needs recipe.normalise: median, which makes brightness "
            f"comparable between scans, not {normalise}; or set it to 0"
        )


class RDSegConfig(ModelSection):
    """Reverse distillation with a segmentation head trained on simulated anomalies."""

    takes_stacks: ClassVar[bool] = True

    name: Literal["rdseg"] = "rdseg"
    teacher: TeacherConfig = TeacherConfig()
    width: int = Field(16, ge=4, le=256)
    """Channels of the head at full resolution."""
    mirror: bool = True
    """Give the head the blurred mirror image too; for upright, centred brains."""
    intensity_weight: Weight = 0.0
    """Weight of brightness (of the first channel, in [0, 1]) in the head's log-odds; 0 if
    brightness is not suspicious."""
    discrepancy_weight: Weight = 0.0
    """Weight of the student's distance from the teacher, summed over the levels as in RD4AD, in the
    map. It shows anomalies unlike all simulated ones, which the head misses."""
    lr: Rate = 1e-3
    """Learning rate of the head."""
    student_lr: Rate = 1e-3
    weight_decay: Weight = 1e-2
    """A setting of AdamW. The rates rise for a tenth of the training, then fall to 0 along a
    cosine."""
    simulation: SimulationConfig = SimulationConfig()

    def check_scans(self, *, channels: tuple[str, ...], axis: str, normalise: str) -> None:
        """Require comparable brightness, and slices that show left and right."""
        check_mirror_and_brightness(
            self.mirror, self.intensity_weight, channels=channels, axis=axis, normalise=normalise
        )


class RDSeg(Detector):
    """A denoising reverse student, and a head that segments where it disagrees with the teacher.

    Parameters
    ----------
    teacher
        Built and loaded; it is frozen here. It sees the slice's first three modalities.
    settings
        Its section of a config.
    modalities, channels
        Number of the slice's own modalities, which come first, and of all channels: neighbouring
        slices and positions may follow. One modality may also be repeated to three equal channels.
    median
        A brain's median intensity under ``recipe.normalise: median``, at which only the head
        decides.
    """

    section = RDSegConfig
    source = "medrd, after DeSTSeg (Zhang et al., CVPR 2023) and RD4AD"
    simulation = "anomalies"

    def __init__(
        self,
        teacher: Teacher,
        settings: RDSegConfig,
        *,
        modalities: int,
        channels: int,
        median: float,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.teacher = teacher
        self.bottleneck, self.decoder = reverse_student(teacher)
        self.modalities, self.channels, self.mirror = modalities, channels, settings.mirror
        self.median = median
        self.head = DiscrepancyHead(
            teacher.channels,
            image_channels=channels + (modalities if settings.mirror else 0),
            width=settings.width,
        )
        self.intensity_weight = settings.intensity_weight
        self.discrepancy_weight = settings.discrepancy_weight
        self.size_multiple = 2 * teacher.strides[-1]
        self.freeze(teacher)

    def log_odds(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Each pixel's log-odds of being anomalous (B, H, W) float32, and the student's levels."""
        log_odds, _, outputs = self._read(images)
        return log_odds, outputs

    def _read(self, images: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The head's log-odds, and the teacher's and the student's levels."""
        features = self._teach(images)
        outputs = self.decoder(self.bottleneck(features))
        # The student learns to restore healthy features, not to help the head.
        seen = [output.detach() for output in outputs]
        shown = images[:, : self.channels]
        if self.mirror:
            shown = torch.cat([shown, mirror_image(images[:, : self.modalities])], dim=1)
        return self.head(shown, features, seen).float(), features, outputs

    @torch.no_grad()
    def _teach(self, images: Tensor) -> list[Tensor]:
        """The teacher's levels of the slice itself."""
        features: list[Tensor] = self.teacher(self.shown_to_teacher(images))
        return features

    def shown_to_teacher(self, images: Tensor) -> Tensor:
        """The slice's first three modalities; repeated if there are fewer."""
        return images[:, [number % self.modalities for number in range(3)]]

    def loss(self, batch: Batch) -> Tensor:
        """The distillation loss from the healthy image, plus the segmentation loss of the anomaly
        in it.

        It is the sum over levels of the flattened cosine distances between the student on the
        changed image and the teacher on the healthy one, plus cross-entropy inside the region and
        half of a soft Dice loss over the batch.
        """
        changed, mask = batch.changed()
        healthy = self._teach(batch.images)
        log_odds, outputs = self.log_odds(changed)
        return summed_distance(healthy, outputs) + outline_loss(log_odds, mask, batch.region)

    def steps(self) -> list[Step]:
        """One: AdamW on student and head."""
        settings = self.settings
        return [
            Step(
                name="distil and outline",
                groups=[
                    group(self.bottleneck, self.decoder, lr=settings.student_lr),
                    group(self.head),
                ],
                optimizer=OptimizerSpec(
                    "adamw",
                    {"lr": settings.lr, "weight_decay": settings.weight_decay},
                    partial(warmed_up_cosine, warm_up=WARM_UP, first=FIRST_FACTOR),
                ),
                loss=self.loss,
            )
        ]

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Log-odds of head and brightness together, softly cut at 0, and the discrepancy.

        (B, C, H, W) -> (B, H, W) float32:
        ``log(1 + exp(log_odds + intensity_weight * (x - median))) + discrepancy_weight * d`` with
        the first channel x, and d in [0, 6] the levels' cosine distances.
        """
        log_odds, features, outputs = self._read(images)
        brightness = images[:, 0].float() - self.median
        result = F.softplus(log_odds + self.intensity_weight * brightness)
        if self.discrepancy_weight > 0:
            result = result + self.discrepancy_weight * summed_map(features, outputs, images)
        return result


def outline_loss(log_odds: Tensor, mask: Tensor, region: Tensor) -> Tensor:
    """Mean cross-entropy inside the region plus half of 1 - soft Dice of the batch: a scalar."""
    target, inside = mask.float(), region.float()
    entropy = F.binary_cross_entropy_with_logits(log_odds, target, reduction="none")
    probability = torch.sigmoid(log_odds) * inside
    parts = (entropy * inside, inside, probability * target, probability, target)
    spread, count, overlap, likely, true = (part.sum() for part in parts)
    dice = (2 * overlap + 1) / (likely + true + 1)
    return spread / count.clamp(min=1) + 0.5 * (1 - dice)


def mirror_image(images: Tensor) -> Tensor:
    """The images with left and right exchanged, blurred by a 7x7 mean (no brain is symmetric)."""
    padded = F.pad(images.flip(-1), (3, 3, 3, 3))
    return _sum_of_seven(_sum_of_seven(padded, -2), -1) / 49


def _sum_of_seven(images: Tensor, dim: int) -> Tensor:
    """The sum of seven neighbours in a row. Adding takes less time than avg_pool2d."""
    length = images.shape[dim] - 6
    result = images.narrow(dim, 0, length).clone()
    for start in range(1, 7):
        result += images.narrow(dim, start, length)
    return result


class DiscrepancyHead(nn.Module):
    """A U-Net that encodes the image at strides 1 to 4 and both networks' features beyond.

    Parameters
    ----------
    channels
        Those of the teacher's levels, shallow to deep; the shallowest must be at stride 4.
    image_channels
        Number of input channels at full resolution.
    width
        Channels at full resolution; twice and three times as many at strides 2 and 4.
    """

    def __init__(self, channels: Sequence[int], *, image_channels: int, width: int) -> None:
        super().__init__()
        full, half, quarter = width, 2 * width, 3 * width
        self.stem_full = _pair(image_channels, full)
        self.stem_half = _pair(full, half, stride=2)
        self.stem_quarter = _pair(half, quarter, stride=2)
        reduced = [quarter + 16 * level for level in range(len(channels))]
        self.read = nn.ModuleList(
            conv_bn_relu(2 * c, r, 1) for c, r in zip(channels, reduced, strict=True)
        )
        self.deepest = conv_bn_relu(reduced[-1], reduced[-1])
        self.join = nn.ModuleList(
            _joining(reduced[level + 1] + reduced[level], reduced[level])
            for level in reversed(range(len(channels) - 1))
        )
        self.at_quarter = nn.Sequential(
            _joining(reduced[0] + quarter, quarter), conv_bn_relu(quarter, quarter)
        )
        self.at_half = _joining(quarter + half, half)
        self.at_full = _joining(half + full, full)
        self.last = nn.Conv2d(full, 1, 1, bias=False)
        # Few pixels are anomalous: start near their share, not at one half.
        self.offset = nn.Parameter(torch.tensor(-3.0))

    def forward(
        self, images: Tensor, features: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Tensor:
        """Images (B, C, H, W), both networks' levels -> log-odds (B, H, W)."""
        full = self.stem_full(images)
        half = self.stem_half(full)
        quarter = self.stem_quarter(half)
        levels = [
            read(torch.cat([a, agreement(a, b)], dim=1))
            for read, a, b in zip(self.read, features, outputs, strict=True)
        ]
        x = self.deepest(levels[-1])
        for join, level in zip(self.join, levels[-2::-1], strict=True):
            x = join((x, level))
        x = self.at_quarter((x, quarter))
        x = self.at_half((x, half))
        x = self.at_full((x, full))
        result: Tensor = self.last(x)[:, 0] + self.offset
        return result


def agreement(features: Tensor, outputs: Tensor) -> Tensor:
    """The product of unit vectors by channel, with a variance near one if they agree: (B, C, H, W).

    Unscaled, its sum over channels is the cosine; the head can weight channels (DeSTSeg).
    """
    product = F.normalize(features, dim=1) * F.normalize(outputs.to(features.dtype), dim=1)
    return 3 * math.sqrt(features.shape[1]) * product


def _pair(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        conv_bn_relu(inputs, outputs, stride=stride), conv_bn_relu(outputs, outputs)
    )


def _joining(inputs: int, outputs: int) -> nn.Sequential:
    """A block of two tensors, one of which is enlarged to the other's size."""
    conv = _JoiningConv(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class _JoiningConv(nn.Conv2d):
    """A 3x3 convolution of (small, large), with the small one enlarged by repetition.

    Before a convolution, repetition is as good as bilinear upsampling, and cheaper.
    """

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        small, large = pair
        doubled = 2 * small.shape[-1] == large.shape[-1] and 2 * small.shape[-2] == large.shape[-2]
        # Folding BatchNorm in adds a bias: see medrd.models.fused.
        if doubled and (self.training or self.bias is not None):
            own, other = self.weight.split([small.shape[1], large.shape[1]], dim=1)
            enlarged = F.conv_transpose2d(small, _enlarging(own), stride=2, padding=1)
            return enlarged + F.conv2d(large, other, self.bias, padding=1)
        enlarged = F.interpolate(small, size=large.shape[-2:], mode="nearest")
        return super().forward(torch.cat([enlarged, large], dim=1))


def _enlarging(weight: Tensor) -> Tensor:
    """(O, I, 3, 3) -> (I, O, 4, 4): a kernel that enlarges to twice the size and convolves at once.

    It is for a transposed convolution of the small image with stride 2 and padding 1, in which each
    pixel is multiplied once, not once per repetition. Results differ by rounding.
    """
    kernel = weight.transpose(0, 1).flip(2, 3)
    kernel = F.pad(kernel, (0, 1)) + F.pad(kernel, (1, 0))
    return F.pad(kernel, (0, 0, 0, 1)) + F.pad(kernel, (0, 0, 1, 0))
