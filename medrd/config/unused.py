"""Keys of a config that other keys leave without effect."""

from __future__ import annotations

from medrd.config.sections import Config, RecipeConfig
from medrd.models.section import Section


def unused_keys(config: Config) -> dict[str, str]:
    """Keys that differ from their defaults and change nothing, each with the reason."""
    unused: dict[str, str] = {}

    def add(section: str, key: str, used: bool, why: str) -> None:
        values: Section = getattr(config, section)
        if not used and getattr(values, key) != type(values).model_fields[key].default:
            unused[f"{section}.{key}"] = why

    recipe, scoring = config.recipe, config.scoring
    score = f"scoring.image_score is {scoring.image_score}"
    add("scoring", "top_fraction", scoring.image_score == "top", score)
    if isinstance(recipe, RecipeConfig):
        why = f"recipe.normalise is {recipe.normalise}"
        add("recipe", "percentiles", recipe.normalise == "percentile", why)
    else:
        add("scoring", "sigma_across_mm", False, "a picture has no neighbouring slices")
    if config.model.name == "patchcore":
        add("model", "neighbours", scoring.image_score == "model", score)
    return unused
