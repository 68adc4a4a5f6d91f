"""Checks that outputs replace only earlier results of medrd."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medrd.data.cases import Case
from medrd.data.subject import Source
from medrd.errors import InputError, MissingInputError, OutputError
from medrd.images.dicom_series import choose_series
from medrd.run.record import Record

_LONGEST_NAME = 255
"""Longest file name in bytes, on all common file systems."""


@dataclass(frozen=True)
class OutputFolder:
    """The folder of a call's results, and the files in it that may be replaced.

    Attributes
    ----------
    protected
        Real paths of all input files, which no output may replace.
    noun
        The word for an input in messages.
    """

    path: Path
    protected: frozenset[Path] = frozenset()
    noun: str = "file"

    def refuse_taken(
        self,
        paths: Iterable[Path],
        *,
        ours: bool,
        result: str = "result",
        remedy: str = "Give another --out, or move the file away.",
    ) -> None:
        """Make sure that files may be written.

        Parameters
        ----------
        ours
            Whether medrd wrote the existing ones.
        result, remedy
            For the message: what is written, and the remedy if a name is taken.

        Raises
        ------
        OutputError
            A name is that of an input, or of a file that medrd did not write, or is too long.
        """
        paths = list(paths)
        for path in paths:
            if (length := len(os.fsencode(path.name))) > _LONGEST_NAME:
                raise OutputError(
                    path,
                    expected=f"a name of at most {_LONGEST_NAME} bytes",
                    found=f"{length}",
                    remedy=f"Give the {self.noun} a shorter name.",
                )
        taken = [path for path in paths if path.exists()]
        for path in taken:
            if Path(os.path.realpath(path)) in self.protected:
                raise OutputError(
                    path,
                    expected="an output that is not an input",
                    found=f"an input {self.noun} of that name",
                    remedy="Give another --out.",
                )
        if taken and not ours:
            raise OutputError(
                taken[0],
                expected=f"a free name, or an earlier {result} of medrd",
                found="a file that medrd did not write",
                remedy=remedy,
            )

    @property
    def is_empty(self) -> bool:
        """True if it is missing, or has only hidden files, which a killed process may leave."""
        return not self.path.is_dir() or all(p.name.startswith(".") for p in self.path.iterdir())

    def refuse_used(self, *, ours: bool, result: str) -> None:
        """Make sure that the folder is empty or, if ``ours``, contains only an earlier ``result``.

        Raises
        ------
        OutputError
            It has other files.
        """
        if not ours and not self.is_empty:
            raise OutputError(
                self.path,
                expected=f"a new or empty folder, or an earlier {result}",
                found="a folder with other files",
                remedy="Give another --out.",
            )


def refuse_others(where: Path, record: Record | None, case: Case, *, whole: bool) -> None:
    """Make sure that an earlier result was made from a case's own scans.

    Their content may have changed since, and their paths may be spelled differently.

    Parameters
    ----------
    where, record
        The result that would be replaced, and its record; None if there is none.
    whole
        Whether the case must have all of the record's scans, because the result contains each of
        them. Otherwise one is enough, since models take different modalities of a subject.

    Raises
    ------
    OutputError
        It was made from other scans, which still exist.
    """
    ours, recorded = list(case.subject.images.values()), record.sources if record else []
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


def _is_same(one: Source, other: Source) -> bool:
    """True if both are equal; a frame or series that was not chosen matches any."""
    choices = ((one.frame, other.frame), (one.series, other.series))
    return os.path.realpath(one.path) == os.path.realpath(other.path) and all(
        None in pair or pair[0] == pair[1] for pair in choices
    )


def _is_there(source: Source) -> bool:
    """True if a scan still exists. A series may be gone from its folder; one with damaged files
    exists."""
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
