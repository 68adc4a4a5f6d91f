"""A config's data set: its subjects, how they are divided, and their slices."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medrd.config import Config
from medrd.data.cache import CachedSubject, cache_subjects, default_cache
from medrd.data.layouts import Subject, find_subjects
from medrd.data.split import Split, split_subjects
from medrd.errors import ConfigError, InputError, LeakageError
from medrd.workflows.outputs import write_errors
from medrd.workflows.progress import progress

logger = logging.getLogger("medrd.data")


@dataclass(frozen=True, eq=False)
class Cohort:
    """A data set's subjects, divided."""

    subjects: dict[str, Subject]
    split: Split

    def side(self, name: str) -> list[Subject]:
        """The subjects on one side."""
        return [self.subjects[id] for id in getattr(self.split, name)]


def load_cohort(config: Config) -> Cohort:
    """Find and divide the subjects that the config names; no image is read."""
    if config.data.root is None:
        raise ConfigError(
            "data.root",
            expected="the folder of the data set",
            found="nothing",
            remedy="Add --set data.root=PATH.",
        )
    found = find_subjects(
        config.data.root, layout=config.data.layout, channels=config.recipe.channels
    )
    subjects = {subject.id: subject for subject in found}
    split = split_subjects(list(subjects), config.data.split, seed=config.seed)
    return Cohort(subjects, split)


def try_sides(
    cohort: Cohort, sides: Sequence[str], config: Config
) -> tuple[dict[str, CachedSubject], list[InputError]]:
    """Prepare subjects into the cache, with a progress bar; by id, and what failed.

    All of them are tried: a cohort is mended in one go.

    Raises
    ------
    ConfigError
        A subject without a label in a data set that is not declared healthy.
    OutputError
        The cache cannot be written.
    """
    subjects = [subject for side in sides for subject in cohort.side(side)]
    if not config.data.healthy:
        for subject in subjects:
            if subject.label is None:
                raise ConfigError(
                    next(iter(subject.images.values())).path,
                    expected=f"a label of subject {subject.id}, to find its healthy slices",
                    found="none",
                    remedy="Add the label, or set data.healthy=true if all subjects are healthy.",
                )
    with progress(f"preparing {' and '.join(sides)} subjects", len(subjects)) as advance:
        cached, errors = cache_subjects(
            subjects,
            config.recipe,
            folder=config.data.cache or default_cache(),
            max_voxels=config.data.max_voxels,
            workers=min(8, os.cpu_count() or 2),
            on_done=lambda _: advance(),
        )
    for ready in cached.values():
        for warning in ready.warnings:
            logger.warning("%s: %s", ready.id, warning)
    return cached, errors


def prepare_sides(
    cohort: Cohort, sides: Sequence[str], config: Config, out: Path
) -> list[list[CachedSubject]]:
    """Prepare subjects that are all needed; one list a side.

    Raises
    ------
    ConfigError
        As of :func:`try_sides`.
    InputError
        Some could not be prepared; ``errors.json`` in ``out`` lists them.
    """
    cached, errors = try_sides(cohort, sides, config)
    write_errors(out, errors)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise InputError(
            out / "errors.json",
            expected="subjects that can all be read",
            found=f"{len(errors)} that cannot, listed there; the first: {errors[0]}",
            remedy="Mend or remove them and run again; the others are kept prepared.",
        )
    return [[cached[subject.id] for subject in cohort.side(side)] for side in sides]


def refuse_same_scan(training: Sequence[CachedSubject], others: Sequence[CachedSubject]) -> None:
    """One scan under two names on two sides is leakage too."""
    contents = {subject.content: subject.id for subject in training}
    for subject in others:
        if subject.content in contents:
            raise LeakageError(
                subject.id,
                expected="a scan that is not trained on",
                found=f"the very scan of training subject {contents[subject.content]}",
                remedy="Remove one of the two.",
            )
