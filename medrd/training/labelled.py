"""Slices with outlined lesions in place of simulated anomalies: training with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrd.config import RecipeConfig
from medrd.data.brains.lesions import read_lesions
from medrd.data.brains.prepare import prepare_slices, read_channels, scan_hash
from medrd.data.brains.stacks import neighbour_indices, places
from medrd.data.slices import HealthySlices, SliceBatch
from medrd.data.subject import Subject
from medrd.data.traits import ScanTraits
from medrd.simulate.anomalies import Simulated


@dataclass(frozen=True, eq=False)
class _Labelled:
    """A subject's slices (S, M, H, W) float16, brain and lesions (S, H, W), places (S,) in mm.

    ``shown`` (S, K) are the numbers of the slices at the layout's offsets.
    """

    images: NDArray[np.float16]
    region: NDArray[np.bool_]
    lesion: NDArray[np.bool_]
    positions_mm: NDArray[np.float64]
    shown: NDArray[np.int64]
    content: str
    traits: ScanTraits | None


class LabelledSlices(HealthySlices):
    """All slices of the subjects, with the label as an extra channel.

    They are held in memory, about 4 MB for each modality of a subject at 128 pixels.

    Attributes
    ----------
    contents
        Hashes of the scans by subject.
    traits
        Summaries of the scans' appearance.
    """

    def __init__(self, subjects: Sequence[Subject], recipe: RecipeConfig, budget: int) -> None:
        self.layout = recipe.layout
        self.labelled = [_read(subject, recipe, budget) for subject in subjects]
        self.contents = {
            subject.id: each.content for subject, each in zip(subjects, self.labelled, strict=True)
        }
        self.traits = [each.traits for each in self.labelled if each.traits is not None]
        self.index = [
            (s, i) for s, each in enumerate(self.labelled) for i in range(len(each.region))
        ]

    def batch(self, which: Sequence[int]) -> SliceBatch:
        """The slices at these indices."""
        wanted = [(self.labelled[s], i) for s, i in (self.index[w] for w in which)]
        return SliceBatch(
            images=np.stack([self._shown(each, i) for each, i in wanted]),
            region=np.stack([each.region[i] for each, i in wanted]),
        )

    def _shown(self, subject: _Labelled, number: int) -> NDArray[np.float32]:
        """(C + 1, H, W): a slice as the recipe lays it out, and its label."""
        at = subject.positions_mm[[number, 0, -1]]
        shown = subject.images[subject.shown[number]].reshape(-1, *subject.region.shape[1:])
        parts = [shown, *([places(at, *shown.shape[1:])[0]] if self.layout.place else [])]
        return np.concatenate([*parts, subject.lesion[number][None]], dtype=np.float32)


def _read(subject: Subject, recipe: RecipeConfig, budget: int) -> _Labelled:
    alone = recipe.model_copy(update={"neighbours_mm": (), "place": False})
    volumes = read_channels(subject, recipe, max_voxels=budget)
    assert subject.label is not None
    lesions = read_lesions(subject, next(iter(volumes.values())), max_voxels=budget).mask
    prepared = prepare_slices(volumes, alone, quick=True)
    upright = prepared.geometry.to_slices(lesions.astype(np.uint8), nearest=True)
    return _Labelled(
        prepared.images.astype(np.float16),
        prepared.region,
        upright[prepared.numbers] > 0.5,
        prepared.positions_mm,
        neighbour_indices(prepared.positions_mm, recipe.layout.offsets_mm),
        scan_hash(volumes, prepared.geometry),
        prepared.traits,
    )


def as_simulated(images: Tensor, region: Tensor, generator: torch.Generator) -> Simulated:
    """The label (the last channel) in place of a simulated anomaly's mask."""
    return Simulated(images[:, :-1], (images[:, -1] > 0.5) & region)
