"""Recognise the scans of one person, which must stay on one side of a split."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from medrd.data.names import name_and_modality

logger = logging.getLogger("medrd.data")

_SHOWN = 3
"""Number of people that a warning names."""

_KNOWN = re.compile(
    r"(sub-[a-z0-9+]+)(?:_|$)"  # BIDS: sub-01_ses-2
    r"|(.+?)[_-]ses(?:-[a-z0-9]+|\d+)"  # sessions of other names
    r"|(brats(?:-[a-z]+)+-\d+)-\d+"  # BraTS from 2023: BraTS-GLI-00003-001
    r"|(brats1[789]_[a-z0-9]+_[a-z0-9]+)_\d+"  # Brats18_CBICA_AAB_1
    r"|(upenn-gbm-\d+)_\d+"  # UPENN-GBM-00001_21
    r"|(ucsf-pdgm-\d+)_fu\w*"  # UCSF-PDGM-0289_FU001d
    r"|(?:adni_)?(\d{3}_s_\d{4,5})(?:_|$)"  # ADNI_002_S_0295_MR_...
    r"|(oas[12]_\d{4}|oas[34]\d{4})_"  # OAS1_0001_MR1, OAS30001_MR_d0129
    r"|((?:training|test)\d\d)_\d\d(?:_|$)"  # ISBI 2015: training01_02
    r"|(rhuh-\d+)[_-]\d",  # RHUH-0001_0
    re.IGNORECASE,
)
"""Names that public data sets give to several scans of one person; the group is the person."""

_VISIT = re.compile(
    r"(.+?)[_-](?:(?:visit|v|session|tp|time[_-]?point|time|follow[_-]?up|fu|month|mo|m|week|wk|day"
    r"|year|yr)[_-]?\d+[a-z]?(?:[_-]\d)?|baseline|bl|follow[_-]?up|fu"
    r"|(?:pre|post)(?:[_-]?(?:op|surgery|treatment|rt))?)$"
    r"|(.*\d.*?)[_-](?:19|20)\d\d[._-]?[01]\d[._-]?[0-3]\d$",  # TCGA-CS-4941_19960909
    re.IGNORECASE,
)
"""The end of a name that gives the time of a scan; the group is the person."""


def person_of(id: str, pattern: str | None) -> str:
    """Name the person that a subject's id belongs to.

    Parameters
    ----------
    id
        A scan's id in its data set.
    pattern
        ``data.subject_pattern``: a regular expression that is searched for in the id, whose first
        group (or whole match) is the person. None: the names that are known of public data sets,
        and those that end in a visit or a date.

    Returns
    -------
    str
        The person; the id itself if the pattern does not match.

    >>> person_of("BraTS-GLI-00003-001", None), person_of("anna_v2", None), person_of("bob", None)
    ('BraTS-GLI-00003', 'anna', 'bob')
    """
    if pattern is None:
        found = _KNOWN.match(id) or _VISIT.match(name_and_modality(Path(f"{id}.nii"))[0])
    else:
        found = re.search(pattern, id)
    if not found:
        return id
    groups = [group for group in found.groups() if group]
    return groups[0] if groups else found[0]


@cache
def warn_of_visits(ids: tuple[str, ...]) -> None:
    """Warn once of scans that count as one person only by a visit or date in their names."""
    joined = [
        scans
        for scans in by_person(ids, None).values()
        if len(scans) > 1 and not _KNOWN.match(scans[0])
    ]
    if joined:
        shown = "; ".join(", ".join(scans) for scans in joined[:_SHOWN])
        logger.warning(
            "Judging by their names, %d scans are of %d %s (%s%s). Scans of one person stay on one "
            "side of the split. If the names mislead, set data.subject_pattern ('(.*)': each scan "
            "is of another person).",
            sum(map(len, joined)),
            len(joined),
            "person" if len(joined) == 1 else "people",
            shown,
            "; …" if len(joined) > _SHOWN else "",
        )


@cache
def warn_of_idle_pattern(ids: tuple[str, ...], pattern: str) -> None:
    """Warn once if a pattern matches no id, so that every scan counts as another person."""
    if ids and not any(re.search(pattern, id) for id in ids):
        logger.warning(
            "data.subject_pattern, %s, matches none of the %d subjects' ids (the first is %s): "
            "each counts as a person. Correct it, or remove it: medrd knows some patterns.",
            pattern,
            len(ids),
            min(ids),
        )


def by_person(ids: Iterable[str], pattern: str | None) -> dict[str, list[str]]:
    """Ids of each person's scans, sorted, by the person."""
    persons: dict[str, list[str]] = defaultdict(list)
    for id in sorted(ids):
        persons[person_of(id, pattern)].append(id)
    return persons
