"""A scan and its map, made small enough for a web page: cropped NIfTI files of 8 and 16 bits.

:attr:`EmbeddedScan.notes` tells the reader how these copies differ from the scan.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.affines import from_matvec
from numpy.typing import NDArray

from medrd.draw.overlay import MARGIN_VOXELS
from medrd.images.box import bounding_box

STEPS_PER_UNIT = 128
"""Scores are rounded down to 1/128 of the threshold, so no voxel crosses it. NIfTI's scaling
represents a power of two exactly."""

MAX_BYTES = 8_000_000
"""Limit for all volumes together: 10.7 MB as base64, and a page of less than 15 MB."""

_MAX_SIDE_VOXELS = 512
"""Largest side of a 3D texture: WebGL 2 guarantees 256, and all graphics chips support 512."""


@dataclass(frozen=True)
class EmbeddedScan:
    """Compressed NIfTI files on one grid, and how they were made.

    Attributes
    ----------
    image
        8 bits over ``window``; 0 is the background.
    heat
        Scores divided by ``unit`` of :func:`embed_scan` (the threshold, if there is one).
    truth
        0 and 1; None without a label.
    window
        The scan's values that are shown black and white.
    factor
        Edge of the blocks of voxels that were merged into one.
    notes
        Sentences for the reader.
    """

    image: bytes
    heat: bytes
    truth: bytes | None
    window: tuple[float, float]
    factor: int
    notes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return len(self.image) + len(self.heat) + len(self.truth or b"")


def embed_scan(
    image: NDArray[np.float32],
    score_map: NDArray[np.float32],
    affine: NDArray[np.float64],
    *,
    unit: float,
    truth: NDArray[np.bool_] | None = None,
    max_bytes: int = MAX_BYTES,
) -> EmbeddedScan:
    """Crop the background and, if the rest is still too large, shrink it by an integer factor.

    Positions in mm do not change. A block of voxels gets its mean intensity, its highest score,
    and a label if any voxel has one, so that a small finding is not lost.

    Parameters
    ----------
    image, score_map, truth
        (X, Y, Z) on one grid.
    unit
        The score that becomes 1.
    """
    box = bounding_box((image != 0) | (score_map > 0), MARGIN_VOXELS)
    affine = affine @ from_matvec(np.eye(3), [part.start for part in box])
    image, score_map = image[box], score_map[box]
    truth = None if truth is None else truth[box]
    window = _window(image)
    factor = -(-max(image.shape) // _MAX_SIDE_VOXELS)
    while True:
        embedded = _embed(image, score_map, truth, affine, unit, window, factor)
        if embedded.size <= max_bytes or max(image.shape) <= factor:
            return embedded
        factor += 1


def _embed(
    image: NDArray[np.float32],
    score_map: NDArray[np.float32],
    truth: NDArray[np.bool_] | None,
    affine: NDArray[np.float64],
    unit: float,
    window: tuple[float, float],
    factor: int,
) -> EmbeddedScan:
    low, high = window
    image = _blocks(image, factor).mean(axis=(1, 3, 5), dtype=np.float32)
    # Value 0 is the background; a third of the other 255 is for values brighter than the window.
    step = (high - low) * 1.5 / 254
    grey = np.clip(np.round((image - low) / step) + 1, 1, 255) * (image != 0)
    scores = _blocks(score_map, factor).max(axis=(1, 3, 5))
    levels = np.floor(np.maximum(scores, 0) / np.float32(unit) * STEPS_PER_UNIT)
    # Division rounds, but a score at the threshold must stay there.
    levels = np.where(scores >= np.float32(unit), np.maximum(levels, STEPS_PER_UNIT), levels)
    # From blocks to voxels: a block's centre is between its voxels.
    affine = affine @ from_matvec(factor * np.eye(3), [(factor - 1) / 2] * 3)
    notes = [
        "The viewer shows the scan without background, in 8 bits, and scores rounded down to "
        f"1/{STEPS_PER_UNIT} of the colour bar's unit. The tables come from the full map."
    ]
    if factor > 1:
        notes.append(
            f"To keep this page small, the scan is shown at 1/{factor} of its resolution: each "
            f"block of {factor} × {factor} × {factor} voxels shows its highest score."
        )
    return EmbeddedScan(
        image=_nifti(grey.astype(np.uint8), affine, slope=step, inter=low - step),
        heat=_nifti(
            np.minimum(levels, 2**16 - 1).astype("<u2"), affine, slope=1 / STEPS_PER_UNIT, inter=0
        ),
        truth=None if truth is None else _nifti(_any_lesion(truth, factor), affine),
        window=window,
        factor=factor,
        notes=tuple(notes),
    )


def _any_lesion(truth: NDArray[np.bool_], factor: int) -> NDArray[np.uint8]:
    return np.asarray(_blocks(truth, factor).any(axis=(1, 3, 5)), np.uint8)


def _window(image: NDArray[np.float32]) -> tuple[float, float]:
    """Values shown black and white: percentiles 1 and 99.5 of the brain, as in the figures."""
    brain = image[image != 0]
    if not brain.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(brain, [1, 99.5]))
    return (low, high) if high > low else (low - 1.0, low + 1.0)


def _blocks(array: NDArray, factor: int) -> NDArray:
    """Reshape (X, Y, Z) to (x, factor, y, factor, z, factor), padded with background."""
    padded = np.pad(array, [(0, -n % factor) for n in array.shape])
    x, y, z = (n // factor for n in padded.shape)
    return padded.reshape(x, factor, y, factor, z, factor)


def _nifti(
    array: NDArray, affine: NDArray[np.float64], *, slope: float = 1.0, inter: float = 0.0
) -> bytes:
    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=0, strip_shears=True)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = slope, inter
    header["vox_offset"] = header.single_vox_offset
    content = header.binaryblock + b"\0\0\0\0" + array.tobytes(order="F")
    return gzip.compress(content, mtime=0)  # without a time, equal volumes give equal bytes
