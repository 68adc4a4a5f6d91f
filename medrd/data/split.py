"""Assign subjects to the sides of the split, reproducibly and without overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from medrd.config import SplitConfig, digest
from medrd.data.persons import by_person, person_of
from medrd.errors import ConfigError, LeakageError

SIDES = ("train", "calibration", "test")


@dataclass(frozen=True)
class Split:
    """Subject ids on each side, sorted."""

    train: tuple[str, ...]
    calibration: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def hash(self) -> str:
        """SHA-256 over the three lists; stored in every result."""
        return digest({side: list(getattr(self, side)) for side in SIDES})


def seeded_order(ids: Iterable[str], *, seed: int) -> list[str]:
    """Ids ordered by SHA-256 over seed and id: the same with any library and on any machine."""

    def hashed(id: str) -> str:
        text = f"{seed}:{id}".encode(errors="surrogateescape")  # names need not be UTF-8
        return hashlib.sha256(text).hexdigest()

    return sorted(ids, key=hashed)


def split_subjects(
    ids: Sequence[str], config: SplitConfig, *, seed: int, pattern: str | None = None
) -> Split:
    """Divide subjects into train, calibration (held-out healthy) and test.

    Persons without a listed scan are sorted by :func:`seeded_order` of their first scan, and
    assigned with all of their scans to train, calibration and test, in this order, by count or
    share. Shares are rounded, and each share above 0 gets at least one person.

    Parameters
    ----------
    pattern
        Tells which ids are scans of one person; see :func:`medrd.data.persons.person_of`.

    Raises
    ------
    LeakageError
        A subject, or two scans of one person, are listed on two sides.
    ConfigError
        Counts exceed the number of subjects, shares add up to more than 1, or an id is unknown.
    """
    values = {side: getattr(config, side) for side in SIDES}
    listed: dict[str, str] = {}
    for side, value in values.items():
        if not isinstance(value, tuple):
            continue
        for subject in value:
            if subject in listed:
                raise LeakageError(
                    f"data.split.{side}",
                    expected="each subject on one side",
                    found=f"{subject} is also in {listed[subject]}",
                    remedy="Remove it from one of them.",
                )
            if subject not in ids:
                raise ConfigError(
                    f"data.split.{side}",
                    expected="ids of subjects in data.root",
                    found=f"{subject}, which is not there",
                    remedy=f"There are {len(ids)} subjects, the first is {sorted(ids)[0]}.",
                )
            listed[subject] = side
    _refuse_persons_on_two_sides(listed, pattern)
    named = {person_of(subject, pattern) for subject in listed}
    persons = {
        scans[0]: scans for name, scans in by_person(ids, pattern).items() if name not in named
    }
    rest = seeded_order(persons, seed=seed)
    shares = [value for value in values.values() if isinstance(value, float)]
    if sum(shares) > 1 + 1e-9:
        raise ConfigError(
            "data.split",
            expected="shares of at most 1 together",
            found=" + ".join(map(str, shares)),
            remedy="Lower one of them.",
        )
    sides: dict[str, tuple[str, ...]] = {}
    total = len(rest)
    for side, value in values.items():
        if isinstance(value, tuple):
            sides[side] = tuple(sorted(value))
            continue
        if isinstance(value, float):
            # Rounding up must not leave a later share without any subject.
            later = SIDES[SIDES.index(side) + 1 :]
            kept = sum(isinstance(values[s], float) and values[s] > 0 for s in later)
            count = max(1, min(round(value * total), len(rest) - kept)) if value > 0 else 0
        else:
            count = value
        if count > len(rest):
            raise ConfigError(
                f"data.split.{side}",
                expected=f"at most the {len(rest)} subjects left of {len(ids)}"
                + (" (scans of one person count once)" if len(persons) < len(ids) else ""),
                found=str(count),
                remedy="Ask for fewer subjects.",
            )
        sides[side] = tuple(sorted(scan for first in rest[:count] for scan in persons[first]))
        rest = rest[count:]
    return Split(**sides)


def _refuse_persons_on_two_sides(listed: Mapping[str, str], pattern: str | None) -> None:
    for person, scans in by_person(listed, pattern).items():
        first = scans[0]
        other = next((scan for scan in scans if listed[scan] != listed[first]), None)
        if other is not None:
            raise LeakageError(
                f"data.split.{listed[other]}",
                expected="all scans of one person on one side",
                found=f"{other}, and {first} of the same person ({person}) in {listed[first]}",
                remedy="Put both on one side, or set data.subject_pattern if they are two people.",
            )
