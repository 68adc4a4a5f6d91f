"""Ordinals: a whole number for each float32, in the same order."""

from __future__ import annotations

import numpy as np

from medrd.metrics.ordinals import HIGHEST, LOWEST, from_ordinals, to_ordinals


def test_ordinals_count_the_float32_numbers() -> None:
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 0x7F800000, 500, dtype=np.int64).astype(np.int32)
    values = np.concatenate([bits.view(np.float32), -bits.view(np.float32), [np.float32(0)]])
    ordinals = to_ordinals(values)
    assert np.array_equal(from_ordinals(ordinals), values)
    assert np.array_equal(np.argsort(ordinals), np.argsort(values))
    above = to_ordinals(np.nextafter(values, np.float32(np.inf)))
    assert np.array_equal(above, ordinals + 1)


def test_both_zeros_are_one_number() -> None:
    zeros = np.array([-0.0, 0.0], np.float32)
    assert to_ordinals(zeros).tolist() == [0, 0]
    assert not np.signbit(from_ordinals(np.array([0]))[0])


def test_the_ends() -> None:
    ends = np.array([LOWEST, HIGHEST])
    assert from_ordinals(ends).tolist() == [np.finfo(np.float32).min, np.finfo(np.float32).max]
