"""A scan's page: a viewer with three planes, the findings and their provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib import colormaps

from medrd.draw.heat import COLOUR_MAP, HeatScale
from medrd.pages.embed import EmbeddedScan
from medrd.pages.page import as_base64, packed_niivue, render
from medrd.pages.parts import NODES, colour_bar, no_findings, provenance, standing
from medrd.run.record import PredictionRecord


@dataclass(frozen=True)
class ScanView:
    """The content of a scan's page.

    Attributes
    ----------
    scale
        The colour scale, the same for all scans of a report.
    embedded
        The scan, its map in the scale's units, and its label.
    dice
        Dice of mask and label, if there are both.
    still
        A PNG file for browsers without WebGL.
    stamp
        See :func:`medrd.pages.page.render`.
    """

    record: PredictionRecord
    scale: HeatScale
    embedded: EmbeddedScan
    dice: float | None = None
    still: bytes | None = None
    stamp: Mapping[str, Any] | None = None


def scan_page(view: ScanView, *, index: str | None = None) -> str:
    """Render the page as HTML.

    Parameters
    ----------
    index
        Address of the page that lists all scans.
    """
    record, scale, embedded = view.record, view.scale, view.embedded
    return render(
        "scan.html",
        title=record.subject,
        notice=record.notice,
        index=index,
        page={
            "window": embedded.window,
            "top": scale.top / scale.unit,
            "sign": scale.sign,
            "threshold": scale.threshold,
            "truth": embedded.truth is not None,
            "colours": _colour_nodes(),
        },
        first_threshold=1.0 if scale.threshold else 0.5,
        stamp=view.stamp,
        warnings=record.warnings,
        not_judged=record.not_judged,
        summary=_summary(record, view.dice),
        **colour_bar(scale),
        findings=[_finding(row, scale) for row in record.findings],
        no_findings=no_findings(scale),
        provenance=provenance(record),
        still=as_base64(view.still) if view.still else None,
        notes=embedded.notes,
        scan=as_base64(embedded.image),
        heat=as_base64(embedded.heat),
        truth=as_base64(embedded.truth) if embedded.truth is not None else None,
        niivue=packed_niivue(),
    )


def format_volume(volume_mm3: float) -> str:
    """Format a volume in mm³, or from 0.1 ml on in ml.

    >>> format_volume(64.0), format_volume(2345.6)
    ('64 mm³', '2.3 ml')
    """
    return f"{volume_mm3:.0f} mm³" if volume_mm3 < 100 else f"{volume_mm3 / 1000:.1f} ml"


def _summary(record: PredictionRecord, dice: float | None) -> list[tuple[str, str]]:
    rows = [("scan score", f"{record.score:.4g}"), *standing(record)]
    if record.findings_volume_mm3 is not None:
        rows.append(("at or above threshold", format_volume(record.findings_volume_mm3)))
    if dice is not None:
        rows.append(("Dice with the label", f"{dice:.3f}"))
    rows.append(("slices scored", _slices(record)))
    return rows


def _slices(record: PredictionRecord) -> str:
    text = f"{record.slices_scored} of {record.slices}"
    if record.slices_with_brain is None or record.slices_scored is None:  # an earlier version's
        return text
    left = record.slices_with_brain - record.slices_scored
    if left:
        were, area_mm2 = "was" if left == 1 else "were", record.min_brain_mm2
        text += f"; {left} with brain {were} not scored (less than {area_mm2:g} mm² of brain)"
    return text


def _finding(row: Mapping[str, Any], scale: HeatScale) -> dict[str, str]:
    return {
        "mm": " ".join(f"{value:.3f}" for value in row["peak_mm"]),
        "volume": format_volume(row["volume_mm3"]),
        "peak": f"{row['peak_score'] / scale.unit:.2f}",
        "centre": ", ".join(f"{value:.0f}" for value in row["centroid_mm"]),
    }


def _colour_nodes() -> dict[str, list[int]]:
    """The colour map in niivue's format; a score of 0 is transparent."""
    places = [i / (NODES - 1) for i in range(NODES)]
    colours = [colormaps[COLOUR_MAP](place, bytes=True) for place in places]
    red, green, blue = ([int(colour[i]) for colour in colours] for i in range(3))
    return {
        "R": red,
        "G": green,
        "B": blue,
        "A": [0] + [255] * (NODES - 1),
        "I": [round(255 * place) for place in places],
    }
