"""Effects of a scanner and of the BraTS preprocessing on a signal.

These are thick slices, Rician noise (Gudbjartsson and Patz 1995), a receive-coil bias,
interpolation to 1 mm, and an arbitrary unit of intensity. BraTS volumes have all of them:
neither bias nor scale is corrected in the release.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medrd.phantom.anatomy import GRID, Head
from medrd.phantom.contrast import MODALITIES
from medrd.phantom.fields import FloatArray, random_field

# Slice thickness in mm: T1 after contrast is often a 3D scan, FLAIR and T2 rarely are.
_THICKNESSES_MM = {
    "flair": (1.0, 2.5, 3.0, 5.0, 5.0, 6.0),
    "t1": (1.0, 1.0, 2.0, 5.0, 5.0),
    "t1ce": (1.0, 1.0, 1.5, 3.0, 5.0),
    "t2": (1.0, 2.5, 3.0, 5.0, 5.0),
}
# Median noise of one slice, relative to white matter.
_NOISE = {"flair": 0.06, "t1": 0.028, "t1ce": 0.03, "t2": 0.055}
_INT16_MAX = 32767


@dataclass(frozen=True)
class Acquisition:
    """Scan parameters of one modality of one subject.

    Attributes
    ----------
    slice_mm
        Distance between slices and their thickness.
    blur_px
        Standard deviation of the in-plane point spread including interpolation, in 1 mm pixels.
    noise
        Standard deviation of the noise in one acquired slice, relative to white matter.
    bias
        Standard deviation of the logarithm of the bias field.
    unit
        Stored intensity of white matter.
    """

    slice_mm: float
    blur_px: float
    noise: float
    bias: float
    unit: float


def plan_acquisitions(rng: np.random.Generator) -> dict[str, Acquisition]:
    """Draw the four acquisitions of one subject, all in one scanner's unit."""
    # Units in BraTS 2018 run from about 100 to 15,000; one scanner's differ less.
    unit = np.exp(rng.uniform(np.log(130), np.log(9000)))
    plans = {}
    for name in MODALITIES:
        plans[name] = Acquisition(
            slice_mm=float(rng.choice(_THICKNESSES_MM[name])),
            blur_px=float(rng.uniform(0.35, 0.65)),
            noise=float(rng.lognormal(np.log(_NOISE[name]), 0.35)),
            bias=float(rng.uniform(0.05, 0.15)),
            unit=float(unit * rng.lognormal(0, 0.3)),
        )
    return plans


def scan(
    rng: np.random.Generator, head: Head, signal: FloatArray, plan: Acquisition
) -> NDArray[np.int16]:
    """Scan one modality.

    Parameters
    ----------
    signal
        (n,) relative to white matter, at the brain's voxels.

    Returns
    -------
    (240, 240, 155) int16, at least 1 inside the brain and 0 outside it.
    """
    from scipy import ndimage

    # Outside is the tissue from before skull-stripping: mostly bone, and dark.
    volume = head.volume(signal, outside=0.35)
    volume *= np.exp(plan.bias * random_field(rng, volume.shape, 70))
    slices, where = excite(volume, plan.slice_mm, rng.uniform(0, plan.slice_mm))
    noise = plan.noise * rng.standard_normal((2, *slices.shape), dtype=np.float32)
    slices = np.hypot(slices + noise[0], noise[1])
    for axis in (0, 1):
        slices = ndimage.gaussian_filter1d(slices, plan.blur_px, axis=axis, truncate=3)
    volume = interpolate(slices, where)
    stored = np.clip(np.rint(volume[head.mask] * plan.unit), 1, _INT16_MAX)
    whole = np.zeros(GRID, np.int16)
    whole[head.box][head.mask] = stored.astype(np.int16)
    return whole


def excite(volume: FloatArray, slice_mm: float, start_mm: float) -> tuple[FloatArray, FloatArray]:
    """Average over slabs of the third axis.

    Returns
    -------
    slices, where
        (x, y, s) float32, and (z,) float32: each voxel's position, counted in slices.
    """
    from scipy import ndimage

    depth = volume.shape[2]
    count = int(np.ceil((depth - 1 + start_mm) / slice_mm)) + 1
    centres = np.clip(np.arange(count) * slice_mm - start_mm, 0, depth - 1)
    averaged = ndimage.uniform_filter1d(volume, max(1, round(slice_mm)), axis=2, mode="nearest")
    slices = interpolate(averaged, centres.astype(np.float32))
    where = (np.arange(depth) + start_mm) / slice_mm
    return slices, where.astype(np.float32)


def interpolate(slices: FloatArray, where: FloatArray) -> FloatArray:
    """Linear interpolation along the third axis, (x, y, s) at (z,) -> (x, y, z)."""
    below = np.minimum(where.astype(np.intp), slices.shape[2] - 2)
    part = (where - below).astype(np.float32)
    interpolated: FloatArray = slices[:, :, below] * (1 - part) + slices[:, :, below + 1] * part
    return interpolated
