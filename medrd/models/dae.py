"""Denoising autoencoder (DAE): plain reconstruction, which is hard to beat on brains.

Kascenas, Pugeault & O'Neil, "Denoising Autoencoders for Unsupervised Anomaly Detection in Brain
MRI", MIDL 2022, after the released code: a U-Net learns to remove coarse noise from healthy slices;
what it removes from a slice at test time is the anomaly.

- The squared error counts inside the region and is averaged over the whole picture.
- The learning rate follows a cosine with half a period of 100 epochs of 32 batches in a training of
  2100 epochs, so it goes to zero and back ten times and ends at zero. Here the same 10.5 periods
  span the whole training, however long (``cycles``).
- The map is the mean absolute residual over channels and a 5x5 median of it.

Differences from the released code: three channels instead of four modalities, intensities as the
recipe scales them (there: by a volume's own 99th percentile), no clipping of the gradient norm at
0.5, and the last weights instead of those with the least validation loss. Its scoring erodes the
brain mask (5x5 mean above 0.95) and zeroes the residual outside before the median; a map here is
made without the region: masks and smoothing belong to :class:`medrd.models.scoring.Scoring`, as for
every detector. If one modality is repeated over the three channels, the noise must be repeated too,
since averaging the channels would otherwise remove it.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from medrd.models.detector import Batch, Detector, OptimizerSpec, Step, group
from medrd.models.settings import CoarseNoiseConfig, ModelSection, Rate, Weight
from medrd.models.unet import UNet


class DAEConfig(ModelSection):
    """Denoising autoencoder with coarse noise, Kascenas et al., MIDL 2022."""

    name: Literal["dae"] = "dae"
    base: int = Field(64, ge=4, le=256)
    """Channels of the U-Net's first level."""
    depth: int = Field(4, ge=1, le=6)
    lr: Rate = 1e-4
    weight_decay: Weight = 1e-5
    """``lr`` and ``weight_decay`` are settings of Adam with AMSGrad."""
    cycles: float = Field(10.5, ge=0)
    """Cosine periods of the learning rate per training; 0.5: a single decay to zero."""
    median: int = Field(5, ge=1)
    """Side of the median filter on the residual, in pixels, odd; 1: no filter."""
    noise: CoarseNoiseConfig = CoarseNoiseConfig()

    @model_validator(mode="after")
    def _check(self) -> DAEConfig:
        if self.median % 2 == 0:
            raise ValueError("median must be odd")
        return self


class DAE(Detector):
    """A U-Net from noisy to clean slices; no teacher."""

    section = DAEConfig
    source = "Kascenas et al., MIDL 2022"
    teacher_kind = None
    simulation = "coarse_noise"

    def __init__(self, settings: DAEConfig) -> None:
        super().__init__()
        self.settings = settings
        self.network = UNet(3, base=settings.base, depth=settings.depth)
        self.median = settings.median
        self.size_multiple = 2 ** (settings.depth - 1)

    def loss(self, batch: Batch) -> Tensor:
        """Squared error inside the region over all pixels: a scalar."""
        simulated, _ = batch.changed()
        error = self.network(simulated).float() - batch.images.float()
        return (error.square() * batch.region[:, None]).mean()

    def schedule(self, progress: float) -> float:
        """The learning rate's factor, in [0, 1]."""
        return (1 + math.cos(2 * math.pi * self.settings.cycles * progress)) / 2

    def steps(self) -> list[Step]:
        """One: Adam with AMSGrad on the U-Net."""
        settings = self.settings
        return [
            Step(
                name="denoise",
                groups=[group(self.network)],
                optimizer=OptimizerSpec(
                    "adam",
                    {"lr": settings.lr, "weight_decay": settings.weight_decay, "amsgrad": True},
                    self.schedule,
                ),
                loss=self.loss,
            )
        ]

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Median-filtered mean absolute residual: (B, H, W) float32."""
        residual = (self.network(images).float() - images.float()).abs().mean(1)
        return median_filter(residual, self.median)


_BAND = 32
"""Rows of a map whose windows :func:`median_filter` holds at a time: they take side^2 times the
memory."""


def median_filter(maps: Tensor, side: int) -> Tensor:
    """Median of the ``side`` x ``side`` pixels around each, borders reflected: (B, H, W)."""
    if side == 1:
        return maps
    padded = F.pad(maps[:, None], [side // 2] * 4, mode="reflect")[:, 0]
    height = maps.shape[1]
    bands = []
    # Not image by image, which would tie an exported graph to the number of images in its trace.
    for top in range(0, height, _BAND):
        band = padded[:, top : min(top + _BAND, height) + side - 1]
        bands.append(band.unfold(1, side, 1).unfold(2, side, 1).flatten(3).median(3).values)
    return torch.cat(bands, dim=1)
