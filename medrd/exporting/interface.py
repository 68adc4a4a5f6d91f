"""The inputs and outputs of an exported graph, and the module that is exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medrd.config.channel_layout import ChannelLayout
from medrd.errors import ModelError
from medrd.models.exportable import Exportable
from medrd.run.model_folder import Model


@dataclass(frozen=True)
class Interface:
    """Names, types and shapes of the graph's inputs, whose first axis is the number of slices."""

    layout: ChannelLayout
    size: int
    positions: bool

    @property
    def channels(self) -> list[str]:
        """A description of each channel of an image."""
        layout = self.layout
        shown = [
            f"{m} {o:+g} mm off" if o else m for o in layout.offsets_mm for m in layout.modalities
        ]
        return shown + (["row", "distance from the middle", "height"] if layout.place else [])

    @property
    def names(self) -> list[str]:
        """The inputs' names, in order."""
        return ["images", "region", *(["positions_mm"] if self.positions else [])]

    def example(self, slices: int, *, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs: noisy blobs in discs that shrink from slice to slice.

        The last of more than two slices is empty.
        """
        generator = torch.Generator().manual_seed(seed)
        side, channels = self.size, len(self.channels)
        axis = torch.linspace(-1, 1, side)
        radii = torch.linspace(0.8, 0.3, slices)
        if slices > 2:
            radii[-1] = 0
        disc = (axis[:, None] ** 2 + axis[None] ** 2) < radii[:, None, None] ** 2
        coarse = torch.rand(slices, channels, 8, 8, generator=generator)
        blobs = F.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
        noise = torch.rand(slices, channels, side, side, generator=generator)
        given = ((0.8 * blobs + 0.2 * noise) * disc[:, None], disc)
        return (*given, 1.5 * torch.arange(slices).float()) if self.positions else given

    def to_dict(self) -> dict[str, Any]:
        """The content of ``interface.json`` for callers of the graph."""
        inputs = {
            "images": {
                "dtype": "float32",
                "shape": ["slices", len(self.channels), self.size, self.size],
                "channels": self.channels,
                "is": "slices in [0, 1], 0 outside the region, as the recipe makes them",
            },
            "region": {
                "dtype": "bool",
                "shape": ["slices", self.size, self.size],
                "is": "the brain, or the part of the square that shows the picture",
            },
        }
        if self.positions:
            inputs["positions_mm"] = {
                "dtype": "float32",
                "shape": ["slices"],
                "is": "position of each slice along the stack; all slices belong to one scan",
            }
        outputs = {
            "map": {
                "dtype": "float32",
                "shape": ["slices", self.size, self.size],
                "is": "smoothed anomaly map, not masked: mask it on the scan's own grid",
            },
            "score": {"dtype": "float32", "shape": ["slices"], "is": "score of each slice"},
        }
        return {"inputs": inputs, "outputs": outputs}


def exportable(model: Model, *, across: bool = True) -> tuple[Exportable, Interface]:
    """The module to export, on the CPU in float32, and its interface.

    ``across=False`` leaves out the smoothing across slices.

    Raises
    ------
    ModelError
        If the model cannot be exported as a graph.
    """
    if not model.detector.exports:
        raise ModelError(
            model.config.model.name,
            expected="a method that does the same computation for every image",
            found="a method that searches a bank of patches",
            remedy="Use medrd.load(...).predict(...) instead.",
        )
    recipe, scoring = model.recipe, model.scoring()
    if not across:
        scoring.sigma_across_mm = 0.0
    network = Exportable(model.detector.cpu(), scoring.cpu(), size=recipe.size).eval()
    return network, Interface(recipe.layout, recipe.size, network.reads_positions)
