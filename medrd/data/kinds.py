"""Which kind of input a recipe is for."""

from __future__ import annotations

from medrd.config import AnyRecipeConfig
from medrd.data.kind import Kind


def kind_of(recipe: AnyRecipeConfig) -> Kind:
    """The kind of input that a recipe is for. Ask it once, and hand its answer on."""
    # Each needs libraries that the other does without (MONAI alone takes seconds).
    if recipe.kind == "pictures":
        from medrd.data.pictures.kind import Pictures

        return Pictures(recipe)
    from medrd.data.brains.kind import Brains

    return Brains(recipe)
