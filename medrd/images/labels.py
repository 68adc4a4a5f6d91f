"""Check that the values of a label, or of a picture's mask, are labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.errors import LabelError

# A slope such as 1/255 leaves errors of 1e-7; a spline leaves ripples of 1e-3 beside an edge.
_ROUNDING = 1e-4
_HIGHEST = 2**24
"""Above this value, float32 does not hold every whole number."""
FEW_VALUES = 16
"""Largest number of distinct values in a label; a scan has hundreds."""
MOST = 0.5
"""Share of a brain or a picture beyond which a label is more likely to mark something else."""
_MANY_EDGES = 0.1
"""Share of neighbouring labelled voxels that differ. Classes and numbered lesions form regions, so
few of their neighbours differ; those of a blurred mask or of a scan do."""

_SAVE_AGAIN = (
    "Save whole numbers, 0 where there is no lesion: resample labels with nearest neighbours, "
    "and threshold maps of probabilities."
)


def whole_labels(path: str | Path, values: NDArray[Any]) -> NDArray[np.int32]:
    """Return the values as integers.

    Parameters
    ----------
    values
        Values of any shape and type, which may include NaN.

    Raises
    ------
    LabelError
        A value is NaN, infinite, negative or not a whole number.
    """
    whole = values.dtype.kind in "bui"
    rounded = values if whole else np.rint(values)
    sound = (rounded >= 0) & (rounded <= np.float64(_HIGHEST))
    if not whole:
        with np.errstate(invalid="ignore"):
            sound &= np.abs(values - rounded) <= _ROUNDING  # NaN and infinity are not
    if not sound.all():
        raise LabelError(
            path,
            expected="a label: whole numbers of 0 and more",
            found=_described(values[~sound], values.size),
            remedy=_SAVE_AGAIN,
        )
    return rounded.astype(np.int32)


def refuse_grey_values(path: str | Path, labels: NDArray[np.int32]) -> None:
    """Raise LabelError if many different values lie side by side, as in a scan or a blurred
    label."""
    levels = np.unique(labels).size
    if levels <= FEW_VALUES:
        return
    differing = labelled = 0
    for axis in range(labels.ndim):
        ahead, behind = np.moveaxis(labels, axis, 0)[1:], np.moveaxis(labels, axis, 0)[:-1]
        both = (ahead != 0) & (behind != 0)
        labelled += int(both.sum())
        differing += int((both & (ahead != behind)).sum())
    if differing > _MANY_EDGES * labelled:
        raise LabelError(
            path,
            expected="a label: regions of one value each",
            found=f"{levels:,} distinct values that differ from voxel to voxel, as in a scan, a "
            "map of probabilities or a blurred label",
            remedy=_SAVE_AGAIN + " If they are labels, set data.lesion_labels.",
        )


def _described(odd: NDArray[Any], size: int) -> str:
    """Count and name the values that are not labels."""
    finite = odd[np.isfinite(odd)]
    fractions = finite[(finite > 0) & (finite <= _HIGHEST)]
    kinds = [
        ("NaN or infinite", odd.size - finite.size, ""),
        ("negative", int((finite < 0).sum()), f", the lowest {finite.min(initial=0):.4g}"),
        ("fractions", fractions.size, f", such as {fractions.max(initial=0):.4g}"),
        ("too large", int((finite > _HIGHEST).sum()), f", the highest {finite.max(initial=0):.4g}"),
    ]
    named = "; ".join(f"{count:,} {kind}{example}" for kind, count, example in kinds if count)
    return f"{named} (of {size:,} values)"
