"""Splits: by subject, from seed and ids alone, never overlapping."""

from __future__ import annotations

import random
from typing import Any

import pytest

from medrd.config import SplitConfig
from medrd.data.split import Split, split_subjects
from medrd.errors import ConfigError, LeakageError

IDS = tuple(f"sub-{i:02d}" for i in range(20))


def split(
    train: Any = 0.6,
    calibration: Any = 0.1,
    test: Any = 0.3,
    *,
    ids: tuple[str, ...] = IDS,
    seed: int = 0,
) -> Split:
    config = SplitConfig(train=train, calibration=calibration, test=test)
    return split_subjects(ids, config, seed=seed)


def test_golden() -> None:
    # Results of other days are compared by this: if it fails, so does that comparison.
    golden = split(3, 1, 2, ids=IDS[:7], seed=5)
    assert golden == Split(
        train=("sub-01", "sub-02", "sub-04"), calibration=("sub-03",), test=("sub-00", "sub-06")
    )
    assert golden.hash == "102286066aa0474d76753313bf87e54619b429278badbba9737f02496c27da19"


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_ids_is_irrelevant(seed: int) -> None:
    shuffled = list(IDS)
    random.Random(seed).shuffle(shuffled)
    assert split(ids=tuple(shuffled), seed=3) == split(seed=3)


def test_every_seed_gives_another_split_and_another_hash() -> None:
    splits = [split(seed=seed) for seed in range(100)]
    assert len({s.train for s in splits}) == len({s.hash for s in splits}) == 100
    # Each subject gets to every side sooner or later: no id is favoured.
    for side in ("train", "calibration", "test"):
        assert {id for s in splits for id in getattr(s, side)} == set(IDS)


def test_the_hash_depends_on_the_subjects_alone() -> None:
    dealt = split(seed=1)
    listed = split(*(list(reversed(side)) for side in (dealt.train, dealt.calibration, dealt.test)))
    assert listed == dealt
    assert listed.hash == dealt.hash
    moved = Split(dealt.train[1:], dealt.calibration + dealt.train[:1], dealt.test)
    swapped = Split(dealt.test, dealt.calibration, dealt.train)
    assert len({dealt.hash, moved.hash, swapped.hash}) == 3


@pytest.mark.parametrize(
    ("sides", "counts"),
    [
        ((0.6, 0.1, 0.3), (12, 2, 6)),
        ((7, 1, 4), (7, 1, 4)),
        ((1.0, 0.0, 0.0), (20, 0, 0)),
        ((0, 0, 1.0), (0, 0, 20)),
        ((0.01, 0.01, 0.98), (1, 1, 18)),
        ((10, 0.1, 0.4), (10, 2, 8)),
    ],
)
def test_counts_and_shares(sides: tuple[Any, ...], counts: tuple[int, ...]) -> None:
    result = split(*sides)
    assert tuple(map(len, (result.train, result.calibration, result.test))) == counts
    everyone = [*result.train, *result.calibration, *result.test]
    assert len(set(everyone)) == len(everyone)
    assert set(everyone) <= set(IDS)
    assert all(list(side) == sorted(side) for side in (result.train, result.test))


@pytest.mark.parametrize("total", range(3, 40))
def test_default_shares_lose_no_more_than_rounding(total: int) -> None:
    ids = tuple(map(str, range(total)))
    result = split(ids=ids)
    counts = [len(result.train), len(result.calibration), len(result.test)]
    assert min(counts) >= 1
    assert total - 1 <= sum(counts) <= total


def test_lists_are_kept_and_the_rest_is_dealt() -> None:
    result = split(0.75, 0.25, ["sub-19", "sub-03", "sub-00", "sub-07"])
    assert result.test == ("sub-00", "sub-03", "sub-07", "sub-19")
    assert (len(result.train), len(result.calibration)) == (12, 4)
    assert not {*result.train, *result.calibration} & set(result.test)


@pytest.mark.parametrize(
    "sides", [(["sub-01"], 1, ["sub-02", "sub-01"]), (["sub-01", "sub-01"], 1, 1)]
)
def test_a_subject_listed_twice_is_leakage(sides: tuple[Any, ...]) -> None:
    with pytest.raises(LeakageError, match="sub-01 is also in train"):
        split(*sides)


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ((15, 3, 3), r"split\.test: expected at most the 2 subjects left of 20; found 3"),
        ((0.9, 0.1, 0.3), r"0\.9 \+ 0\.1 \+ 0\.3"),
        ((["sub-1"], 1, 1), "sub-1, which is not there"),
        ((20, 0, 0.1), r"split\.test"),  # at least one where a share is above 0, but none is left
    ],
)
def test_what_cannot_be_is_an_error(sides: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split(*sides)


def test_two_subjects_cannot_fill_three_sides() -> None:
    with pytest.raises(ConfigError, match=r"split\.test"):
        split(ids=IDS[:2])
