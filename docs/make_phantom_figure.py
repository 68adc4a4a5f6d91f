"""Draw docs/figures/phantoms.png: three phantoms in four modalities, lesion outlined.

Usage: python docs/make_phantom_figure.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from medrd.phantom.cohort import MODALITIES, Phantom, make_subject

# Two high-grade gliomas and, by its index, a low-grade one.
SUBJECTS = (0, 1, 3)
OUTLINES = ((1, 2, 4), "#ffb000"), ((1, 4), "#dc267f")
TITLES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1ce", "t2": "T2"}
# The part of the 240 x 240 slice that holds the brain.
WINDOW = (slice(44, 196), slice(34, 222))


def draw_row(axes: np.ndarray, phantom: Phantom) -> None:
    """The axial slice with most of the lesion's core, one modality an axis."""
    core = np.isin(phantom.labels, (1, 4))
    k = int(core.sum(axis=(0, 1)).argmax())
    for axis, name in zip(axes, MODALITIES, strict=True):
        array = phantom.modalities[name]
        top = np.percentile(array[array > 0], 99.5)
        axis.imshow(array[*WINDOW, k].T, cmap="gray", vmin=0, vmax=top, interpolation="bilinear")
        axis.axis("off")
    for labels, colour in OUTLINES:
        part = np.isin(phantom.labels[*WINDOW, k], labels).T
        if part.any():
            axes[0].contour(part, [0.5], colors=colour, linewidths=1.0)
    axes[0].text(
        0.02, 0.02, phantom.subject_id, color="white", fontsize=8, transform=axes[0].transAxes
    )


def main() -> None:
    figure, axes = plt.subplots(
        len(SUBJECTS), len(MODALITIES), figsize=(8, 7.5), facecolor="black", squeeze=False
    )
    for row, index in zip(axes, SUBJECTS, strict=True):
        draw_row(row, make_subject(index))
    for axis, name in zip(axes[0], MODALITIES, strict=True):
        axis.set_title(TITLES[name], color="white", fontsize=11)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.96, wspace=0.02, hspace=0.02)
    out = Path(__file__).parent / "figures" / "phantoms.png"
    out.parent.mkdir(exist_ok=True)
    figure.savefig(out, dpi=110, facecolor="black")
    print(f"{out}: {out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
