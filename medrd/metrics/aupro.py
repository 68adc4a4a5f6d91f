"""AUPRO: the area under the per-region overlap curve, over a whole data set.

The definition is that of MVTec AD (Bergmann et al., IJCV 2021): at a threshold,
PRO is the mean over *all components of the data set* of the share of the component's pixels
flagged, the false-positive rate is over *all normal pixels of the data set*, and the area is
that under PRO over the rate from 0 to 0.3, divided by 0.3. The curve starts at (0, 0), has a
point for every distinct score, and is interpolated linearly at the end of the interval.

Other numbers go by the same name. Released code of reverse distillation (RD4AD) computes a
curve of 200 thresholds for every anomalous image by itself, stretches its last rate below 0.3
to 1, and averages the areas; the two differ widely and must not stand in one table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medrd.metrics.curve import Points, Totals

# Neighbours within an image touch by a side or a corner; images of a stack never touch.
_EIGHT_NEIGHBOURS = np.zeros((3, 3, 3), dtype=bool)
_EIGHT_NEIGHBOURS[1] = True


def region_weights(
    labels: NDArray[np.bool_], *, mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float64], int]:
    """Weigh every anomalous pixel by one over the size of its component.

    Parameters
    ----------
    labels
        ``(H, W)`` or ``(N, H, W)`` bool. Components are found in each image by itself, with
        8-connectivity.
    mask
        The evaluated region, shaped as the labels; None for all. A component is one even where
        the mask cuts it in two; its size counts the pixels inside the mask only, and one wholly
        outside does not count.

    Returns
    -------
    weights
        float64, shaped as the labels; 0 on normal pixels and outside the mask.
    components
        The number of components, which is also what the weights add up to.

    Raises
    ------
    ValueError
        Not bool, neither two nor three dimensions, or a mask of another shape.
    """
    labels = np.asarray(labels)
    if labels.dtype != np.bool_ or labels.ndim not in (2, 3):
        msg = f"labels must be bool (H, W) or (N, H, W), got {labels.dtype} {labels.shape}"
        raise ValueError(msg)
    if mask is not None and (mask.dtype != np.bool_ or mask.shape != labels.shape):
        msg = f"mask must be bool {labels.shape} as the labels, got {mask.dtype} {mask.shape}"
        raise ValueError(msg)
    stack = labels if labels.ndim == 3 else labels[None]
    regions, _ = ndimage.label(stack, structure=_EIGHT_NEIGHBOURS)
    regions = regions.reshape(labels.shape)
    if mask is not None:
        regions[~mask] = 0
    sizes = np.bincount(regions.ravel(), minlength=1)
    sizes[0] = 0
    share = np.zeros(sizes.size)
    np.divide(1.0, sizes, out=share, where=sizes > 0)
    return share[regions], int(np.count_nonzero(sizes))


def aupro_terms(points: Points, totals: Totals, max_fpr: float) -> NDArray[np.float64]:
    """``(K,)`` shares of the AUPRO that the segments ending at these points contribute.

    Needs at least one negative and one component. A segment beyond ``max_fpr`` contributes 0,
    the one that crosses it the trapezoid up to the crossing.
    """
    limit = max_fpr * totals.negatives  # in false positives
    before = points.false_positives - points.negatives
    width = np.minimum(points.false_positives, limit) - np.minimum(before, limit)
    # How far into the segment the interval reaches: 1 for all but the crossing one.
    reach = width / np.maximum(points.negatives, 1)
    height = points.covered_before + reach * (points.covered - points.covered_before) / 2
    terms: NDArray[np.float64] = width * height / (limit * totals.components)
    return terms
