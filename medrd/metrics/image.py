"""Image-level metrics: is there anything anomalous in a slice or picture?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score


def image_metrics(
    scores: NDArray[np.float32], labels: NDArray[np.bool_]
) -> dict[str, float | None]:
    """AUROC and average precision of image scores.

    By scikit-learn on the raw scores: torchmetrics puts scores outside [0, 1] through a sigmoid,
    batch by batch, which changes the ranking.

    Parameters
    ----------
    scores
        ``(N,)``, higher is more anomalous.
    labels
        ``(N,)`` bool, True for images with an anomaly.

    Returns
    -------
    dict
        ``image_auroc`` and ``image_ap``; both None if either class is empty.

    Raises
    ------
    ValueError
        NaN or infinite scores, labels that are not bool, or shapes that differ.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if labels.dtype != np.bool_ or scores.ndim != 1 or scores.shape != labels.shape:
        msg = (
            f"scores must be (N,) and labels bool (N,), "
            f"got {scores.shape} and {labels.dtype} {labels.shape}"
        )
        raise ValueError(msg)
    if not np.isfinite(scores).all():
        msg = "image scores must be finite, got NaN or infinite values"
        raise ValueError(msg)
    if labels.all() or not labels.any():
        return {"image_auroc": None, "image_ap": None}
    return {
        "image_auroc": float(roc_auc_score(labels, scores)),
        "image_ap": float(average_precision_score(labels, scores)),
    }
