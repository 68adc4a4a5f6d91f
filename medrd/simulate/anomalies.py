"""Simulated anomalies: put something into healthy slices, and label it.

This follows DRAEM (Zavrtanik et al., ICCV 2021), as used by DeSTSeg and RD with Expert: a noise
mask inside the region (a brain, or an object by :mod:`medrd.simulate.foreground`), and content
blended in with a random opacity. Ours adds shapes and contents that resemble lesions, needs no
texture data set, softens borders, and labels only visible changes; published labels are the whole
noise mask, visible or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medrd.config import ChannelLayout, SimulationConfig
from medrd.simulate.contents import (
    CONTENTS,
    ContentDraws,
    draw_contents,
    make_contents,
)
from medrd.simulate.fields import blur
from medrd.simulate.label import GAP_PX, scaled_area, scaled_pixels, visible_label
from medrd.simulate.lesions import OUTLINED, draw_lesions, grow_lesions
from medrd.simulate.shapes import SHAPES, draw_shapes, groups, make_shapes, uniform

__all__ = ["CONTENTS", "SHAPES", "AnomalySimulator", "Simulated"]

GREY = ChannelLayout(("grey",), pixel_mm=1.0)
"""One modality of one slice."""


@dataclass(frozen=True, eq=False)
class Simulated:
    """A batch with anomalies.

    Attributes
    ----------
    images
        (B, C, H, W) float32 in [0, 1].
    mask
        (B, H, W) bool: where they differ visibly from the originals.
    """

    images: Tensor
    mask: Tensor


class AnomalySimulator:
    """Puts one anomaly, of one or more parts, into each image of a batch.

    Each sample draws one content and one shape. All draws come from a generator on the CPU and are
    small; fields are made from them on the images' device, so that a GPU gives the same anomalies
    up to rounding. Nothing depends on the other samples of a batch except the content ``slice``,
    which is one of them. An anomaly may be invisible; a shape that misses the region is drawn once
    more. Lengths and areas in pixels are for images of 256² and scale with their size.

    Parameters
    ----------
    settings
        What is drawn, how large and how visible; 0 to 0.8 is the published range of ``beta``.
        ``lesion`` brings its own shape, opacity and border; ``deform`` moves the image itself and
        is never blended. ``softness_px`` is two sigma of a Gaussian blur. ``place`` is not read
        here: anomalies lie in the region.
    layout
        The meaning of the channels. If one modality is repeated to three channels, only the first
        is read, and all get the same change; otherwise each modality has its own intensity. An
        anomaly in a slice continues unchanged through the neighbouring slices, except ``lesion``,
        which is three-dimensional.
    """

    def __init__(self, settings: SimulationConfig, *, layout: ChannelLayout = GREY) -> None:
        self.settings = settings
        self.layout = layout

    @torch.no_grad()
    def __call__(self, images: Tensor, region: Tensor, generator: torch.Generator) -> Simulated:
        """Put an anomaly into each image of a batch.

        Parameters
        ----------
        images
            (B, C, H, W) float32 in [0, 1]; not changed in place.
        region
            (B, H, W) bool on the same device: where anomalies may be.
        generator
            A generator on the CPU. It advances by the same amount whatever the images hold.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self._simulate(images, region, generator)

    def _simulate(self, images: Tensor, region: Tensor, generator: torch.Generator) -> Simulated:
        settings, layout = self.settings, self.layout
        modalities = len(layout.modalities)
        stack = images[:, : layout.intensities].unflatten(1, (-1, modalities))
        count, _, _, height, width = stack.shape
        device = images.device
        least = scaled_area(settings.min_pixels, height, width)

        shapes = [draw_shapes(count, len(settings.shapes), generator) for _ in range(2)]
        contents = draw_contents(count, modalities, len(settings.contents), generator)
        beta = uniform(generator, count, low=settings.beta[0], high=settings.beta[1])
        softness = uniform(
            generator, count, low=settings.softness_px[0], high=settings.softness_px[1]
        )
        present = uniform(generator, count) < settings.probability

        # Last, and only if lesions may be drawn, so that all other draws stay the same without
        # them.
        lesions = None
        if "lesion" in settings.contents:
            lesions = draw_lesions(count, layout.modalities, generator)

        kinds = dict(groups(contents.kind, settings.contents))
        changed, within = stack, region
        if set(settings.contents) != {"lesion"}:
            shape = make_shapes(shapes[0], settings.shapes, region)
            missed = (shape.to(stack.dtype).sum(dim=(1, 2)) < least).nonzero()[:, 0]
            if len(missed):
                again = shapes[1].of(missed.cpu(), torch.device("cpu"))
                shape[missed] = make_shapes(again, settings.shapes, region[missed])
            shape &= present.to(device)[:, None, None]
            changed = self._fill(contents, kinds, stack, region, shape, beta, softness)
        if lesions is not None and "lesion" in kinds:
            drawn = kinds["lesion"]
            drawn = drawn[present[drawn]]
            if len(drawn):
                where = drawn.to(device)
                inside = _inside(stack[where], region[where])
                own = lesions.of(drawn, device)
                grown, cover = grow_lesions(own, stack[where], inside, layout)
                changed = changed.index_copy(0, where, grown)
                within = region.index_copy(0, where, inside[:, 0] & (cover > OUTLINED))
        mask = visible_label(
            stack[:, 0],
            changed[:, 0],
            within,
            min_change=settings.min_change,
            gap_px=scaled_pixels(GAP_PX, min(height, width)),
            min_pixels=least,
        )
        return Simulated(like(images, changed.flatten(1, 2)), mask)

    def _fill(
        self,
        contents: ContentDraws,
        kinds: Mapping[str, Tensor],
        stack: Tensor,
        region: Tensor,
        shape: Tensor,
        beta: Tensor,
        softness: Tensor,
    ) -> Tensor:
        """The stack (B, K, M, H, W) with shapes (B, H, W) filled, those of lesions left alone."""
        settings, device = self.settings, stack.device
        scale = min(region.shape[1:]) / 256
        sigma_px = softness.to(device) * (scale / 2)
        soft = blur(shape.to(stack.dtype), sigma_px, most_px=settings.softness_px[1] * scale / 2)
        filled = []
        for healthy, inside in zip(stack.unbind(1), _inside(stack, region).unbind(1), strict=True):
            alpha = soft * inside
            content = make_contents(
                contents, settings.contents, healthy, inside, shape & inside, alpha
            )
            cover = alpha * (1 - beta).to(device)[:, None, None]
            if "deform" in kinds:
                # A deformation replaces the image, so that no ghost of the original shows through.
                where = kinds["deform"].to(device)
                cover[where] = (alpha[where] > 0).to(cover.dtype)
            filled.append(torch.lerp(healthy, content, cover.clamp_(0, 1)[:, None]))
        return torch.stack(filled, dim=1)


def _inside(stack: Tensor, region: Tensor) -> Tensor:
    """(B, K, H, W) bool: the region; in neighbours without their background, which is 0."""
    inside = [region]
    inside += [region & (each != 0).any(dim=1) for each in stack.unbind(1)[1:]]
    return torch.stack(inside, dim=1)


def like(images: Tensor, changed: Tensor) -> Tensor:
    """``changed`` (its first channels) with all channels and the memory format of ``images``."""
    if changed.shape[1] == 1 and images.shape[1] == 3:  # one modality, repeated
        changed = changed.expand_as(images)
    else:
        changed = torch.cat([changed, images[:, changed.shape[1] :]], dim=1)
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    return changed.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
