"""A picture's page: the heat map over it, its findings and their provenance."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from medrd.draw.heat import COLOUR_MAP, HeatScale
from medrd.draw.picture_overlay import LARGEST_SIDE_PX, blocks
from medrd.pages.page import as_base64, render
from medrd.pages.parts import colour_bar, no_findings, provenance, standing
from medrd.run.record import PredictionRecord


def picture_page(
    record: PredictionRecord,
    scale: HeatScale,
    *,
    image: NDArray[np.float32],
    score_map: NDArray[np.float32],
    index: str | None = None,
    stamp: Mapping[str, Any] | None = None,
) -> str:
    """Render the page as HTML.

    Parameters
    ----------
    image
        (H, W, C) in [0, 1], C = 1 or 3.
    score_map
        (H, W).
    stamp
        See :func:`medrd.pages.page.render`.
    """
    height, width = score_map.shape
    factor = -(-max(height, width) // LARGEST_SIDE_PX)
    shown = np.clip(blocks(image, factor).mean(axis=(1, 3)), 0, 1)
    heat = blocks(score_map, factor).max(axis=(1, 3))
    notes = [] if factor == 1 else [f"The picture is shown at 1/{factor} of its resolution."]
    return render(
        "picture.html",
        title=record.subject,
        index=index,
        width=width,
        height=height,
        picture=_png(np.repeat(shown, 3 // shown.shape[2], axis=2)),
        heat=_png(_coloured(heat, scale)),
        stamp=stamp,
        warnings=record.warnings,
        not_judged=record.not_judged,
        summary=[
            ("score", f"{record.score:.4g}"),
            *standing(record),
            ("pixels scored", f"{record.pixels_scored} of {height * width}"),
        ],
        **colour_bar(scale),
        calibrated=scale.threshold is not None,
        findings=[
            {
                "left": f"{100 * (row['peak_px'][1] + 0.5) / width:.2f}",
                "top": f"{100 * (row['peak_px'][0] + 0.5) / height:.2f}",
                "area": row["area_px"],
                "peak": f"{row['peak_score'] / scale.unit:.2f}",
                "centre": ", ".join(f"{value:.0f}" for value in row["centroid_px"]),
            }
            for row in record.findings
        ],
        no_findings=no_findings(scale),
        provenance=provenance(record),
        notes=notes,
    )


def _coloured(heat: NDArray[np.float32], scale: HeatScale) -> NDArray[np.floating]:
    """Scores (H, W) as colours (H, W, 4), with the same opacity as in the figures."""
    colours = colormaps[COLOUR_MAP](np.clip(heat / scale.top, 0, 1))
    colours[..., 3] = scale.alpha(heat)
    return colours


def _png(array: NDArray[np.floating]) -> str:
    """Encode (H, W, 3 or 4) in [0, 1] as a PNG file in base64."""
    target = io.BytesIO()
    Image.fromarray(np.round(array * 255).astype(np.uint8)).save(target, format="PNG")
    return as_base64(target.getvalue())
