"""Lesions as three-dimensional components: how many are detected, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

LEAST_VOXELS = 10
"""Default size of the smallest lesion or finding that counts."""
_TWENTY_SIX_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class LesionCounts:
    """Lesions and findings of one scan; see :func:`lesion_counts`."""

    lesions: int
    detected: int
    false_positives: int
    dice: float | None


class Lesion(TypedDict):
    """A row of the lesion table. Positions are in the affine's world (RAS+ millimetres)."""

    voxels: int
    volume_mm3: float
    peak_score: float
    centroid_mm: list[float]
    peak_mm: list[float]


def lesion_counts(
    prediction: NDArray[np.bool_], label: NDArray[np.bool_], *, min_voxels: int = LEAST_VOXELS
) -> LesionCounts:
    """Compare a predicted mask with a label, lesion by lesion.

    Lesions are components with 26-connectivity of at least ``min_voxels`` voxels; smaller ones,
    in the label and in the prediction, are ignored (BraTS 2023's lesion-wise evaluation has a
    similar limit). A lesion is **detected** if a predicted component of that size shares at
    least one voxel with it. A predicted component of that size is a **false positive** if it
    shares no voxel with the label, not even with one of its small components. Connectivity and
    the criterion of one shared voxel are those of the WMH challenge (Kuijf et al., TMI 2019) and
    of ISLES'22. The rule is lenient towards a mask that fills the brain, so read the sensitivity
    together with the Dice.

    Parameters
    ----------
    prediction, label
        ``(X, Y, Z)`` bool.

    Returns
    -------
    LesionCounts
        ``dice`` and the voxel counts are of the whole masks, including small components;
        ``dice`` is None if the label is empty.

    Raises
    ------
    ValueError
        Not bool, not three-dimensional, shapes that differ, or ``min_voxels`` below 1.
    """
    _check_min_voxels(min_voxels)
    for name, array in (("prediction", prediction), ("label", label)):
        _check_volume(name, array, label.shape)
    predicted, predicted_sizes = _components(prediction)
    lesions, lesion_sizes = _components(label)
    predicted_kept = predicted_sizes >= min_voxels
    lesions_kept = lesion_sizes >= min_voxels

    overlapped_lesions = np.zeros(lesion_sizes.size, dtype=bool)
    overlapped_lesions[lesions[prediction][predicted_kept[predicted[prediction]]]] = True
    overlapping_predictions = np.zeros(predicted_sizes.size, dtype=bool)
    overlapping_predictions[predicted[label]] = True

    shared, outlined = int((prediction & label).sum()), int(label.sum())
    return LesionCounts(
        lesions=int(lesions_kept.sum()),
        detected=int((lesions_kept & overlapped_lesions).sum()),
        false_positives=int((predicted_kept & ~overlapping_predictions).sum()),
        dice=2 * shared / (int(prediction.sum()) + outlined) if outlined else None,
    )


def mean_dice(counts: Sequence[LesionCounts]) -> float | None:
    """Mean over the scans with a label; None without such a scan."""
    dices = [count.dice for count in counts if count.dice is not None]
    return sum(dices) / len(dices) if dices else None


def lesion_sensitivity(counts: Sequence[LesionCounts]) -> float | None:
    """Detected over all lesions, pooled over the scans; None without lesions."""
    lesions = sum(count.lesions for count in counts)
    return sum(count.detected for count in counts) / lesions if lesions else None


def false_positives_per_scan(counts: Sequence[LesionCounts]) -> float | None:
    """Mean over all scans, including those without a label; None without scans."""
    return sum(count.false_positives for count in counts) / len(counts) if counts else None


def lesion_table(
    score_map: NDArray[np.float32],
    mask: NDArray[np.bool_],
    affine: NDArray[np.float64],
    *,
    min_voxels: int = LEAST_VOXELS,
) -> list[Lesion]:
    """The components of a predicted mask, largest first.

    Parameters
    ----------
    score_map
        ``(X, Y, Z)`` anomaly scores, finite inside the mask.
    mask
        ``(X, Y, Z)`` bool; its components with 26-connectivity are the rows.
    affine
        ``(4, 4)`` from voxel indices to world millimetres (RAS+ in NIfTI).
    min_voxels
        Smaller components are left out.

    Returns
    -------
    list of Lesion
        Sorted by volume, descending; then by peak score, descending; then by array position.
        The centroid is that of the voxel centres, unweighted. The peak is the first voxel, in
        the array's order, with the component's highest score.

    Raises
    ------
    ValueError
        Wrong shapes or types, scores inside the mask that are not finite, or ``min_voxels``
        below 1.
    """
    _check_min_voxels(min_voxels)
    _check_volume("mask", mask, score_map.shape)
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4):
        msg = f"affine must be (4, 4), got {affine.shape}"
        raise ValueError(msg)
    components, sizes = _components(mask)
    owners = components[mask]
    large = sizes[owners] >= min_voxels
    if not large.any():
        return []
    voxels, scores, owners = np.flatnonzero(mask)[large], score_map[mask][large], owners[large]
    if not np.isfinite(scores).all():
        msg = "scores inside the mask must be finite, got NaN or infinite values"
        raise ValueError(msg)
    # lexsort is stable: component by component, highest score first, then the array's order.
    order = np.lexsort((-scores, owners))
    voxels, scores, owners = voxels[order], scores[order], owners[order]
    starts = np.flatnonzero(np.diff(owners, prepend=0))
    indices = np.stack(np.unravel_index(voxels, mask.shape), axis=1).astype(np.float64)
    counts = np.diff(starts, append=voxels.size)
    centroids = _to_world(np.add.reduceat(indices, starts, axis=0) / counts[:, None], affine)
    peaks = _to_world(indices[starts], affine)
    voxel_volume_mm3 = abs(float(np.linalg.det(affine[:3, :3])))
    firsts = np.minimum.reduceat(voxels, starts)
    rows = [
        Lesion(
            voxels=int(count),
            volume_mm3=int(count) * voxel_volume_mm3,
            peak_score=float(scores[start]),
            centroid_mm=centroid.tolist(),
            peak_mm=peak.tolist(),
        )
        for count, start, centroid, peak in zip(counts, starts, centroids, peaks, strict=True)
    ]
    return [rows[i] for i in np.lexsort((firsts, -scores[starts], -counts))]


def _components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Number components ``(X, Y, Z)`` from 1, and return their sizes; background is 0, size 0."""
    components, _ = ndimage.label(mask, structure=_TWENTY_SIX_NEIGHBOURS)
    return components, np.bincount(components[mask], minlength=1)


def _to_world(indices: NDArray[np.float64], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert ``(K, 3)`` voxel indices to ``(K, 3)`` millimetres."""
    world: NDArray[np.float64] = indices @ affine[:3, :3].T + affine[:3, 3]
    return world


def _check_volume(name: str, array: NDArray[np.bool_], shape: tuple[int, ...]) -> None:
    if array.dtype != np.bool_ or array.ndim != 3 or array.shape != shape:
        msg = f"{name} must be bool (X, Y, Z) of shape {shape}, got {array.dtype} {array.shape}"
        raise ValueError(msg)


def _check_min_voxels(min_voxels: int) -> None:
    if min_voxels < 1:
        msg = f"min_voxels must be at least 1, got {min_voxels}"
        raise ValueError(msg)
