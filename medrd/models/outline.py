"""A U-Net that segments anomalies, without a teacher: the architecture of the built-in model.

It learns from slices with known anomalies: simulated in healthy slices, or those of phantoms. Like
RDSeg's head, it sees the slice, its neighbours, each pixel's position, and the mirror image, and
brightness may be added to its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medrd.models.blocks import conv_bn_relu
from medrd.models.detector import Batch, Detector, OptimizerSpec, Step, group, warmed_up_cosine
from medrd.models.rdseg import (
    FIRST_FACTOR,
    check_mirror_and_brightness,
    mirror_image,
    outline_loss,
)
from medrd.models.settings import ModelSection, Rate, SimulationConfig, Weight

WARM_UP = 0.05
"""Share of the training in which the learning rate rises."""
BRIGHTEST = 0.2
"""Brightness above the median is clipped here: fat is brighter than any oedema."""


class OutlineConfig(ModelSection):
    """A U-Net trained on anomalies that are known."""

    takes_stacks: ClassVar[bool] = True

    name: Literal["outline"] = "outline"
    widths: tuple[Annotated[int, Field(ge=4, le=512)], ...] = Field(
        (32, 64, 96, 160), min_length=2, max_length=6
    )
    """Channels at strides 2, 4, 8 and so on."""
    members: Annotated[int, Field(ge=1, le=16)] = 1
    """Networks whose log-odds are averaged. Each has its own initial weights and its own loss."""
    mirror: bool = True
    """Show the network the blurred mirror image too; for upright, centred brains."""
    intensity_weight: Weight = 0.0
    """Weight of brightness (of the first channel, in [0, 1], up to :data:`BRIGHTEST` over the
    median) in the log-odds; 0 if brightness is not suspicious."""
    lr: Rate = 1e-3
    weight_decay: Weight = 1e-2
    """``lr`` and ``weight_decay`` are settings of AdamW. The rate rises for a twentieth of the
    training, then falls to 0 along a cosine."""
    simulation: SimulationConfig = SimulationConfig()

    def check_scans(self, *, channels: tuple[str, ...], axis: str, normalise: str) -> None:
        """As rdseg's."""
        check_mirror_and_brightness(
            self.mirror, self.intensity_weight, channels=channels, axis=axis, normalise=normalise
        )


class Outline(Detector):
    """A U-Net on pairs of pixels.

    Parameters
    ----------
    settings
        Its section of a config.
    modalities, channels
        Number of the slice's own modalities, which come first, and of all channels.
    median
        A brain's median intensity under ``recipe.normalise: median``; at that intensity, only the
        network decides.
    """

    section = OutlineConfig
    source = "medrd: a U-Net on simulated anomalies, cf. Ronneberger et al., MICCAI 2015"
    teacher_kind = None
    simulation = "anomalies"

    def __init__(
        self, settings: OutlineConfig, *, modalities: int, channels: int, median: float
    ) -> None:
        super().__init__()
        self.settings = settings
        self.modalities, self.channels, self.mirror = modalities, channels, settings.mirror
        self.median, self.intensity_weight = median, settings.intensity_weight
        inputs = channels + (modalities if settings.mirror else 0)
        members = [PairedUNet(inputs, settings.widths) for _ in range(settings.members)]
        self.network = members[0] if len(members) == 1 else Ensemble(members)
        self.size_multiple = 2 ** len(settings.widths)

    @property
    def members(self) -> list[nn.Module]:
        """The networks whose log-odds are averaged."""
        return list(self.network.members) if isinstance(self.network, Ensemble) else [self.network]

    def log_odds(self, images: Tensor) -> Tensor:
        """Each pixel's log-odds of being anomalous, mean of the members: (B, H, W) float32."""
        result: Tensor = self.network(self._shown(images)).float()
        return result

    def _shown(self, images: Tensor) -> Tensor:
        """What the network sees."""
        shown = images[:, : self.channels]
        if self.mirror:
            shown = torch.cat([shown, mirror_image(images[:, : self.modalities])], dim=1)
        return shown

    def loss(self, batch: Batch) -> Tensor:
        """The segmentation loss for the anomaly put into the healthy image, mean of the members;
        see :func:`outline_loss`."""
        changed, mask = batch.changed()
        shown = self._shown(changed)
        losses = [outline_loss(each(shown).float(), mask, batch.region) for each in self.members]
        return torch.stack(losses).mean()

    def steps(self) -> list[Step]:
        """One: AdamW on the network."""
        settings = self.settings
        schedule = partial(warmed_up_cosine, warm_up=WARM_UP, first=FIRST_FACTOR)
        # Not fused, which rounds differently: the recipe must reproduce the built-in model's
        # weights exactly.
        optimizer = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": False}
        return [
            Step(
                name="outline",
                groups=[group(self.network)],
                optimizer=OptimizerSpec("adamw", optimizer, schedule),
                loss=self.loss,
            )
        ]

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Log-odds of network and brightness together, softly cut at 0, as RDSeg's.

        (B, C, H, W) -> (B, H, W) float32.
        """
        brightness = (images[:, 0].float() - self.median).clamp(max=BRIGHTEST)
        return F.softplus(self.log_odds(images) + self.intensity_weight * brightness)


class Ensemble(nn.Module):
    """Networks whose outputs are averaged."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """The members' mean."""
        return torch.stack([member(images).float() for member in self.members]).mean(dim=0)


class PairedUNet(nn.Module):
    """A U-Net whose first level takes 2x2 pixels as channels, because full resolution is expensive.

    Parameters
    ----------
    inputs
        Channels of the images.
    widths
        Channels of the levels; the first is at stride 2, each deeper one at twice the stride.
    """

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        first = widths[0]
        self.stem = nn.Sequential(conv_bn_relu(4 * inputs, first), conv_bn_relu(first, first))
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(
            nn.Sequential(conv_bn_relu(a, b, stride=2), conv_bn_relu(b, b)) for a, b in pairs
        )
        self.up = nn.ModuleList(conv_bn_relu(a + b, a) for a, b in reversed(pairs))
        self.last = nn.Conv2d(first, 4, 3, padding=1)
        # Few pixels are anomalous: start near their share, not at one half.
        nn.init.constant_(self.last.bias, -3.0)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H, W)."""
        levels = [self.stem(F.pixel_unshuffle(images, 2))]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for up in self.up:
            level = levels.pop()
            enlarged = F.interpolate(x, size=level.shape[-2:], mode="nearest")
            x = up(torch.cat([enlarged, level], dim=1))
        return F.pixel_shuffle(self.last(x), 2)[:, 0]
