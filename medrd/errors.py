"""One family of errors: which file, what was expected, what was found, what to do.

Everything that a user can mend is raised as a :class:`MedrdError`; anything else that
escapes is a bug and shows its traceback. The exit code of the command line is an
attribute of the class, so that no caller has to translate.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MedrdError(Exception):
    """A problem that the user can mend.

    Parameters
    ----------
    where
        The file, folder or config key at fault.
    expected, found
        What should have been there, and what was.
    remedy
        What to do about it, as an imperative sentence.
    """

    exit_code = 1

    def __init__(self, where: str | Path, *, expected: str, found: str, remedy: str) -> None:
        self.where = str(where)
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(f"{self.where}: expected {expected}; found {found}. {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not pickle by default, and these
        # cross process borders (parallel cache building, Ray).
        return (_rebuild, (type(self), self.where, self.expected, self.found, self.remedy))

    def to_dict(self) -> dict[str, str]:
        """Plain fields for ``errors.json``."""
        return {
            "error": type(self).__name__,
            "where": self.where,
            "expected": self.expected,
            "found": self.found,
            "remedy": self.remedy,
        }

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> MedrdError:
        """The inverse of :meth:`to_dict`; an unknown class becomes :class:`InputError`.

        Raises KeyError where a field is missing.
        """
        kind = globals().get(content["error"])
        if not (isinstance(kind, type) and issubclass(kind, MedrdError)):
            kind = InputError
        fields = {name: str(content[name]) for name in ("where", "expected", "found", "remedy")}
        return kind(fields.pop("where"), **fields)


def _rebuild(
    kind: type[MedrdError], where: str, expected: str, found: str, remedy: str
) -> MedrdError:
    return kind(where, expected=expected, found=found, remedy=remedy)


class ConfigError(MedrdError):
    """The configuration or the command line asks for something impossible."""

    exit_code = 2


class MissingExtraError(ConfigError):
    """An optional package that a verb or an option needs is not installed."""


class LeakageError(ConfigError):
    """A subject stands on two sides of a split."""


class ModelError(MedrdError):
    """A model folder, checkpoint or weights file cannot be used."""

    exit_code = 4


class InputError(MedrdError):
    """One input cannot be read or used; the others still can."""

    exit_code = 3


class MissingInputError(InputError):
    """The file or folder is not there, or not readable."""


class FileFormatError(InputError):
    """The file is not what its name says: empty, text, wrong magic, broken header."""


class TruncatedFileError(InputError):
    """The file ends before the data that its header promises, or is damaged within."""


class ShapeError(InputError):
    """Dimensions that are not those of one three-dimensional image."""


class SeriesError(InputError):
    """DICOM files that are not the slices of one volume: several series, missing, doubled or
    uneven slices, a tilted gantry."""


class TooLargeError(InputError):
    """More voxels than the budget allows, or the memory suffices for."""


class AffineError(InputError):
    """An affine that maps voxels to nowhere: not finite or not invertible."""


class NonFiniteError(InputError):
    """Too many NaN or infinite voxels."""


class ValueRangeError(InputError):
    """Values of which nothing says which stand for black and for white."""


class GridMismatchError(InputError):
    """Images of one subject on different grids."""


class WrongKindError(InputError):
    """A readable image of another kind: a label, a map, a modality the model does not take."""


class EmptyBrainError(InputError):
    """No brain found: nothing but background, or nothing that varies."""


class RegistrationError(InputError):
    """A head that could not be brought to the template, or two scans of it to each other."""


class UnlikeTrainingError(InputError):
    """A scan unlike those that its model was trained on, where that is forbidden (``--strict``)."""


class EmptyMaskError(InputError):
    """A picture that is said to be anomalous has masks that outline nothing."""


class OutputError(InputError):
    """A result could not be written: no permission, no space, a name already taken."""
