"""AUPRO: the area under the per-region overlap curve, over a whole data set.

The definition is that of MVTec AD (Bergmann et al., IJCV 2021): at a threshold,
PRO is the mean over *all components of the data set* of the share of the component's pixels
flagged, the false-positive rate is over *all normal pixels of the data set*, and the area is
that under PRO over the rate from 0 to 0.3, divided by 0.3. The curve starts at (0, 0), has a
point for every distinct score, and is interpolated linearly at the end of the interval.

Other numbers go by the same name. That of the released code of reverse distillation (RD4AD) is
:func:`medrd.metrics.aupro_rd4ad`; the two differ widely and must not stand in one column.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medrd.metrics.curve import Points, Totals

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def region_weights(
    labels: NDArray[np.bool_], *, mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float64], int]:
    """Weigh every anomalous pixel by one over the size of its component.

    Parameters
    ----------
    labels
        ``(H, W)`` or ``(N, H, W)`` bool. Components are found in each image by itself, with
        8-connectivity; once, and only where there are any.
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
    weights = np.zeros(labels.shape)
    components = 0
    for index in np.ndindex(labels.shape[:-2]):  # one empty index for a single image
        box = _bounding_box(labels[index])
        if box is None:
            continue
        regions, _ = ndimage.label(labels[index][box], structure=_EIGHT_NEIGHBOURS)
        if mask is not None:
            regions[~mask[index][box]] = 0
        sizes = np.bincount(regions.ravel())
        sizes[0] = 0
        share = np.zeros(sizes.size)
        np.divide(1.0, sizes, out=share, where=sizes > 0)
        weights[index][box] = share[regions]
        components += int(np.count_nonzero(sizes))
    return weights, components


def aupro_terms(points: Points, totals: Totals, max_fpr: float) -> NDArray[np.float64]:
    """``(K,)`` shares of the AUPRO that the segments ending at these points contribute.

    Needs at least one negative and one component. A segment beyond ``max_fpr`` contributes 0,
    the one that crosses it the trapezoid up to the crossing.
    """
    limit = max_fpr * totals.negatives  # in false positives
    width = segment_widths(points, limit)
    # How far into the segment the interval reaches: 1 for all but the crossing one.
    reach = width / np.maximum(points.negatives, 1)
    height = points.covered_before + reach * (points.covered - points.covered_before) / 2
    terms: NDArray[np.float64] = width * height / (limit * totals.components)
    return terms


def segment_widths(points: Points, limit: float) -> NDArray[np.float64]:
    """``(K,)`` false positives that the segments ending at these points add below the limit."""
    before = points.false_positives - points.negatives
    widths: NDArray[np.float64] = np.minimum(points.false_positives, limit)
    widths -= np.minimum(before, limit)
    return widths


def _bounding_box(label: NDArray[np.bool_]) -> tuple[slice, slice] | None:
    """The smallest box around all True of an image; None if there is none."""
    rows = np.flatnonzero(label.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(label[rows[0] : rows[-1] + 1].any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
