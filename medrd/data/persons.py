"""Recognise the scans of one person, which must stay on one side of a split."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

_KNOWN = re.compile(
    r"(sub-[a-z0-9+]+)(?:_|$)"  # BIDS: sub-01_ses-2
    r"|(.+?)[_-]ses(?:-[a-z0-9]+|\d+)"  # sessions of other names
    r"|(brats(?:-[a-z]+)+-\d+)-\d+"  # BraTS from 2023: BraTS-GLI-00003-001
    r"|(brats1[789]_[a-z0-9]+_[a-z0-9]+)_\d+"  # Brats18_CBICA_AAB_1
    r"|(upenn-gbm-\d+)_\d+"  # UPENN-GBM-00001_21
    r"|(ucsf-pdgm-\d+)_fu\w*"  # UCSF-PDGM-0289_FU001d
    r"|(?:adni_)?(\d{3}_s_\d{4,5})_"  # ADNI_002_S_0295_MR_...
    r"|(oas[12]_\d{4}|oas[34]\d{4})_",  # OAS1_0001_MR1, OAS30001_MR_d0129
    re.IGNORECASE,
)
"""Names that public data sets give to several scans of one person, who is the group."""


def person_of(id: str, pattern: str | None) -> str:
    """Name the person that a subject's id belongs to.

    Parameters
    ----------
    id
        A scan's id in its data set.
    pattern
        ``data.subject_pattern``: a regular expression that is searched for in the id, whose first
        group (or whole match) is the person. None: the names that are known of public data sets.

    Returns
    -------
    str
        The person; the id itself if the pattern does not match.

    >>> person_of("BraTS-GLI-00003-001", None), person_of("anna", None)
    ('BraTS-GLI-00003', 'anna')
    """
    found = _KNOWN.match(id) if pattern is None else re.search(pattern, id)
    if not found:
        return id
    groups = [group for group in found.groups() if group]
    return groups[0] if groups else found[0]


def by_person(ids: Iterable[str], pattern: str | None) -> dict[str, list[str]]:
    """Ids of each person's scans, sorted, by the person."""
    persons: dict[str, list[str]] = defaultdict(list)
    for id in sorted(ids):
        persons[person_of(id, pattern)].append(id)
    return persons
