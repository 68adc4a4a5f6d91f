"""Connected components of anomalies, and the weights that make them count equally in AUPRO."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def region_weights(
    labels: NDArray[np.bool_], *, mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float64], int]:
    """Weight every anomalous pixel by one over the size of its component.

    Parameters
    ----------
    labels
        ``(H, W)`` or ``(N, H, W)`` bool. Components are found in each image by itself, with
        8-connectivity.
    mask
        The evaluated region, with the shape of the labels; None for all pixels. A component that
        the mask cuts in two stays one component; its size counts only pixels inside the mask, and
        a component wholly outside does not count.

    Returns
    -------
    weights
        ``(P,)`` float64, one for each anomalous pixel inside the mask, in array order (that of
        the True values of ``labels[mask]``).
    components
        The number of components, to which the weights add up.

    Raises
    ------
    ValueError
        Labels or mask are not bool, not of two or three dimensions, or differ in shape.
    """
    labels = np.asarray(labels)
    if labels.dtype != np.bool_ or labels.ndim not in (2, 3):
        msg = f"labels must be bool (H, W) or (N, H, W), got {labels.dtype} {labels.shape}"
        raise ValueError(msg)
    if mask is not None and (mask.dtype != np.bool_ or mask.shape != labels.shape):
        msg = f"mask must be bool {labels.shape} as the labels, got {mask.dtype} {mask.shape}"
        raise ValueError(msg)
    weights = [np.empty(0)]
    components = 0
    for index in np.ndindex(labels.shape[:-2]):  # one empty index for a single image
        box = _bounding_box(labels[index])
        if box is None:
            continue
        regions, _ = ndimage.label(labels[index][box], structure=_EIGHT_NEIGHBOURS)
        inside = labels[index][box] if mask is None else labels[index][box] & mask[index][box]
        owners = regions[inside]
        sizes = np.bincount(owners)
        weights.append(1 / sizes[owners])
        components += int(np.count_nonzero(sizes))
    return np.concatenate(weights), components


def _bounding_box(label: NDArray[np.bool_]) -> tuple[slice, slice] | None:
    """The smallest box that contains every True value; None if there is none."""
    rows = np.flatnonzero(label.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(label[rows[0] : rows[-1] + 1].any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
