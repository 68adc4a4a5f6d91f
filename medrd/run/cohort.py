"""A config's data set: its subjects, their split, and their slices."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medrd.config import Config
from medrd.data.cache import CachedSubject, cache_subjects, default_cache
from medrd.data.kinds import kind_of
from medrd.data.split import Split
from medrd.data.subject import Subject
from medrd.errors import ConfigError, InputError, LeakageError
from medrd.run.failures import write_errors
from medrd.run.progress import progress

logger = logging.getLogger("medrd.data")


@dataclass(frozen=True, eq=False)
class Cohort:
    """A data set's subjects and their split."""

    subjects: dict[str, Subject]
    split: Split

    def side(self, name: str) -> list[Subject]:
        """The subjects on one side."""
        return [self.subjects[id] for id in getattr(self.split, name)]


def load_cohort(config: Config) -> Cohort:
    """Find the config's subjects and split them; no image is read."""
    if not isinstance(config, Config):
        raise TypeError(
            f"expected a medrd.Config, not {type(config).__name__}; "
            "medrd.load_config(path) reads one"
        )
    if config.data.root is None:
        raise ConfigError(
            "data.root",
            expected="the folder of the data set",
            found="nothing",
            remedy="Add --set data.root=PATH.",
        )
    kind = kind_of(config.recipe)
    found = kind.subjects(config)
    split = kind.split(found, config)
    logger.debug(
        "%s: %d to train, %d to calibrate, %d to test, of %d; split %s",
        config.data.root,
        len(split.train),
        len(split.calibration),
        len(split.test),
        len(found),
        split.hash[:12],
    )
    return Cohort({subject.id: subject for subject in found}, split)


def try_sides(
    cohort: Cohort, sides: Sequence[str], config: Config
) -> tuple[dict[str, CachedSubject], list[InputError]]:
    """Prepare subjects into the cache; returns them by id, and errors of those that failed.

    All subjects are tried, so that all problems can be corrected together.

    Raises
    ------
    ConfigError
        A subject without a label in a data set that is not declared healthy.
    OutputError
        The cache cannot be written.
    """
    subjects = [subject for side in sides for subject in cohort.side(side)]
    kind = kind_of(config.recipe)  # the baseline uses another recipe for the same subjects
    kind.check_normal(subjects, config)
    with progress(f"preparing {' and '.join(sides)} inputs", len(subjects)) as advance:
        cached, errors = cache_subjects(
            subjects,
            kind,
            folder=config.data.cache or default_cache(),
            budget=config.data.budget,
            workers=min(8, os.cpu_count() or 2),
            on_done=lambda _: advance(),
        )
    for ready in cached.values():
        for warning in ready.warnings:
            logger.warning("%s: %s", ready.id, warning)
    return cached, errors


def prepare_sides(
    cohort: Cohort, sides: Sequence[str], config: Config, out: Path
) -> tuple[list[list[CachedSubject]], list[InputError]]:
    """Prepare the subjects for training and calibration: a list per side, and errors.

    ``errors.json`` in ``out`` lists the subjects that could not be prepared. Training continues
    without them if :attr:`medrd.data.kind.Kind.spares_damaged`.

    Raises
    ------
    ConfigError
        As for :func:`try_sides`.
    InputError
        Required subjects could not be prepared, or no subject of a side could.
    """
    cached, errors = try_sides(cohort, sides, config)
    write_errors(out, errors)
    ready = [
        [cached[subject.id] for subject in cohort.side(side) if subject.id in cached]
        for side in sides
    ]
    lost = any(cohort.side(s) and not found for s, found in zip(sides, ready, strict=True))
    if errors and kind_of(config.recipe).spares_damaged and not lost:
        for error in errors:
            logger.error("left out: %s", error)
        return ready, errors
    if len(errors) == 1:
        raise errors[0]
    if errors:
        first = str(errors[0]).rstrip(".")
        raise InputError(
            out / "errors.json",
            expected="subjects that can all be read",
            found=f"{len(errors)} that cannot, listed there; the first: {first}",
            remedy="Correct or remove them and run again; the others stay prepared.",
        )
    return ready, []


def contents_of(subjects: Sequence[CachedSubject]) -> dict[str, str]:
    """Subject id -> hash of the scan."""
    return {subject.id: subject.content for subject in subjects}


def refuse_same_scan(training: Sequence[CachedSubject], others: Sequence[CachedSubject]) -> None:
    """Refuse scans that are on both sides, perhaps under different names, as this is leakage."""
    refuse_same_content(
        contents_of(others),
        contents_of(training),
        side="training",
        expected="a scan that is not trained on",
    )


def refuse_same_content(
    contents: Mapping[str, str],
    others: Mapping[str, str],
    *,
    side: str,
    expected: str,
    where: str = "",
) -> None:
    """Raise LeakageError if a scan is on another side too, perhaps under another name.

    Parameters
    ----------
    contents, others
        Hashes of scans by subject id, and those of the other side.
    side, expected, where
        For the message: the other side's name, the expectation, and a prefix of the id.
    """
    names = {content: id for id, content in others.items()}
    for id, content in contents.items():
        if content in names:
            raise LeakageError(
                f"{where}{id}",
                expected=expected,
                found=f"the same scan as {side} subject {names[content]}",
                remedy="Remove one of the two.",
            )
