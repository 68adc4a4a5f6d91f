"""The metric that papers on reverse distillation call PRO; it is not medrd's AUPRO.

The code released with RD4AD (Deng and Li, CVPR 2022), which RD++ and others reuse, computes
one curve per anomalous image: 200 evenly spaced thresholds from the image's lowest score to just
below its highest, the mean overlap of its components (8-connected), and the image's own
false-positive rate. Rates below 0.3 are kept and **divided by the largest of them**; the areas
under these curves are averaged over images. It serves comparisons with published results and is
never reported as ``aupro``.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from medrd.metrics.regions import region_weights

_THRESHOLDS = 200
_MAX_FPR = 0.3


def aupro_rd4ad_image(map: NDArray[np.float32], label: NDArray[np.bool_]) -> float | None:
    """The per-image area of one map.

    Parameters
    ----------
    map
        ``(H, W)`` anomaly scores. Here, unlike elsewhere in medrd, a pixel is flagged when its
        score is **above** the threshold, as in that code.
    label
        ``(H, W)`` bool.

    Returns
    -------
    float or None
        None if that code fails or gives NaN: no anomalous or no normal pixel, a constant map,
        fewer than two rates below 0.3, or none of them above 0.

    Raises
    ------
    ValueError
        NaN or infinite scores, a label that is not bool, or shapes other than (H, W).
    """
    scores, label = np.asarray(map, dtype=np.float64), np.asarray(label)
    if label.dtype != np.bool_ or label.ndim != 2 or scores.shape != label.shape:
        msg = (
            f"map must be (H, W) and label bool of the same shape, "
            f"got {scores.shape} and {label.dtype} {label.shape}"
        )
        raise ValueError(msg)
    if not np.isfinite(scores).all():
        msg = "anomaly scores must be finite, got NaN or infinite values"
        raise ValueError(msg)
    if label.all() or not label.any():
        return None
    lowest, highest = scores.min(), scores.max()
    if lowest == highest:
        return None
    thresholds = lowest + np.arange(_THRESHOLDS) * ((highest - lowest) / _THRESHOLDS)
    normal = np.sort(scores[~label])
    rates = (normal.size - np.searchsorted(normal, thresholds, side="right")) / normal.size
    overlaps = _overlaps(scores, label, thresholds)
    kept = rates < _MAX_FPR
    if kept.sum() < 2 or not rates[kept].any():
        return None
    x, y = rates[kept] / rates[kept].max(), overlaps[kept]
    # The trapezoidal rule; scipy.integrate takes half a second to import. Thresholds ascend, so
    # rates descend.
    return -float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


def aupro_rd4ad(
    maps: Iterable[NDArray[np.float32]], labels: Iterable[NDArray[np.bool_]]
) -> float | None:
    """The mean of :func:`aupro_rd4ad_image` over the images where it is defined.

    Parameters
    ----------
    maps, labels
        ``(N, H, W)``, or any equally long iterables of images, whose sizes may differ.

    Returns
    -------
    float or None
        None if it is defined for no image.
    """
    areas = [aupro_rd4ad_image(*pair) for pair in zip(maps, labels, strict=True)]
    defined = [area for area in areas if area is not None]
    return float(np.mean(defined)) if defined else None


def _overlaps(
    scores: NDArray[np.float64], label: NDArray[np.bool_], thresholds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The mean share of the components above each threshold."""
    weights, components = region_weights(label)
    order = np.argsort(scores[label])
    below = np.concatenate(([0.0], np.cumsum(weights[order])))
    reached = np.searchsorted(scores[label][order], thresholds, side="right")
    overlaps: NDArray[np.float64] = 1 - below[reached] / components
    return overlaps
