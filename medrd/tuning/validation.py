"""The validation subjects of a search with labels: they have lesions, and are on no other side."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from medrd.config import Config
from medrd.data.kind import TestItem
from medrd.data.kinds import kind_of
from medrd.data.layouts import Subject
from medrd.errors import InputError
from medrd.run.attempt import attempt
from medrd.run.cohort import Cohort, refuse_same_content
from medrd.run.progress import progress
from medrd.tuning.objective import nothing_outlined

logger = logging.getLogger("medrd.tune")


def read_validation(cohort: Cohort, ids: Sequence[str], config: Config) -> dict[str, str]:
    """Hashes of the validation subjects' scans, by id, as the config's recipe reads them.

    Raises
    ------
    InputError
        If a scan or its label cannot be read.
    ConfigError
        If no subject has a lesion in the region that is scored.
    """
    contents: dict[str, str] = {}
    outlined = False
    with progress("reading validation inputs", len(ids)) as advance:
        for id in ids:
            item = _test_item(cohort.subjects[id], config)
            contents[id] = item.content
            for text in item.label_warnings:
                logger.warning("%s: %s", id, text)
            outlined |= item.truth is not None and bool((item.truth & item.judged).any())
            advance(note=id)
    if not outlined:
        raise nothing_outlined()
    return contents


def hash_test_side(cohort: Cohort, config: Config) -> dict[str, str]:
    """Hashes of the test subjects' scans, by id; nothing else of them is used.

    A scan that cannot be read is left out: it cannot be tested on either.
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
    """Refuse a validation scan that is on another side too, under whichever name.

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
    found = attempt(subject.files[0], lambda: kind.test_item(subject, budget=config.data.budget))
    if isinstance(found, InputError):
        raise found
    return found
