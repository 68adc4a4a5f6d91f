"""What the options of a prediction mean for finished results, and their names in Python."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

import medrd
from medrd.errors import ConfigError
from medrd.prediction.options import PredictKeywords, PredictOptions


@dataclass(frozen=True)
class _OneMore(PredictOptions):
    smoothing_mm: float = 0.0


def test_an_option_without_a_mark_is_part_of_a_results_identity() -> None:
    assert _OneMore(strict=True, native=True, device="cpu").identity == {}
    assert _OneMore(strict=True, smoothing_mm=2.0).identity == {"smoothing_mm": 2.0}


def test_every_option_is_a_keyword_of_the_function() -> None:
    assert [*PredictKeywords.__annotations__] == [each.name for each in fields(PredictOptions)]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"engine": "foo"}, "--engine: expected one of auto, torch, fused; found foo"),
        ({"max_voxels": 0}, "--max-voxels: expected at least 1; found 0"),
    ],
)
def test_python_refuses_the_values_that_the_command_line_refuses(
    keywords: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        medrd.predict(None, tmp_path, tmp_path / "out", **keywords)


def test_a_loaded_model_takes_no_unknown_engine() -> None:
    unknown: Any = "foo"
    with pytest.raises(ConfigError, match="--engine"):
        medrd.load(engine=unknown)


def test_an_unknown_keyword_names_the_function_that_was_called(tmp_path: Path) -> None:
    unknown: Any = {"nosuch": 1}
    with pytest.raises(TypeError, match=r"^predict\(\) got .*'nosuch'"):
        medrd.predict(None, tmp_path, tmp_path / "out", **unknown)
