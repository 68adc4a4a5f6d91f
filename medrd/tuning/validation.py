"""Checks of a labelled search's validation subjects: some have lesions, none is on another side."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from medrd.config import Config
from medrd.data.kind import TestItem
from medrd.data.kinds import kind_of
from medrd.data.subject import Subject
from medrd.errors import InputError
from medrd.run.cohort import Cohort, refuse_same_content
from medrd.run.input_errors import catch_input_error
from medrd.run.progress import progress
from medrd.tuning.objective import nothing_outlined

logger = logging.getLogger("medrd.tune")


def read_validation(cohort: Cohort, ids: Sequence[str], config: Config) -> dict[str, str]:
    """Read the validation subjects with the config's recipe; id -> hash of the scan.

    Raises
    ------
    InputError
        If a scan or its label cannot be read.
    ConfigError
        If no subject has a lesion in the evaluated region.
    """
    contents: dict[str, str] = {}
    outlined = False
    with progress("reading validation inputs", len(ids)) as advance:
        for id in ids:
            item = _test_item(cohort.subjects[id], config)
            contents[id] = item.content
            for text in item.label_warnings:
                logger.warning("%s: %s", id, text)
            outlined |= item.truth is not None and bool((item.truth & item.evaluated).any())
            advance(note=id)
    if not outlined:
        raise nothing_outlined()
    return contents


def hash_test_side(cohort: Cohort, config: Config) -> dict[str, str]:
    """Hash the test subjects' scans, of which nothing else is used; id -> hash.

    Unreadable scans are left out, since they cannot be tested either.
    """
    subjects = cohort.side("test")
    contents: dict[str, str] = {}
    with progress("looking for validation scans among the test inputs", len(subjects)) as advance:
        for subject in subjects:
            try:
                contents[subject.id] = _test_item(subject, config).content
            except InputError as error:
                logger.debug("not compared with the validation subjects: %s", error)
            advance(note=subject.id)
    return contents


def refuse_same_scans(
    validation: Mapping[str, str], sides: Mapping[str, Mapping[str, str]]
) -> None:
    """Refuse validation scans that are also on another side, perhaps under another name.

    Parameters
    ----------
    validation
        Hashes of scans by subject id.
    sides
        Hashes of scans by subject id for each other side, by the side's name.

    Raises
    ------
    LeakageError
        If a validation subject's scan is on one of those sides.
    """
    for side, others in sides.items():
        refuse_same_content(
            validation,
            others,
            side=side,
            expected="a scan that is on no other side",
            where="objective.validation: ",
        )


def _test_item(subject: Subject, config: Config) -> TestItem:
    kind = kind_of(config.recipe)
    item = catch_input_error(
        subject.files[0], lambda: kind.test_item(subject, budget=config.data.budget)
    )
    if isinstance(item, InputError):
        raise item
    return item
