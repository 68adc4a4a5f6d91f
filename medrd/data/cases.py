"""The inputs of a call as cases: which files, and where their results go.

:mod:`medrd.data.brains.find`, :mod:`medrd.data.pictures.find` and :mod:`medrd.preparation.inputs`
find them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from medrd.data.layouts import Subject, folders_below
from medrd.errors import ConfigError, InputError, MedrdError

ERRORS_NAME = "errors.json"
"""In ``--out``: the inputs that failed. No output may go by this name."""

Kind = TypeVar("Kind", bound=MedrdError)

Expand = Callable[[Path, list[InputError]], list["Case"]]
"""One path that was given -> its cases; what is wrong with some of them is appended."""


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
        For a scan in a BIDS dataset, whose outputs are a BIDS derivative.
    """

    subject: Subject
    place: Path
    origin: BidsOrigin | None = None

    def output(self, out: Path, ending: str) -> Path:
        """``<out>/<place>/<stem><ending>``."""
        return out / self.place / f"{self.subject.id}{ending}"

    @property
    def first_file(self) -> Path:
        """The file that stands for it in messages."""
        return next(iter(self.subject.images.values())).path


def expand_all(inputs: Sequence[Path], expand: Expand) -> tuple[list[Case], list[InputError]]:
    """The cases of all paths. What cannot be used is returned, so that the rest gets done."""
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
    """Raise ConfigError where there is nothing to do, and no error that says why.

    Parameters
    ----------
    noun, what
        What an input is called, and what may be given.
    """
    if not cases and not errors:
        raise ConfigError(
            ", ".join(map(str, inputs)) or "inputs",
            expected=what,
            found=f"no {noun}",
            remedy=f"Give the path of a {noun}.",
        )


def holds(folder: Path, is_kind: Callable[[Path], bool]) -> bool:
    """Whether a file of a kind lies in this folder or below."""
    return any(is_kind(path) for inner in folders_below(folder) for path in inner.iterdir())


def without_collisions(
    inputs: Sequence[Path],
    cases: Sequence[Case],
    errors: list[InputError],
    *,
    endings: Callable[[Case], Sequence[str]],
    noun: str,
) -> list[Case]:
    """The cases whose outputs are their own.

    Of those that were found in a folder (``x.png`` beside ``x.bmp``), none is taken and each gets
    an error, so that the others are done.

    Parameters
    ----------
    inputs
        What was given; two of these with one output are a mistake of the call.
    errors
        A list to which errors are appended.
    endings
        Of all outputs of a case: the overlay of ``a_mask`` may be the mask of ``a``.
    noun
        What an input is called.

    Raises
    ------
    ConfigError
        Two inputs of the call would write the same output, or one the list of errors.
    """
    given = set(inputs)
    seen: dict[Path, Case] = {}
    bad: set[Path] = set()
    for case in cases:
        for target in (case.output(Path(), ending) for ending in endings(case)):
            if target == Path(ERRORS_NAME):
                raise ConfigError(
                    case.first_file,
                    expected=f"a {noun} by another name: {ERRORS_NAME} lists the {noun}s that "
                    "failed",
                    found="errors",
                    remedy=f"Rename the {noun}.",
                )
            other = seen.setdefault(target, case)
            if other is case:
                continue
            files = {case.first_file, other.first_file}
            if len(files) == 1 or not given.isdisjoint(files) or _apart(case, other):
                raise _collision(ConfigError, case, other, target)
            for one, two in ((case, other), (other, case)):
                if one.first_file not in bad:
                    errors.append(_collision(InputError, one, two, target))
                    bad.add(one.first_file)
    return [case for case in cases if case.first_file not in bad]


def _apart(case: Case, other: Case) -> bool:
    """Whether two cases were found in different folders: they come from two inputs."""
    return case.first_file.parent != other.first_file.parent


def _collision(kind: type[Kind], case: Case, other: Case, target: Path) -> Kind:
    return kind(
        case.first_file,
        expected="every input to have outputs of its own",
        found=f"the same output name {target} as of {other.first_file}",
        remedy="Give the folder that holds both (its tree is kept), or rename one."
        if _apart(case, other)
        else "Rename one of them, or take one away.",
    )
