"""Ranks, their agreement and Holm's correction against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from medrd.metrics.ranks import average_ranks, holm, kendall_tau_b, rank_agreement, spearman


def test_the_best_is_first_and_ties_share() -> None:
    assert average_ranks([0.7, 0.9, 0.7, 0.1]) == [2.5, 1, 2.5, 4]


def test_what_is_missing_has_no_rank_and_takes_none() -> None:
    assert average_ranks([None, 0.5, math.nan, 0.6]) == [None, 2, None, 1]
    assert average_ranks([None, math.nan]) == [None, None]


def test_agreement_by_hand() -> None:
    # One of six pairs is in the other order.
    assert kendall_tau_b([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    # A tie on one side: two pairs in order, of three and two that are not tied.
    assert kendall_tau_b([1, 2, 3], [1, 1, 2]) == pytest.approx(2 / math.sqrt(3 * 2))
    assert kendall_tau_b([3, 2, 1], [1, 2, 3]) == pytest.approx(-1)


@pytest.mark.parametrize("statistic", [kendall_tau_b, spearman])
def test_agreement_looks_at_pairs_that_are_whole(statistic: object) -> None:
    assert callable(statistic)
    assert statistic([1, 2, None, 9, 4], [1, 2, 0, math.nan, 4]) == pytest.approx(1)
    assert statistic([1, None], [1, 2]) is None
    assert statistic([1, 1, 1], [1, 2, 3]) is None


def test_models_that_miss_somewhere_are_left_aside_and_the_others_ranked_anew() -> None:
    # With x in between, a and b would tie over the two brain sets; without it b leads.
    brain = [
        {"a": 0.9, "x": 0.8, "b": 0.7, "c": 0.6},
        {"b": 0.9, "c": 0.8, "a": 0.7, "x": 0.6},
    ]
    industrial = [{"a": 0.8, "b": 0.9, "c": 0.7, "x": None}]
    assert rank_agreement(brain, industrial) == (["a", "b", "c"], 1, 1)


def test_two_models_are_no_agreement() -> None:
    assert rank_agreement([{"a": 1, "b": 2}], [{"a": 1, "b": 2}]) == (["a", "b"], None, None)
    assert rank_agreement([{"a": None}], [{"a": 1}]) == ([], None, None)


def test_holm_by_hand() -> None:
    # 4 × 0.005, 3 × 0.01, 2 × 0.03; and 1 × 0.04 may not fall below its predecessor.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []
