"""Turn a subject's volumes into normalised slices, for training and prediction alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.config import MEDIAN_INTENSITY, RecipeConfig
from medrd.data.brains.geometry import SliceGeometry
from medrd.data.brains.shading import without_shading
from medrd.data.brains.stacks import stacked
from medrd.data.subject import Subject
from medrd.data.traits import ScanTraits, scan_traits
from medrd.errors import AffineError, EmptyBrainError, TooLargeError, WrongKindError
from medrd.images.box import fill_holes
from medrd.images.header import DEFAULT_MAX_VOXELS
from medrd.images.labels import FEW_VALUES
from medrd.images.read import read_volume
from medrd.images.volume import Volume, check_same_grid

SMALLEST_VOXEL_MM, LARGEST_VOXEL_MM = 0.05, 50


@dataclass(frozen=True, eq=False)
class PreparedVolume:
    """The slices of a volume that hold enough brain.

    Attributes
    ----------
    images
        (S, C, H, W) float32 in [0, 1]; channels as in :attr:`RecipeConfig.layout`.
    region
        (S, H, W) bool: the brain.
    numbers
        (S,) position of each slice in the stack of all ``depth`` slices.
    depth
        Number of slices in the whole volume.
    with_brain
        Number of slices with any brain.
    least_brain_mm2
        Slices with less brain than this are left out.
    geometry
        Maps slices back to the volume's grid.
    brain_volume
        (X, Y, Z) bool on the volume's grid.
    warnings
        Irregularities that do not prevent the scan's use.
    traits
        Summary of the scan's appearance, for comparison with a model's profile.
    """

    images: NDArray[np.float32]
    region: NDArray[np.bool_]
    numbers: NDArray[np.int64]
    depth: int
    with_brain: int
    least_brain_mm2: float
    geometry: SliceGeometry
    brain_volume: NDArray[np.bool_]
    warnings: tuple[str, ...]
    traits: ScanTraits | None = None

    @property
    def positions_mm(self) -> NDArray[np.float64]:
        """(S,) distance of each slice from the first slice of the stack."""
        return self.numbers.astype(np.float64) * self.geometry.slice_distance_mm

    def to_grid(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Maps (S, H, W) of these slices on the volume's grid, 0 outside the brain."""
        stack = np.zeros((self.depth, *maps.shape[1:]), np.float32)
        stack[self.numbers] = maps
        result = self.geometry.to_volume(stack)
        result *= self.brain_volume  # in place, which keeps the order of the voxels in memory
        return result

    def upright(self, array: NDArray[Any]) -> NDArray[Any]:
        """Reorient (X, Y, Z) to a stack of slices along the recipe's axis, at the scan's
        resolution."""
        return self.geometry.oriented(array)

    def scored(self) -> NDArray[np.bool_]:
        """The mask of voxels that a map covers: the brain, in slices with enough brain."""
        stack = np.zeros((self.depth, *self.region.shape[1:]), np.uint8)
        stack[self.numbers] = 1
        result = self.geometry.to_volume(stack, nearest=True) > 0.5
        result &= self.brain_volume
        return result


def read_channels(subject: Subject, recipe: RecipeConfig, *, max_voxels: int) -> dict[str, Volume]:
    """Read the volumes of the recipe's channels and check that they share a grid."""
    volumes: dict[str, Volume] = {}
    for channel in recipe.channels:
        source = subject.images[channel]
        volumes[channel] = read_volume(
            source.path, frame=source.frame, series=source.series, max_voxels=max_voxels
        )
    if len(volumes) > 1:
        check_same_grid(volumes)
    return volumes


def refuse_label(volume: Volume) -> None:
    """Raise WrongKindError if a "scan" holds only a few distinct whole numbers."""
    # A sample first: it is enough to rule out a label for nearly every scan.
    every = slice(None, None, max(1, round((volume.array.size / 20_000) ** (1 / 3))))
    for part in (volume.array[every, every, every], volume.array):
        levels = np.unique(part[part != 0])
        if levels.size > FEW_VALUES or (levels != np.round(levels)).any():
            return
    if not levels.size:
        return
    raise WrongKindError(
        volume.path or "volume",
        expected="a scan",
        found="only the "
        + ("value" if levels.size == 1 else "values")
        + f" {', '.join(f'{level:g}' for level in levels)} and 0, as in a label",
        remedy="Give the image, not its segmentation.",
    )


def brain_mask(volumes: Mapping[str, Volume]) -> NDArray[np.bool_]:
    """The mask (X, Y, Z) of voxels where any modality is nonzero, with holes filled.

    Scans must be skull-stripped, with a background of exactly 0.
    """
    arrays = [volume.array for volume in volumes.values()]
    brain = np.asarray(arrays[0] != 0)
    for array in arrays[1:]:
        brain = brain | (array != 0)
    return fill_holes(brain)


def normalise(
    array: NDArray[np.float32], brain: NDArray[np.bool_], recipe: RecipeConfig
) -> NDArray[np.float32]:
    """Scale a volume to [0, 1] over its own brain; 0 outside: (X, Y, Z) float32.

    ``percentile`` maps two percentiles linearly and clips (a single voxel at 32,767 must
    not set the scale); ``rank`` gives each voxel the share of brain voxels that are darker
    (ties get their mean rank); ``median`` scales the median to
    :data:`medrd.config.MEDIAN_INTENSITY` and clips.
    """
    values = array[brain]
    if recipe.normalise == "rank":
        unique, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        middle = np.cumsum(counts) - (counts - 1) / 2
        scaled = (middle / values.size).astype(np.float32)[inverse]
        flat = unique.size < 2
    elif recipe.normalise == "median":
        median = float(np.median(values))
        if not median > 0:
            span = f"from {values.min():.4g} to {values.max():.4g}"
            raise ValueError(f"a median of {median:.4g} where it is not 0 ({span})")
        flat = bool(values.min() == values.max())
        scaled = np.clip(values * (MEDIAN_INTENSITY / median), 0, 1)
    else:
        low, high = np.percentile(values, recipe.percentiles)
        flat = not high > low
        scaled = np.clip((values - low) / (high - low if not flat else 1), 0, 1)
    if flat:
        raise ValueError("the brain's voxels all have the same value")
    result = np.zeros(array.shape, np.float32)
    result[brain] = scaled
    return result


def prepare_slices(
    volumes: Mapping[str, Volume], recipe: RecipeConfig, *, quick: bool = False
) -> PreparedVolume:
    """Find the brain of one subject, normalise its volumes and cut the slices.

    Parameters
    ----------
    volumes
        Volumes by channel, on one grid, in the recipe's order.
    quick
        See :class:`medrd.data.brains.geometry.SliceGeometry`.

    Raises
    ------
    EmptyBrainError
        No slice holds enough brain, or a channel is constant in it.
    """
    first = next(iter(volumes.values()))
    where = first.path or Path("volume")
    _check_spacing(first, where)
    brain = brain_mask(volumes)
    warnings = [text for volume in volumes.values() for text in volume.warnings]
    if brain.mean() > 0.9:
        warnings.append(
            "over 90 % of the voxels are not 0, so the brain cannot be told from the "
            "background: models expect skull-stripped scans, 0 outside the brain"
        )
    geometry = SliceGeometry.around(
        brain,
        first.affine,
        axis=recipe.axis,
        field_mm=recipe.field_mm,
        size=recipe.size,
        quick=quick,
    )
    _check_extent(geometry, recipe, where)
    brain_slices = geometry.to_slices(brain.astype(np.uint8), nearest=True) > 0.5
    areas = brain_slices.sum(axis=(1, 2)) * geometry.pixel_area_mm2
    numbers = np.flatnonzero(areas >= recipe.min_brain_mm2)
    if numbers.size == 0:
        raise EmptyBrainError(
            where,
            expected=f"a slice with at least {recipe.min_brain_mm2:g} mm² of brain",
            found=f"{areas.max():.0f} mm² at most (voxels that are not 0)",
            remedy="Check that this is a brain scan in mm, or lower recipe.min_brain_mm2.",
        )
    channels = []
    for name, volume in volumes.items():
        try:
            array = volume.array
            if recipe.shading == "quadratic":
                array = without_shading(array, brain, volume.spacing_mm)
            normalised = normalise(array, brain, recipe)
        except ValueError as error:
            raise EmptyBrainError(
                volume.path or name,
                expected="0 outside the brain, and intensities with contrast in it"
                + (
                    ", mostly above 0"
                    if recipe.normalise == "median" or recipe.shading != "kept"
                    else ""
                ),
                found=str(error),
                remedy="Check the file in a viewer. If another program normalised it (z-scores, "
                "HU) or filled its background, give the original scan, or train a model with "
                "recipe.normalise=percentile"
                + ("." if recipe.shading == "kept" else " and recipe.shading=kept."),
            ) from None
        channels.append(geometry.to_slices(normalised)[numbers])
    inside = geometry.share_inside(brain)
    if inside < 0.99:
        warnings.append(
            f"{100 * (1 - inside):.0f} % of the brain is outside the field of "
            f"{recipe.field_mm:g} mm and has no score"
        )
    places_mm = numbers.astype(np.float64) * geometry.slice_distance_mm
    return PreparedVolume(
        images=stacked(np.clip(np.stack(channels, axis=1), 0, 1), places_mm, recipe.layout),
        region=brain_slices[numbers],
        numbers=numbers,
        depth=brain_slices.shape[0],
        with_brain=int((areas > 0).sum()),
        least_brain_mm2=recipe.min_brain_mm2,
        geometry=geometry,
        brain_volume=brain,
        warnings=tuple(dict.fromkeys(warnings)),
        traits=scan_traits(volumes, brain),
    )


def scan_hash(volumes: Mapping[str, Volume], geometry: SliceGeometry) -> str:
    """SHA-256 over the voxels in canonical orientation and their size in mm.

    A scan has the same hash however it is compressed, named or stored, so that a copy on another
    side of a split is recognised.
    """
    result = hashlib.sha256()
    for volume in volumes.values():
        upright = np.ascontiguousarray(geometry.oriented(volume.array))
        result.update(repr(upright.shape).encode())
        result.update(upright.data)
    result.update(np.sort(np.round(next(iter(volumes.values())).spacing_mm, 3)).tobytes())
    return result.hexdigest()


def _check_spacing(volume: Volume, where: Path) -> None:
    """Refuse voxel sizes that no scanner makes: a field in mm would not fit into memory."""
    if min(volume.spacing_mm) < SMALLEST_VOXEL_MM or max(volume.spacing_mm) > LARGEST_VOXEL_MM:
        raise AffineError(
            where,
            expected=f"voxels of {SMALLEST_VOXEL_MM} to {LARGEST_VOXEL_MM} mm",
            found=" x ".join(f"{side:g}" for side in volume.spacing_mm) + " mm",
            remedy="Check the header's affine and its unit of length (xyzt_units: 2 is mm).",
        )


def _check_extent(geometry: SliceGeometry, recipe: RecipeConfig, where: Path) -> None:
    """Refuse a field of view that does not fit into memory at the scan's own resolution."""
    depth, (rows, columns) = geometry.depth, (stop - start for start, stop in geometry.crop)
    if depth * rows * columns > DEFAULT_MAX_VOXELS:
        raise TooLargeError(
            where,
            expected=f"at most {DEFAULT_MAX_VOXELS:,} voxels in a field of {recipe.field_mm:g} mm",
            found=f"{depth} slices of {rows} x {columns}",
            remedy="Resample the scan to voxels of about 1 mm.",
        )


def lesion_positions(lesions: NDArray[np.bool_], geometry: SliceGeometry) -> NDArray[np.int64]:
    """Ascending positions (L,) of the slices of the whole stack that hold any lesion.

    They are determined at the label's original resolution: a lesion of one voxel counts.
    """
    return np.flatnonzero(geometry.oriented(lesions.astype(np.uint8)).any(axis=(1, 2)))
