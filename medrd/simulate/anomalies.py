"""Simulated anomalies: healthy slices with something put into them, and its outline.

The recipe of DRAEM (Zavrtanik et al., ICCV 2021) as DeSTSeg and RD with Expert use it: a noise
mask inside the region (a brain, or an object by :mod:`medrd.simulate.foreground`), content blended
in with a random opacity. Ours adds shapes and contents that resemble lesions and needs no texture
data set, softens borders, and labels only what can be seen: published labels are the whole noise
mask, visible or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medrd.config import Layout
from medrd.simulate.contents import (
    CONTENTS,
    UNLIKE,
    ContentDraws,
    Others,
    draw_contents,
    make_contents,
)
from medrd.simulate.fields import blur
from medrd.simulate.label import GAP_PX, scaled_area, scaled_pixels, visible_label
from medrd.simulate.lesions import OUTLINED, draw_lesions, grow_lesions
from medrd.simulate.shapes import ALL, SHAPES, draw_shapes, groups, make_shapes, uniform

__all__ = ["CONTENTS", "SHAPES", "UNLIKE", "AnomalySimulator", "Simulated"]


GREY = Layout(("grey",), pixel_mm=1.0)
"""One modality of one slice."""


@dataclass(frozen=True, eq=False)
class Simulated:
    """A batch with anomalies.

    Attributes
    ----------
    images
        (B, C, H, W) float32 in [0, 1].
    mask
        (B, H, W) bool: where they differ visibly from what they were.
    """

    images: Tensor
    mask: Tensor


class AnomalySimulator:
    """Puts one anomaly, of one or more parts, into each image of a batch.

    Each sample draws one content and one shape. All draws come from a generator on the CPU and
    are small; fields are made from them on the images' device, so that a GPU gives the same
    anomalies up to rounding. Nothing depends on the other samples of a batch except the
    content ``slice``, which is one of them. An anomaly may come out invisible; a shape that
    misses the region is drawn once more. Lengths and areas in pixels are for images of 256²
    and scale with their size.

    Parameters
    ----------
    contents, shapes
        Which of :data:`CONTENTS` and :data:`SHAPES` to draw from, evenly. ``lesion`` brings its
        own shape, opacity and border.
    beta
        Range of β, the share of the healthy image that still shows in the anomaly; 0 to 0.8
        as published. ``deform`` moves the image itself and has none.
    softness_px
        Range of the width over which an anomaly fades in: two sigma of a Gaussian blur.
    probability
        Of a sample to get an anomaly at all.
    min_pixels
        Parts of the label that are smaller are left out of it.
    min_change
        Least difference of intensity, in the channel that differs most, that counts as visible.
    layout
        What the channels are. Of one modality that is repeated to three channels only the first
        is read, and all get the same change; else every modality has a colour of its own. What
        is put into a slice goes through its neighbours: as it is, but ``lesion`` is solid.

    Raises
    ------
    ValueError
        A content or shape that is not known, none at all, or a range or number out of bounds.
    """

    def __init__(
        self,
        *,
        contents: Sequence[str] = UNLIKE,
        shapes: Sequence[str] = SHAPES,
        beta: tuple[float, float] = (0.0, 0.8),
        softness_px: tuple[float, float] = (0.0, 4.0),
        probability: float = 1.0,
        min_pixels: int = 10,
        min_change: float = 0.02,
        layout: Layout = GREY,
    ) -> None:
        _check_names("contents", contents, CONTENTS)
        _check_names("shapes", shapes, SHAPES)
        _check_range("beta", beta, most=1.0)
        _check_range("softness_px", softness_px, most=64.0)
        _check_range("probability", (probability, probability), most=1.0)
        _check_range("min_change", (min_change, min_change), most=1.0)
        if min_change == 0:  # where nothing has changed, nothing is visible
            raise ValueError("min_change: expected a number above 0, found 0")
        self.contents = tuple(contents)
        self.shapes = tuple(shapes)
        self.beta = beta
        self.softness_px = softness_px
        self.probability = probability
        self.min_pixels = min_pixels
        self.min_change = min_change
        self.layout = layout

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        region: Tensor,
        generator: torch.Generator,
        samples: slice = ALL,
    ) -> Simulated:
        """Change a batch, or some of its samples as they would be changed in it.

        Parameters
        ----------
        images
            (B, C, H, W) float32 in [0, 1]; left as they are.
        region
            (B, H, W) bool on the same device: where anomalies may be.
        generator
            On the CPU. It moves on by as much whatever the images hold and whoever is wanted.
        samples
            Which are wanted, of all B. Without them none of the others is computed.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self._simulate(images, region, generator, samples)

    def _simulate(
        self, images: Tensor, region: Tensor, generator: torch.Generator, samples: slice
    ) -> Simulated:
        layout = self.layout
        modalities = len(layout.modalities)
        everyone = images[:, : layout.intensities].unflatten(1, (-1, modalities))
        count, _, _, height, width = everyone.shape
        device = images.device
        least = scaled_area(self.min_pixels, height, width)

        shapes = [draw_shapes(count, len(self.shapes), generator) for _ in range(2)]
        contents = draw_contents(count, modalities, len(self.contents), generator)
        beta = uniform(generator, count, low=self.beta[0], high=self.beta[1])
        softness = uniform(generator, count, low=self.softness_px[0], high=self.softness_px[1])
        present = uniform(generator, count) < self.probability

        # Last, and only where they may be drawn: all others are as they are without lesions.
        lesions = None
        if "lesion" in self.contents:
            lesions = draw_lesions(count, layout.modalities, generator)

        others = (everyone, region)
        images, stack, region = images[samples], everyone[samples], region[samples]
        shapes = [drawn.part(samples) for drawn in shapes]
        contents, beta, softness = contents.part(samples), beta[samples], softness[samples]
        present = present[samples]

        kinds = dict(groups(contents.kind, self.contents))
        changed, within = stack, region
        if set(self.contents) != {"lesion"}:
            shape = make_shapes(shapes[0], self.shapes, region)
            missed = (shape.to(stack.dtype).sum(dim=(1, 2)) < least).nonzero()[:, 0]
            if len(missed):
                again = shapes[1].of(missed.cpu(), torch.device("cpu"))
                shape[missed] = make_shapes(again, self.shapes, region[missed])
            shape &= present.to(device)[:, None, None]
            changed = self._fill(contents, kinds, stack, region, shape, beta, softness, others)
        if lesions is not None and "lesion" in kinds:
            drawn = kinds["lesion"]
            drawn = drawn[present[drawn]]
            if len(drawn):
                where = drawn.to(device)
                inside = _inside(stack[where], region[where])
                own = lesions.part(samples).of(drawn, device)
                grown, cover = grow_lesions(own, stack[where], inside, layout)
                changed = changed.index_copy(0, where, grown)
                within = region.index_copy(0, where, inside[:, 0] & (cover > OUTLINED))
        mask = visible_label(
            stack[:, 0],
            changed[:, 0],
            within,
            min_change=self.min_change,
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
        others: tuple[Tensor, Tensor],
    ) -> Tensor:
        """The stack (B, K, M, H, W) with shapes (B, H, W) filled, those of lesions left alone."""
        device = stack.device
        scale = min(region.shape[1:]) / 256
        sigma_px = softness.to(device) * (scale / 2)
        soft = blur(shape.to(stack.dtype), sigma_px, most_px=self.softness_px[1] * scale / 2)
        everyone, regions = others
        shown = zip(everyone.unbind(1), _inside(everyone, regions).unbind(1), strict=True)
        filled = []
        for healthy, inside, other in zip(
            stack.unbind(1), _inside(stack, region).unbind(1), shown, strict=True
        ):
            alpha = soft * inside
            content = make_contents(
                contents, self.contents, healthy, inside, shape & inside, alpha, Others(*other)
            )
            cover = alpha * (1 - beta).to(device)[:, None, None]
            if "deform" in kinds:
                # What has been moved is all there is: no ghost of what was there shows through.
                where = kinds["deform"].to(device)
                cover[where] = (alpha[where] > 0).to(cover.dtype)
            filled.append(torch.lerp(healthy, content, cover.clamp_(0, 1)[:, None]))
        return torch.stack(filled, dim=1)


def _inside(stack: Tensor, region: Tensor) -> Tensor:
    """(B, K, H, W) bool: the region, in neighbours less their background, which is 0."""
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


def _check_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        found = ", ".join(map(repr, unknown)) or "none"
        raise ValueError(f"{what}: expected some of {', '.join(known)}, found {found}")


def _check_range(what: str, span: tuple[float, float], *, most: float) -> None:
    if not 0 <= span[0] <= span[1] <= most:
        raise ValueError(f"{what}: expected numbers from 0 to {most}, in order, found {span}")
