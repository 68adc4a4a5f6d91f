"""What the options of a prediction mean for finished results, and their names in Python."""

from __future__ import annotations

from dataclasses import dataclass, fields

from medrd.prediction.options import PredictKeywords, PredictOptions


@dataclass(frozen=True)
class _OneMore(PredictOptions):
    smoothing_mm: float = 0.0


def test_an_option_without_a_mark_is_part_of_a_results_identity() -> None:
    assert _OneMore(strict=True, native=True, device="cpu").identity == {}
    assert _OneMore(strict=True, smoothing_mm=2.0).identity == {"smoothing_mm": 2.0}


def test_every_option_is_a_keyword_of_the_function() -> None:
    assert [*PredictKeywords.__annotations__] == [each.name for each in fields(PredictOptions)]
