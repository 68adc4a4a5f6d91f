"""Whose result has a name already: one of other scans that are still there is not replaced."""

from __future__ import annotations

import json
import os
from pathlib import Path

from medrd.data.layouts import Source
from medrd.errors import InputError, MissingInputError, OutputError
from medrd.images.dicom import choose_series
from medrd.run.cases import Case


def refuse_others(where: Path, record: Path, case: Case, *, whole: bool) -> None:
    """Make sure that the result of a record was made from a case's own scans.

    What they hold may have changed since, and their paths may be spelled another way.

    Parameters
    ----------
    where, record
        What would be replaced, and the JSON that says what it was made from.
    whole
        Whether the case must have all of the record's scans, since the result holds each; else
        one will do, since models take different modalities of a subject.

    Raises
    ------
    OutputError
        Others are on record, and still there.
    """
    ours, recorded = list(case.subject.images.values()), _sources_on(record)
    others = [source for source in recorded if not any(_is_same(source, own) for own in ours)]
    if len(others) < len(recorded) and not whole:
        return
    if others := [source for source in others if _is_there(source)]:
        raise OutputError(
            where,
            expected=f"a free name for {_named(ours[0])}, or an earlier result of it",
            found=f"a result of {', '.join(map(_named, others))}",
            remedy="Give another --out, or --overwrite to replace that result.",
        )


def _sources_on(record: Path) -> list[Source]:
    """None where the record is not there, or not one."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        inputs, frame, series = content["inputs"], content.get("frame"), content.get("series")
        # Of prepared heads by modality, of a prediction one for all; earlier records have none.
        by_channel = series if isinstance(series, dict) else dict.fromkeys(inputs, series)
        return [Source(Path(path), frame, by_channel.get(c)) for c, path in inputs.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _is_same(one: Source, other: Source) -> bool:
    """A frame or series that was not chosen is the only one there was."""
    choices = ((one.frame, other.frame), (one.series, other.series))
    return os.path.realpath(one.path) == os.path.realpath(other.path) and all(
        None in pair or pair[0] == pair[1] for pair in choices
    )


def _is_there(source: Source) -> bool:
    """A series may be gone from its folder; one with damaged files is there."""
    if source.series is None:
        return os.path.exists(source.path)
    try:
        choose_series(source.path, source.series)
    except InputError as error:
        return not isinstance(error, MissingInputError)
    return True


def _named(source: Source) -> str:
    chosen = {"frame": source.frame, "series": source.series}
    words = ", ".join(f"{key} {value}" for key, value in chosen.items() if value is not None)
    return f"{source.path} ({words})" if words else str(source.path)
