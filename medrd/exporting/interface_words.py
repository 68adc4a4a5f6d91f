"""What comes before an exported graph and after it, in words: for programs without medrd.

Each sentence says what one function of :mod:`medrd.data` does, with the model's own numbers.
"""

from __future__ import annotations

from medrd.config import AnyRecipeConfig, PictureRecipeConfig, RecipeConfig
from medrd.data.brains.prepare import MEDIAN_BECOMES

_ORIENTED = {
    "axial": "Axial slices from the feet up; rows from front to back, columns from the patient's "
    "right to the left (axes S, P, L).",
    "coronal": "Coronal slices from the back forward; rows from top to bottom, columns from the "
    "patient's right to the left (axes A, I, L).",
    "sagittal": "Sagittal slices from left to right; rows from top to bottom, columns from the "
    "nose backwards (axes R, I, P).",
}


def words_before(recipe: AnyRecipeConfig) -> list[str]:
    """From a scan or picture to ``images`` and ``region``: a sentence a step, in order."""
    return _picture_before(recipe) if recipe.kind == "pictures" else _scan_before(recipe)


def words_after(recipe: AnyRecipeConfig, threshold: float | None) -> list[str]:
    """From ``map`` and ``score`` to the results that ``medrd predict`` writes."""
    if recipe.kind == "pictures":
        steps = [
            "Resample the part of the map that shows the picture onto the picture's own pixels, "
            "edge on edge, bilinear; 0 where the square does not show it.",
            "The picture's score is the image's.",
        ]
        where = "that the square shows"
    else:
        steps = [
            "Put the maps back at their places in the stack, 0 in slices that were left out; undo "
            "the resize (linear), the crop and padding (0 beyond), and the orientation.",
            "Set what is outside the brain to 0, on the scan's own grid.",
            "The scan's score is the highest score of its slices.",
        ]
        where = "of the brain in the slices that were scored"
    if threshold is not None:
        steps.append(
            f"A finding is connected: pixels or voxels {where}, at or above {threshold:.6g}."
        )
    return steps


def words_on_precision(compared_in: str, calibrated_in: str | None, *, tolerance: float) -> str:
    """How near the graph's numbers are to those of ``medrd predict``, and to the threshold's.

    ``calibrated_in`` is None where there is no threshold, or nobody knows.
    """
    text = (
        f"The graph was compared with the model in {compared_in}. Maps that medrd predict computes "
        "in bf16, as it does by itself on GPUs and CPUs that are good at it, differ from the "
        f"graph's, as a rule by more than {tolerance:g} of their range"
    )
    if calibrated_in is None:
        return f"{text}."
    return f"{text}; the threshold was calibrated in {calibrated_in}."


def _scan_before(recipe: RecipeConfig) -> list[str]:
    names = ", ".join(recipe.channels)
    one = len(recipe.channels) == 1
    low, high = recipe.percentiles
    normalised = {
        "percentile": f"its percentiles {low:g} and {high:g} become 0 and 1, linearly; clip",
        "rank": "each voxel becomes the share of the brain's voxels that are darker, ties the "
        "middle of theirs",
        "median": f"0 stays 0 and the median becomes {MEDIAN_BECOMES:g}, linearly; clip to [0, 1]",
    }[recipe.normalise]
    steps = [
        f"Scans: {names}; skull-stripped, exactly 0 outside the brain"
        + ("." if one else "; on one grid."),
        "Brain: voxels that are not 0"
        + ("" if one else " in any of the scans")
        + ", holes that it encloses in three dimensions filled.",
        f"Normalise each scan over the brain of the whole volume, never a slice: {normalised}. "
        "0 outside the brain.",
        _ORIENTED[recipe.axis] + " Voxels are permuted and flipped, not resampled.",
        f"Crop or pad (with 0) each slice to {recipe.field_mm:g} mm a side, the same for all, "
        "around the middle of the brain's bounding box.",
        f"Resize each slice to {recipe.size} x {recipe.size}: linear in the plane, with a Gaussian "
        "low-pass filter where pixels get fewer, none across slices; the brain by nearest "
        "neighbour, which is the region.",
        f"Leave out slices with less than {recipe.min_brain_mm2:g} mm² of brain.",
    ]
    if recipe.neighbours_mm:
        steps.append(
            "Neighbours: of the slices that are left, the one nearest to the slice's place plus "
            "each offset (negative: towards the stack's first slice); at the ends the last one."
        )
    if recipe.place:
        steps.append(
            "Places: row from 0 (top) to 1; distance from the middle column from 0 to 1 (edge); "
            "height from 0 (first slice that is left) to 1 (last)."
        )
    return steps


def _picture_before(recipe: PictureRecipeConfig) -> list[str]:
    colours = "the mean of red, green and blue" if recipe.colour == "grey" else "red, green, blue"
    low_high = recipe.value_range or ("0", "the highest value of the file's integer type")
    resized = {
        "stretch": "Stretch the picture to the square.",
        "fit": "Fit the picture into the square with its aspect, centred; 0 beside it.",
        "crop": "Show the largest square in the picture's middle.",
    }[recipe.resize]
    return [
        f"Picture: {colours}; {low_high[0]} becomes 0 and {low_high[1]} becomes 1 (floating-point "
        "files: 0 to 1).",
        f"{resized} {recipe.size} pixels a side, edge on edge; bilinear, with a low-pass filter "
        "along an axis that gets fewer pixels.",
        "Region: where the square shows the picture.",
    ]
