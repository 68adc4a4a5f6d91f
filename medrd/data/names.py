"""Read a scan's modality from its file name, and whether it is a label.

The names are those of BIDS, BraTS (all years), UPENN-GBM, UCSF-PDGM, IXI and ADNI, in upper and
lower case.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from medrd.data.subject import Subject
from medrd.images.formats import is_scan_name, scan_stem

MODALITIES = ("flair", "t1", "t1ce", "t2")
"""The channel names of the BraTS and MSD layouts."""

_LABEL = re.compile(
    r"(?:^|[_.-])(?:seg|segm|(?:manual)?segmentation|labels?|dseg|probseg|roi|gtv?|ot\.\d+|ground[_-]?truth"
    r"|consensus|aseg|(?:brain|lesion|tumou?r)?mask|msk|glistrboost(?:_manuallycorrected)?)"
    r"(?:[_-]?\d)?$",  # raters are numbered
    re.IGNORECASE,
)

# medrd's own output files: results must not become input.
_OWN_OUTPUT = re.compile(r"_(anomaly|mask)$")

_POST = r"(?:ce|\+?c\+?|gd|gad|gado|post|postgd|post[_-]?contrast|contrast|km)"
_OTHER = r"adc|dwi|dti|dsc|dce|swi|swan|asl|bold|pwi|perf(?:usion)?|r?cb[fv]|mra|tof|qsm|mtr|stir"
_SYNONYMS = {
    "flair": r"(?:[23]d[_-]?)?(?:t2w?[_-]?)?flair(?:[_-]?[23]d|\d)?|t2f|dark[_-]?fluid"
    r"|fluid[_-]?attenuated",
    "t1ce": rf"t1(?:wi?)?[_-]?{_POST}|t1cw|(?:ce|gd|(?:post[_-]?)?contrast[_-])[_-]?t1w?|ct1w?",
    "t1": r"(?:inplane)?t1(?:wi?|n|[_-]?weighted)?"
    r"|t1w?[_-]?(?:pre|native|(?:non|without)(?=[_-]?c))"
    r"(?:[_-]?contrast)?|unit1|(?:t1w?[_-]?)?mp2?[_-]?rage|mpr|(?:ir[_-]?)?f?spgr",
    "t2": r"(?:inplane)?t2(?:wi?|[_-]?weighted)?",
    "other": rf"{_OTHER}|pd(?:w|t2)?|angio|ct|pet|t[12](?:map|rho)|t2[_-]?star(?:w)?|mtw"
    r"|sbref|fieldmap|phasediff|magnitude[12]?",
}
_ENDING = re.compile(
    "(?:^|[_. -])(?:" + "|".join(f"(?P<{k}>{words})" for k, words in _SYNONYMS.items()) + ")$",
    re.IGNORECASE,
)
_CONTRAST_ENTITY = re.compile(r"_ce-[a-z0-9]+", re.IGNORECASE)  # of BIDS
_SPACE = re.compile(r"[_-](?:to|in|on|onto|space)[_-]?(?:t1|t2|flair|mni)[a-z0-9]*", re.IGNORECASE)
"""The grid to which a scan was resampled; not a modality."""

_PROCESSED = re.compile(
    r"([_-](?:brain|bet|ss|(?:skull[_-]?|un)?stripped|reg|registered|n4|bias|corrected|norm"
    r"|resampled|0000))+$",
    re.IGNORECASE,
)
"""Suffixes that programs append to the name of a scan that they have processed."""

# In the middle of a name, only words that mean nothing else: ``t1`` may be a point in time.
_WITHIN = re.compile(
    r"(?<![a-z0-9])(?:(?P<flair>(?:[23]d)?(?:t2)?flair(?:[23]d|\d)?|dark[_-]?fluid)"
    r"|(?P<t1ce>ct1|t1c|t1(?:wi?)?[_-]?(?:ce|gd|gad|post))"
    r"|(?P<t1>t1wi?|t1[_-]?weighted|mp2?[_-]?rage|mpr|(?:ir[_-]?)?f?spgr|(?-i:T1))"
    r"|(?P<t2>t2wi?|t2[_-]?weighted|(?-i:T2)(?![_-]?star))"
    rf"|(?P<other>{_OTHER}|t2[_-]?star))(?![a-z0-9])",
    re.IGNORECASE,
)
_AGENT = re.compile(
    r"(?<![a-z0-9])(?:gd|gado?|contrast|km|ce|post(?![_-]?op))(?![a-z0-9])", re.IGNORECASE
)
_NO_AGENT = re.compile(
    r"(?<![a-z0-9])(?:pre|non|no|without)[_-]?(?:gd|gado?|contrast|km|ce)(?![a-z0-9])",
    re.IGNORECASE,
)


def is_label_name(path: Path) -> bool:
    """Whether the name is that of a segmentation, a mask or one of medrd's own outputs."""
    name = scan_stem(path)
    return bool(_LABEL.search(name) or _OWN_OUTPUT.search(name))


def name_and_modality(path: Path) -> tuple[str, str | None]:
    """The subject, and the modality that a file's name ends in; None if it ends in none.

    >>> name_and_modality(Path("a_FLAIR.nii.gz")), name_and_modality(Path("x.nii"))
    (('a', 'flair'), ('x', None))
    >>> name_and_modality(Path("UPENN-GBM-00001_11_T1GD.nii.gz"))
    ('UPENN-GBM-00001_11', 't1ce')
    """
    name = scan_stem(path)
    found = _ENDING.search(name)
    if found is None:
        return name, None
    own, kind = name[: found.start()], found.lastgroup
    if kind == "other":
        kind = found[0].strip("_. -").lower()
    if kind == "t1" and _CONTRAST_ENTITY.search(own):
        return _CONTRAST_ENTITY.sub("", own), "t1ce"
    return own, kind


def modality_of_word(word: str) -> str | None:
    """The modality that a folder or a channel of this name holds; None if the name is another.

    >>> modality_of_word("T1w"), modality_of_word("patient_T1w")
    ('t1', None)
    """
    found = _ENDING.fullmatch(word)
    return found.lastgroup if found and found.lastgroup in MODALITIES else None


def named_kind(path: Path) -> str | None:
    """The kind in a NIfTI file's name, at its end or as a word within it: a modality or ``label``.

    None if the name has none; always None for the folder of a DICOM series.

    >>> named_kind(Path("ADNI_002_S_0295_MR_MPRAGE_br_raw_1.nii")), named_kind(Path("scan.nii"))
    ('t1', None)
    """
    if not is_scan_name(path):
        return None
    if is_label_name(path):
        return "label"
    name = scan_stem(path)
    own = _PROCESSED.sub("", name)
    kind = _kind_in(_SPACE.sub("", own)) or _kind_in(own) or _kind_in(name)
    # A scan in a folder of its own name: s_flair.nii/scan.nii.
    return named_kind(path.parent) if kind is None and is_scan_name(path.parent) else kind


def _kind_in(name: str) -> str | None:
    kind = name_and_modality(Path(f"{name}.nii"))[1]
    if kind is not None:
        return kind
    name = _NO_AGENT.sub("", name)
    kinds = {
        found[0].lower() if found.lastgroup == "other" else str(found.lastgroup)
        for found in _WITHIN.finditer(name)
    }
    if "flair" in kinds:
        kinds.discard("t2")  # Axial_T2_FLAIR_1
    if "t1" in kinds and _AGENT.search(name):
        kinds = kinds - {"t1"} | {"t1ce"}
    return kinds.pop() if len(kinds) == 1 else None


def all_named(subjects: Sequence[Subject]) -> bool:
    """True if every image is known to have the modality that its channel names.

    It is known from the file's name, as in BraTS or BIDS, or from the position in a file of MSD.
    """
    return all(
        source.frame is not None or named_kind(source.path) == channel
        for subject in subjects
        for channel, source in subject.images.items()
    )
