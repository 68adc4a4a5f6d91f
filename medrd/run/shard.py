"""Part K of N of a list, for independent calls that share the work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from medrd.errors import ConfigError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``count``, counted from 1; written ``3/16``."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise _wrong(str(self))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The inverse of ``str``. Raises ConfigError."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None:
            raise _wrong(text)
        return cls(int(match[1]), int(match[2]))

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Every ``count``-th item, starting with the ``number``-th: neighbours, which often have
        similar sizes, go to different shards.

        >>> Shard(2, 3).of("abcdefgh")
        ['b', 'e', 'h']
        """
        return list(items[self.number - 1 :: self.count])


def _wrong(text: str) -> ConfigError:
    return ConfigError(
        "--shard",
        expected="K/N with K from 1 to N",
        found=text,
        remedy="Write, for instance, --shard 3/16 for the third of 16 parts.",
    )
