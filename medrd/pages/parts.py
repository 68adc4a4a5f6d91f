"""Parts shared by the pages of scans and of pictures."""

from __future__ import annotations

from typing import Any

from matplotlib import colormaps
from matplotlib.colors import to_hex

from medrd.draw.heat import COLOUR_MAP, HeatScale
from medrd.run.record import PredictionRecord

NODES = 32
"""Number of points of the colour map; viewers interpolate between them."""


def colour_bar(scale: HeatScale) -> dict[str, Any]:
    """The values for ``bar.html``, which are the same on every page of a report."""
    colours = (to_hex(colormaps[COLOUR_MAP](i / (NODES - 1))) for i in range(NODES))
    return {
        "ramp": ", ".join(colours),
        "ticks": [f"{scale.top / scale.unit * i / 4:g}" for i in range(5)],
        "bar_label": f"anomaly score, {scale.describe('report')}; the same on every page",
    }


def no_findings(scale: HeatScale) -> str:
    """The reason why the table of findings is empty."""
    if scale.threshold:
        return "None: no connected region reaches the calibrated threshold."
    return "Not available: the model has no calibrated threshold."


def calibrated_whole(record: PredictionRecord) -> bool:
    """True if all slices of the calibration scans were healthy, so that there is a p-value.

    Otherwise calibration scans are scored by fewer slices than this one, whose percentile then
    tends to be high.
    """
    return record.p_value is not None


def standing(record: PredictionRecord) -> list[tuple[str, str]]:
    """Percentile and p-value among the calibration scans or pictures, if there are any."""
    normal, noun, count = "healthy", "scan", record.healthy_scans
    if not record.is_scan:
        normal, noun, count = "normal", "picture", record.normal_pictures
    rows = []
    if record.percentile is not None:
        plural = noun + "s" * (count != 1)
        whom = record.model.calibrated_on or f"calibration {plural}"
        text = f"higher than {record.percentile:.0f} % of {count} {whom}"
        if not calibrated_whole(record):
            text += f" (scored by {'their' if count != 1 else 'its'} {normal} slices only)"
        rows.append(("", text))
    if record.p_value is not None:
        text = f"{record.p_value:.3g}"
        if count and record.p_value * (count + 1) < 1.5:  # 1 if no calibration score is as high
            text += f" (it cannot be lower with {count})"
        rows.append(("p-value", text))
    return rows


def provenance(record: PredictionRecord) -> list[tuple[str, str]]:
    """Inputs, model, threshold and versions, with hashes."""
    rows = []
    for channel, path in record.inputs.items():
        rows += [(channel, path), ("sha256", record.input_hashes[channel])]
    if record.label:
        rows.append(("label", record.label))
    rows += [("model", record.model.name), ("model hash", record.model.hash)]
    if record.threshold is not None and record.threshold_target_fpr is not None:
        noun = "healthy voxels" if record.is_scan else "normal pixels"
        share = f"{100 * record.threshold_target_fpr:g} % of the {noun} in calibration reach it"
        rows.append(("threshold", f"{record.threshold:.6g}: {share}"))
    identity = record.identity
    rows.append(("computed", f"on {identity['device']} in {identity['precision']}"))
    rows.append(("versions", ", ".join(f"{k} {v}" for k, v in record.versions.items())))
    return rows
