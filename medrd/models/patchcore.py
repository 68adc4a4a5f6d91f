"""PatchCore: the distance of patches from a bank of healthy ones. Nothing is distilled or trained.

Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022; the released code
is amazon-science/patchcore-inspection. Where they disagree:

- the image score is the paper's reweighted one (equation 7; its 9 neighbours are anomalib's
  default); the released code takes the largest distance unweighted;
- in the paper, the coreset compares each patch with all chosen ones. The released code starts from
  the mean distance to ten random patches, as if these had been chosen; here one random patch is
  chosen first.

As in the released code: features of both levels, bilinear upsampling with ``align_corners=False``,
and a 3x3 mean that counts zeros at the border.

Where we differ from both:

- each patch is the mean over its 3x3 positions, channel by channel, and the deeper level is then
  resized to the shallower's grid. The released code pools channels and positions as one sequence:
  with WRN50-2 this is the same, except that the centre counts twice in the shallower level;
- each level contributes half of a patch's 1024 numbers, by adaptive average pooling over
  channels. A level with fewer channels keeps them, and is weighted as if they had been repeated
  (as pooling to more numbers does), so that both levels have equal weight in a squared distance;
- patches outside the region (air around a brain) are neither kept nor scored;
- the coreset is chosen in bounded memory: see :mod:`medrd.models.coreset`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from medrd.models.coreset import Candidates, nearest
from medrd.models.cosine import resized
from medrd.models.detector import Batch, Detector, Step
from medrd.models.settings import ModelSection, TeacherConfig
from medrd.models.teacher import Teacher

PATCH = 3
"""Side of a patch, in positions of its level, as in the paper."""
DIMENSION = 1024
"""Number of features of a patch, both levels together, as in the released code."""
COVERAGE = 0.5
"""Smallest share of a position's pixels inside the region for it to count, our choice. If a region
has no such position, those with the largest share count."""


class PatchCoreConfig(ModelSection):
    """PatchCore, Roth et al., CVPR 2022: a bank of healthy patches; nothing is optimised."""

    name: Literal["patchcore"] = "patchcore"
    teacher: TeacherConfig = TeacherConfig()
    fraction: float = Field(0.01, gt=0, le=1)
    """Share of the healthy patches that the bank keeps: 0.01, 0.1 or 0.25 in the paper. The
    time to choose them grows with the square of their number: use more than about 0.05 only for
    small sets."""
    neighbours: int = Field(9, ge=1)
    """Neighbours for the image score's weight (scoring.image_score: model)."""


class PatchCore(Detector):
    """Frozen teacher and a bank of patches.

    Parameters
    ----------
    teacher
        Built and loaded; it is frozen here. Its levels at strides 8 and 16 are read.
    settings
        Its section of a config.

    Attributes
    ----------
    bank
        (M, D) float16; empty before :meth:`finish`. It is saved with the state, whatever its size.
    """

    section = PatchCoreConfig
    source = "Roth et al., CVPR 2022"
    bank: Tensor
    collects = True
    scores_images = True
    exports = False

    def __init__(self, teacher: Teacher, settings: PatchCoreConfig) -> None:
        super().__init__()
        self.teacher = teacher
        self.neighbours = settings.neighbours
        self.size_multiple = teacher.strides[-1]
        self.candidates = Candidates(fraction=settings.fraction)
        self.register_buffer("bank", torch.empty(0, self.width, dtype=torch.float16))
        self.freeze(teacher)

    @property
    def width(self) -> int:
        """Number of features of a patch: :data:`DIMENSION` if the teacher is wide enough."""
        return sum(min(channels, DIMENSION // 2) for channels in self.teacher.channels[-2:])

    def patches(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, h, w, D) float32 at stride 8."""
        with torch.no_grad():
            shallow, deep = (self._described(level) for level in self.teacher(images)[-2:])
            deep = F.interpolate(deep, shallow.shape[-2:], mode="bilinear", align_corners=False)
            return torch.cat([shallow, deep], 1).permute(0, 2, 3, 1)

    def _described(self, level: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, min(C, DIMENSION / 2), h, w) float32, pooled and weighted."""
        half = DIMENSION // 2
        level = F.avg_pool2d(level.float(), PATCH, stride=1, padding=PATCH // 2)
        channels = level.shape[1]
        if channels <= half:
            return level * math.sqrt(half / channels)
        flat = F.adaptive_avg_pool1d(level.flatten(2).transpose(1, 2), half)
        return flat.transpose(1, 2).unflatten(2, level.shape[2:])

    def counting(self, region: Tensor, size: tuple[int, int]) -> Tensor:
        """Reduce the region (B, H, W) to valid positions (B, h, w) bool (none if it is empty)."""
        share = F.adaptive_avg_pool2d(region.float(), size)
        needed = share.amax((1, 2), keepdim=True).clamp(max=COVERAGE)
        return (share >= needed) & (share > 0)

    @property
    def memory_size(self) -> int:
        """The size of the bank."""
        return self.bank.numel()

    def steps(self) -> list[Step]:
        """None: nothing is trained."""
        return []

    def collect(self, batch: Batch) -> None:
        """Collect the patches of healthy slices that lie inside their regions."""
        patches = self.patches(batch.images)
        self.candidates.add(patches[self.counting(batch.region, _grid(patches))])

    def finish(self, generator: torch.Generator) -> None:
        """Choose the bank from the collected patches, and discard the rest.

        Raises
        ------
        ValueError
            Nothing was collected, or all regions were empty.
        """
        self.bank = self.candidates.finish(generator)

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Distance of each position from the bank, upsampled: (B, H, W) float32.

        Positions in the air around a brain are far from a bank without any air:
        :meth:`map_and_score` gets the region and leaves them out.

        Raises
        ------
        ValueError
            The bank is empty.
        """
        patches = self.patches(images)
        distances, _ = self.to_bank(patches.flatten(0, 2))
        return resized(distances.view(patches.shape[:3]), images)

    def map_and_score(self, images: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        """The map, and the paper's image score; 0 where the region is empty.

        Positions that do not count get the value of the nearest one that does, so that upsampling
        and smoothing bring nothing from outside into the region. Shapes as in
        :meth:`medrd.models.detector.Detector.map_and_score`.

        Raises
        ------
        ValueError
            The bank is empty.
        """
        patches = self.patches(images)
        counting = self.counting(region, _grid(patches))
        distances = images.new_zeros(counting.shape, dtype=torch.float32)
        remembered = torch.zeros_like(counting, dtype=torch.long)
        distances[counting], remembered[counting] = self.to_bank(patches[counting])
        scores = images.new_zeros(len(images), dtype=torch.float32)
        scored = counting.flatten(1).any(1).nonzero()[:, 0]
        if len(scored):
            # No distance is below 0, so the highest belongs to a position that counts.
            flat = distances.masked_fill(~counting, -1)[scored].flatten(1)
            place = flat.argmax(1, keepdim=True)
            rows = place[..., None].expand(-1, -1, patches.shape[-1])
            worst = patches[scored].flatten(1, 2).gather(1, rows)[:, 0]
            nearest_to_it = remembered[scored].flatten(1).gather(1, place)[:, 0]
            scores[scored] = self._reweighted(worst, nearest_to_it)
        return resized(_continued(distances, counting), images), scores

    def to_bank(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the nearest patch in the bank, and its index: (Q, D) -> (Q,) twice."""
        if not len(self.bank):
            raise ValueError("the bank of patches is empty: collect healthy slices, then finish")
        if not len(queries):
            return queries.new_zeros(0), torch.zeros(0, dtype=torch.long, device=queries.device)
        distances, indices = nearest(queries, self.bank)
        return distances[:, 0], indices[:, 0]

    def _reweighted(self, queries: Tensor, remembered: Tensor) -> Tensor:
        """Equation 7 for the worst patches (B, D) and the bank's nearest to them, by index (B,).

        A query whose neighbourhood in the bank is sparse counts less. With e_i = exp of its
        distance to the i-th neighbour of the stored patch m (the 0-th is m itself), the score is
        distance * (1 - e_0 / sum of e_i).
        """
        closest = self.bank[remembered].float()
        distance = (queries - closest).norm(dim=1)
        if min(self.neighbours, len(self.bank)) == 1:
            return distance
        _, around = nearest(closest, self.bank, self.neighbours)
        away = (queries[:, None] - self.bank[around].float()).norm(dim=2)
        # Computed as a difference of logarithms, because exp of a distance may exceed float32.
        return distance * -torch.expm1(distance - away.logsumexp(1)).clamp(max=0)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        saved = state_dict.get(f"{prefix}bank")
        if saved is not None and saved.ndim == 2 and saved.shape[1] == self.bank.shape[1]:
            self.bank = self.bank.new_empty(saved.shape)  # the one here may be of another size
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _grid(patches: Tensor) -> tuple[int, int]:
    return patches.shape[1], patches.shape[2]


def _continued(distances: Tensor, counting: Tensor) -> Tensor:
    """Give positions that do not count the value of the nearest one that does: (B, h, w)."""
    result = distances.clone()
    for row, inside in enumerate(counting):
        if inside.any() and not inside.all():
            here, there = inside.nonzero().float(), (~inside).nonzero().float()
            closest = torch.cdist(there, here).argmin(1)
            result[row][~inside] = distances[row][inside][closest]
    return result
