"""Selects the kind of input for a recipe."""

from __future__ import annotations

from medrd.config import AnyRecipeConfig
from medrd.data.kind import Kind


def kind_of(recipe: AnyRecipeConfig) -> Kind:
    """The kind of input for a recipe. Call this once and pass the result on."""
    # Each imports libraries that the other does not need (MONAI takes seconds).
    if recipe.kind == "pictures":
        from medrd.data.pictures.kind import Pictures

        return Pictures(recipe)
    from medrd.data.brains.kind import Brains

    return Brains(recipe)
