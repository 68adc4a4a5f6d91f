"""``errors.json``: the inputs that failed; for ``medrd predict``, in earlier calls too.

A failure stays listed until its input is predicted or no longer exists.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrd.data.cases import ERRORS_NAME
from medrd.errors import InputError, MedrdError
from medrd.files import read_json, write_json
from medrd.run.outputs import remove

REPORT_STEP = "report"
"""The step of results that could not be shown in the report."""


@dataclass(frozen=True)
class Failure:
    """An entry of ``errors.json``.

    Attributes
    ----------
    input
        Absolute path of the failed input, if later calls must recognise it.
    step
        The step that failed, if it is not the work itself.
    """

    error: MedrdError
    input: str | None = None
    step: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        added = {"input": self.input, "step": self.step}
        return self.error.to_dict() | {k: text for k, text in added.items() if text is not None}

    @classmethod
    def from_dict(cls, content: Any) -> Failure | None:
        """The inverse of :meth:`to_dict`; None for anything that it did not make."""
        error = MedrdError.from_dict(content)
        return cls(error, content.get("input"), content.get("step")) if error else None


def write_failures(out: Path, failures: Sequence[Failure]) -> None:
    """Write ``errors.json``, or remove it if nothing failed. Raises OutputError."""
    if failures:
        write_json(out / ERRORS_NAME, [failure.to_dict() for failure in failures])
    else:
        remove(out / ERRORS_NAME)


def write_errors(out: Path, errors: Sequence[MedrdError]) -> None:
    """:func:`write_failures` for plain errors."""
    write_failures(out, [Failure(error) for error in errors])


def read_failures(out: Path) -> list[Failure]:
    """The valid entries of ``errors.json`` in a folder."""
    listed = read_json(out / ERRORS_NAME)
    entries = map(Failure.from_dict, listed if isinstance(listed, list) else [])
    return [failure for failure in entries if failure is not None]


def all_failures(
    out: Path, failed: Sequence[tuple[Path, InputError]], inputs: Sequence[Path]
) -> list[Failure]:
    """The entries that ``errors.json`` in ``out`` should have after a call.

    Earlier entries whose inputs still exist come first. Earlier entries about this call's inputs,
    or about a folder that contains one, are out of date and left out.

    Parameters
    ----------
    failed
        Inputs of this call that failed, with their errors.
    inputs
        Files of all inputs of this call.
    """
    now = [Path(os.path.realpath(path)) for path in (*inputs, *(path for path, _ in failed))]
    return [
        *(each for each in read_failures(out) if each.input and _still_holds(each.input, now)),
        # Absolute: a later call may run in another folder.
        *(Failure(error, os.path.abspath(path)) for path, error in failed),
    ]


def _still_holds(path: str, inputs: Sequence[Path]) -> bool:
    """True if a path exists and is neither one of the inputs, nor a folder or file of one."""
    real = Path(os.path.realpath(path))
    return os.path.exists(path) and not any(
        given.is_relative_to(real) or given == real.parent for given in inputs
    )
