"""A scan and its map, small enough for a web page: cropped, in 8 and 16 bits, as NIfTI.

What a page shows is a copy for looking at; :attr:`EmbeddedScan.notes` says what it lacks.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medrd.draw.overlay import MARGIN_VOXELS
from medrd.images.box import bounding_box

STEPS_PER_UNIT = 128
"""Scores are kept to this part of the threshold, rounded down: no voxel crosses it. A power of
two, which NIfTI's scaling holds exactly."""

MAX_BYTES = 8_000_000
"""Of the volumes together; in a page's base64 10.7 MB, and with viewer and picture under 15 MB."""

_MAX_SIDE_VOXELS = 512
"""Of a 3D texture that every graphics chip with WebGL 2 can hold (the standard asks for 256)."""


@dataclass(frozen=True)
class EmbeddedScan:
    """Compressed NIfTI files on one grid, and what was done to get there.

    Attributes
    ----------
    image
        8 bits over ``window``; 0 is the background.
    heat
        Scores in units (of the threshold, where there is one).
    truth
        0 and 1; None without a label.
    window
        Values of the scan that are shown black and white.
    factor
        Edge of the blocks of voxels that became one.
    notes
        For the reader, a sentence each.
    """

    image: bytes
    heat: bytes
    truth: bytes | None
    window: tuple[float, float]
    factor: int
    notes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all."""
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
    """Cut to what is not background and, if that is still too much, shrink by whole factors.

    Places in mm stay where they are. Blocks of voxels become the mean of the scan, the highest
    score and any lesion, so that a small finding is not lost.

    Parameters
    ----------
    image, score_map, truth
        (X, Y, Z) on one grid.
    unit
        The score that is called 1.
    """
    box = bounding_box((image != 0) | (score_map > 0), MARGIN_VOXELS)
    affine = affine @ _shifted([part.start for part in box])
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
    # 255 values above the background's, a third of them for what is brighter than the window.
    step = (high - low) * 1.5 / 254
    grey = np.clip(np.round((image - low) / step) + 1, 1, 255) * (image != 0)
    scores = _blocks(score_map, factor).max(axis=(1, 3, 5))
    levels = np.floor(np.maximum(scores, 0) / np.float32(unit) * STEPS_PER_UNIT)
    # Division rounds: what is at the threshold has to stay there.
    levels = np.where(scores >= np.float32(unit), np.maximum(levels, STEPS_PER_UNIT), levels)
    affine = affine @ _shrunk(factor)
    notes = [
        "Only the part of the scan that is not background, in 8 bits; scores rounded down to "
        f"1/{STEPS_PER_UNIT} of the colour bar's unit. The tables come from the full map."
    ]
    if factor > 1:
        notes.append(
            f"Shown at 1/{factor} of the scan's resolution, to keep this page small: blocks of "
            f"{factor} × {factor} × {factor} voxels, each with its highest score."
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
    """What is black and what is white: as in the still pictures, from 1 to 99.5 % of the brain."""
    brain = image[image != 0]
    if not brain.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(brain, [1, 99.5]))
    return (low, high) if high > low else (low - 1.0, low + 1.0)


def _blocks(array: NDArray, factor: int) -> NDArray:
    """(X, Y, Z) as (x, factor, y, factor, z, factor), the edges filled with background."""
    padded = np.pad(array, [(0, -n % factor) for n in array.shape])
    x, y, z = (n // factor for n in padded.shape)
    return padded.reshape(x, factor, y, factor, z, factor)


def _shifted(start: list[int]) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, 3] = start
    return matrix


def _shrunk(factor: int) -> NDArray[np.float64]:
    """From indices of blocks to those of voxels: a block's centre lies between its voxels."""
    matrix = np.diag([factor, factor, factor, 1.0])
    matrix[:3, 3] = (factor - 1) / 2
    return matrix


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
    return gzip.compress(content, mtime=0)  # equal volumes are equal bytes
