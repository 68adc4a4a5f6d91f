"""Draw docs/figures/varied.png: twelve varied phantoms, lesions outlined.

Usage: python docs/make_varied_figure.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from medrd.phantom.varied import make_varied

COLUMNS, ROWS = 6, 2
# The part of the 160 x 160 slice that holds the brain.
WINDOW = (slice(24, 136), slice(17, 153))


def main() -> None:
    figure, axes = plt.subplots(ROWS, COLUMNS, figsize=(9, 3.65), facecolor="black")
    for index, axis in enumerate(axes.flat):
        scan = make_varied(index)
        areas = scan.labels.sum(axis=(0, 1))
        k = int(areas.argmax()) if areas.any() else int((scan.image > 0).sum(axis=(0, 1)).argmax())
        top = np.percentile(scan.image[scan.image > 0], 99.5)
        axis.imshow(scan.image[*WINDOW, k].T, cmap="gray", vmin=0, vmax=top)
        lesion = scan.labels[*WINDOW, k].T > 0
        if lesion.any():
            axis.contour(lesion, [0.5], colors="#ffb000", linewidths=0.8)
        axis.axis("off")
    figure.subplots_adjust(0.002, 0.005, 0.998, 0.995, wspace=0.02, hspace=0.02)
    out = Path(__file__).parent / "figures" / "varied.png"
    figure.savefig(out, dpi=100, facecolor="black")
    print(f"{out}: {out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
