"""Draw docs/figures/failures.png: what RDSeg's threshold makes of three changes to a phantom.

Usage, after make demo-train: python docs/make_failure_figure.py demo-train Phantom_007
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

import medrd

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
FIGURE = Path(__file__).parent / "figures" / "failures.png"


def as_it_is(array: Array, lesion: Mask) -> Array:
    """Nothing changed."""
    return array


def faint(array: Array, lesion: Mask) -> Array:
    """A lesion with a third of its contrast."""
    median = np.median(array[array > 0])
    return np.where(lesion, median + (array - median) / 3, array)


def shaded(array: Array, lesion: Mask) -> Array:
    """A receive coil that sees the left of the picture better: 1.6 times as bright there."""
    across = np.linspace(0.4, -0.4, array.shape[0], dtype=np.float32)[:, None, None]
    return array * np.exp(across * 1.2)


CASES: dict[str, Callable[[Array, Mask], Array]] = {
    "as it is": as_it_is,
    "a third of its contrast": faint,
    "shaded by the coil": shaded,
}


def main(demo: Path, subject: str) -> None:
    """Predict each and draw the slice with most of the lesion."""
    folder = demo / "brains" / subject
    scan = medrd.read(folder / f"{subject}_flair.nii.gz")
    lesion = medrd.read(folder / f"{subject}_seg.nii.gz").array > 0
    model = medrd.load(demo / "run")
    number = int(lesion.sum((0, 1)).argmax())
    figure, axes = plt.subplots(1, len(CASES), figsize=(9, 3.6), facecolor="black")
    for axis, (title, change) in zip(axes, CASES.items(), strict=True):
        changed = np.asarray(change(scan.array, lesion), np.float32)
        found = model.predict(replace(scan, array=changed))
        assert found.mask is not None
        top = np.percentile(changed[changed > 0], 99.5)
        axis.imshow(changed[:, :, number].T, cmap="gray", vmin=0, vmax=top)
        for mask, colour in ((lesion, "#33dd55"), (found.mask, "#ff5533")):
            if mask[:, :, number].any():
                axis.contour(mask[:, :, number].T, [0.5], colors=colour, linewidths=1)
        both = 2 * (found.mask & lesion).sum() / (found.mask.sum() + lesion.sum())
        axis.set_title(f"{title}: Dice {both:.2f}", color="white", fontsize=10)
        axis.set_xlim(30, 215)
        axis.set_ylim(225, 25)
        axis.axis("off")
    figure.tight_layout(pad=0.3)
    figure.savefig(FIGURE, dpi=110, facecolor="black")
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
