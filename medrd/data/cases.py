"""The inputs of a call as cases: which files, and where their results go.

:mod:`medrd.data.brains.find`, :mod:`medrd.data.pictures.find` and :mod:`medrd.preparation.inputs`
find them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from medrd.data.folders import folders_below
from medrd.data.left_out import LeftOut
from medrd.data.subject import Subject
from medrd.errors import ConfigError, InputError, MedrdError

ERRORS_NAME = "errors.json"
"""File in ``--out`` that lists failed inputs; no output may have this name."""

Kind = TypeVar("Kind", bound=MedrdError)

Expand = Callable[[Path, list[InputError]], list["Case"]]
"""Path -> its cases; errors of unusable ones are appended to the list."""


@dataclass(frozen=True)
class BidsOrigin:
    """The images of a subject within a dataset.

    Attributes
    ----------
    root
        The dataset's folder.
    sources
        Paths of the images relative to the root, in the order of the channels.
    """

    root: Path
    sources: tuple[str, ...]

    @property
    def uris(self) -> list[str]:
        """BIDS URIs of the sources; the derivative's ``DatasetLinks`` names the dataset
        ``source``."""
        return [f"bids:source:{source}" for source in self.sources]


@dataclass(frozen=True)
class Case:
    """One scan or picture to predict.

    Attributes
    ----------
    subject
        Its id is the stem of the output names.
    place
        Folder of its outputs, relative to ``--out``.
    origin
        The scan's BIDS dataset, if it is in one; its outputs are then a BIDS derivative.
    """

    subject: Subject
    place: Path
    origin: BidsOrigin | None = None

    def output(self, out: Path, ending: str) -> Path:
        """``<out>/<place>/<stem><ending>``."""
        return out / self.place / f"{self.subject.id}{ending}"

    @property
    def first_file(self) -> Path:
        """The first image, which identifies the case in messages."""
        return next(iter(self.subject.images.values())).path


class Found(NamedTuple):
    """What was found below the paths of a call.

    Attributes
    ----------
    cases, errors
        Inputs that can be tried, and errors of those that cannot.
    left_out
        Files that are not tried, though they may be of the right kind.
    """

    cases: list[Case]
    errors: list[InputError]
    left_out: list[LeftOut]


def expand_all(inputs: Sequence[Path], expand: Expand) -> tuple[list[Case], list[InputError]]:
    """Find the cases of all paths; errors of unusable paths are returned."""
    cases: list[Case] = []
    errors: list[InputError] = []
    for path in inputs:
        try:
            cases += expand(path, errors)
        except InputError as error:
            errors.append(error)
    return cases, errors


def refuse_nothing(
    inputs: Sequence[Path],
    cases: Sequence[Case],
    errors: Sequence[InputError],
    *,
    noun: str,
    what: str,
) -> None:
    """Raise ConfigError if there is nothing to do, unless an error explains why.

    Parameters
    ----------
    noun, what
        The word for an input in messages, and a list of accepted inputs.
    """
    if not cases and not errors:
        raise ConfigError(
            ", ".join(map(str, inputs)) or "inputs",
            expected=what,
            found=f"no {noun}",
            remedy=f"Give the path of a {noun}.",
        )


def refuse_unused_series(series: str | None, found: Sequence[Case]) -> None:
    """Raise ConfigError if ``--series`` chooses among no DICOM series at all."""
    sources = [source for case in found for source in case.subject.images.values()]
    if series is not None and sources and all(source.series is None for source in sources):
        raise ConfigError(
            "--series",
            expected="DICOM series among the inputs",
            found="none",
            remedy="Leave it out: it chooses among the series of a DICOM folder.",
        )


def holds(folder: Path, is_kind: Callable[[Path], bool]) -> bool:
    """True if a file of a kind is in this folder or below."""
    return any(is_kind(path) for inner in folders_below(folder) for path in inner.iterdir())


def without_collisions(
    cases: Sequence[Case],
    errors: list[InputError],
    *,
    endings: Callable[[Case], Sequence[str]],
    noun: str,
) -> list[Case]:
    """Select the cases whose outputs do not collide.

    Cases of one folder with the same output (``x.png`` and ``x.bmp``) are all left out, each with
    an error, so that the others are still processed: a shell's ``folder/*`` is the same as the
    folder.

    Parameters
    ----------
    errors
        A list to which errors are appended.
    endings
        Endings of all outputs of a case, since the overlay of ``a_mask`` may be the mask of ``a``.
    noun
        The word for an input in messages.

    Raises
    ------
    ConfigError
        An input is given twice, two of different folders would write the same output, or one would
        replace ``errors.json``.
    """
    seen: dict[Path, Case] = {}
    bad: set[Path] = set()
    for case in cases:
        for target in (case.output(Path(), ending) for ending in endings(case)):
            if target == Path(ERRORS_NAME):
                raise ConfigError(
                    case.first_file,
                    expected=f"a {noun} with another name, as {ERRORS_NAME} lists the failed "
                    f"{noun}s",
                    found="errors",
                    remedy=f"Rename the {noun}.",
                )
            other = seen.setdefault(target, case)
            if other is case:
                continue
            files = {case.first_file, other.first_file}
            if len(files) == 1 or _apart(case, other):
                raise _collision(ConfigError, case, other, target)
            for one, two in ((case, other), (other, case)):
                if one.first_file not in bad:
                    errors.append(_collision(InputError, one, two, target))
                    bad.add(one.first_file)
    return [case for case in cases if case.first_file not in bad]


def _apart(case: Case, other: Case) -> bool:
    """True if two cases were found in different folders, so they come from two inputs."""
    return case.first_file.parent != other.first_file.parent


def _collision(kind: type[Kind], case: Case, other: Case, target: Path) -> Kind:
    return kind(
        case.first_file,
        expected="inputs with different output names",
        found=f"the same output name {target} as for {other.first_file}",
        remedy="Give the folder that contains both (its tree is kept), or rename one."
        if _apart(case, other)
        else "Rename one of them, or move one away.",
    )
