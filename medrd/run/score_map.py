"""Anomaly maps as NIfTI, whichever grid they are on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medrd.images.nifti import write_nifti
from medrd.images.volume import Volume


def write_score_map(
    path: Path,
    scores: NDArray[np.float32],
    like: Volume,
    *,
    description: str,
    threshold: float | None,
) -> None:
    """Write (X, Y, Z) with the geometry of ``like`` bit for bit; see docs/formats.md.

    Viewers take ``cal_max``, twice the threshold, for the range of colours.
    """
    write_nifti(
        path,
        scores,
        like,
        dtype="float32",
        description=description,
        intent_name="anomaly score",
        cal_max=2 * threshold if threshold is not None else None,
    )
