"""Find the brain in a head.

There are three ways: a skull-stripped scan has its own brain mask; the template's brain is refined
to bright, connected tissue; or another program finds it (:mod:`medrd.preparation.programs`), of
which deepbet (Fisch et al. 2024) is called here, as its weights come in its wheel.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medrd.errors import EmptyBrainError
from medrd.extras import require_extra
from medrd.images.box import bounding_box, fill_holes
from medrd.images.volume import Volume

LEAST_ML, MOST_ML = 500.0, 2300.0
"""The range of brain volumes, from a small child's to a large man's with all fluid around it."""
_LEAST_AIR = 0.3
"""Minimum share of voxels that are exactly 0 in a skull-stripped scan."""

_CORE_MM, _GROWTH_MM, _BRIDGE_MM, _SULCUS_MM = 8.0, 4.0, 2.0, 6.0
_TISSUE = 0.4
"""Threshold for tissue, as a fraction of the way from the dark end to the median of the core."""


def is_stripped(volume: Volume) -> bool:
    """True if the nonzero part has the size of a brain, in a background of exactly 0."""
    inside = volume.array != 0
    ml = np.count_nonzero(inside) * volume.voxel_volume_mm3 / 1000
    return bool(LEAST_ML / 2 <= ml <= MOST_ML and 1 - inside.mean() >= _LEAST_AIR)


def filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected component, with holes filled."""
    regions, count = ndimage.label(mask)
    if count > 1:
        mask = regions == np.bincount(regions.ravel())[1:].argmax() + 1
    return fill_holes(mask)


def refine(
    image: NDArray[np.float32], prior: NDArray[np.bool_], spacing_mm: float
) -> NDArray[np.bool_]:
    """Fit a template's brain to a T1-weighted head, in which skull and fluid are dark.

    The result is the tissue within a few millimetres of the prior, separated from structures
    attached by thin bridges (dura, vessels, optic nerves), and closed over the sulci. It combines
    BET's thresholds (Smith 2002) with the morphology of Brain Surface Extractor (Shattuck et al.
    2001), starting from the prior.

    Parameters
    ----------
    image, prior
        (X, Y, Z) on one grid of isotropic voxels.

    Returns
    -------
    (X, Y, Z) bool; it always contains the prior's core.
    """
    box = bounding_box(prior, round(3 * _GROWTH_MM / spacing_mm))
    values, near = image[box], prior[box]
    core = _shrunk(near, _CORE_MM / spacing_mm)
    if not core.any():
        return prior
    dark = float(np.percentile(values[near], 2))
    threshold = dark + _TISSUE * (float(np.median(values[core])) - dark)
    candidates = ((values > threshold) & _grown(near, _GROWTH_MM / spacing_mm)) | core
    solid = filled(_shrunk(candidates, _BRIDGE_MM / spacing_mm) | core)
    tissue = _grown(solid, _BRIDGE_MM / spacing_mm) & candidates
    closed = _shrunk(_grown(tissue, _SULCUS_MM / spacing_mm), _SULCUS_MM / spacing_mm)
    result = np.zeros_like(prior)
    result[box] = fill_holes(closed | tissue)
    return result


def deepbet_mask(volume: Volume) -> NDArray[np.bool_]:
    """Find the brain of a T1-weighted head with deepbet: (X, Y, Z) bool on its grid.

    Needs about 2 GB of memory.

    Raises
    ------
    MissingExtraError
        If deepbet is not installed.
    EmptyBrainError
        If it finds no brain.
    """
    require_extra("brain", "--brain deepbet")
    try:
        _, mask, _ = load_deepbet().run(nib.Nifti1Image(volume.array, volume.affine))
        inside: NDArray[np.bool_] = np.asarray(mask.dataobj) > 0
    except (AssertionError, ValueError, RuntimeError) as error:
        raise _no_brain(volume, str(error) or "deepbet failed") from None
    if not inside.any():
        raise _no_brain(volume, "an empty mask from deepbet")
    return inside


@lru_cache(maxsize=1)
def load_deepbet() -> Any:
    from deepbet import BrainExtraction

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit.load, inside deepbet
        return BrainExtraction()


def _no_brain(volume: Volume, found: str) -> EmptyBrainError:
    return EmptyBrainError(
        volume.path or "volume",
        expected="a T1-weighted head in which deepbet finds the brain",
        found=found,
        remedy="Leave out --brain, or strip the skull with another program first.",
    )


def _grown(mask: NDArray[np.bool_], radius_px: float) -> NDArray[np.bool_]:
    result: NDArray[np.bool_] = ndimage.distance_transform_edt(~mask) <= radius_px
    return result


def _shrunk(mask: NDArray[np.bool_], radius_px: float) -> NDArray[np.bool_]:
    # Padded: the mask may continue beyond the border of the box.
    result: NDArray[np.bool_] = ndimage.distance_transform_edt(mask) > radius_px
    return result
