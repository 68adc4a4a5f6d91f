"""The key that a message about two configs names."""

from __future__ import annotations

from medrd.config.difference import first_difference


def test_another_model_is_named_before_its_settings() -> None:
    was = {"model": {"betas": None, "name": "stfpm"}, "seed": 0}
    now = {"model": {"betas": [0.5, 0.999], "name": "rd4ad"}, "seed": 0}
    assert first_difference(was, now) == ("model.name", "stfpm", "rd4ad")
    assert first_difference(was, was | {"seed": 1}) == ("seed", 0, 1)
