"""The kinds of data, and which of them a recipe is for."""

from __future__ import annotations

from medrd.config import AnyRecipeConfig
from medrd.data.domain import Domain


def domain_of(recipe: AnyRecipeConfig) -> Domain:
    """The kind of data that a recipe is for."""
    # Each brings libraries that the other does not need (MONAI alone takes seconds).
    if recipe.kind == "pictures":
        from medrd.data.pictures.kind import Pictures

        return Pictures()
    from medrd.data.brains.kind import Brains

    return Brains()
