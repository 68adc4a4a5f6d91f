"""One family of errors: which file, what was expected, what was found, what to do.

Everything that a user can fix is raised as a :class:`MedrdError`; anything else that
escapes is a bug and shows its traceback. The exit code of the command line is an
attribute of the class, so that no caller has to translate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class MedrdError(Exception):
    """A problem that the user can fix.

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
    def from_dict(content: Any) -> MedrdError | None:
        """The inverse of :meth:`to_dict`; None for anything that it did not make.

        An unknown class becomes :class:`InputError`.
        """
        match content:
            case {
                "error": str(name),
                "where": str(where),
                "expected": str(expected),
                "found": str(found),
                "remedy": str(remedy),
            }:
                kind = globals().get(name)
                if not (isinstance(kind, type) and issubclass(kind, MedrdError)):
                    kind = InputError
                return kind(where, expected=expected, found=found, remedy=remedy)
        return None


def _rebuild(
    kind: type[MedrdError], where: str, expected: str, found: str, remedy: str
) -> MedrdError:
    return kind(where, expected=expected, found=found, remedy=remedy)


class ConfigError(MedrdError):
    """The configuration or the command line asks for something impossible."""

    exit_code = 2


class MissingExtraError(ConfigError):
    """An optional package or program that a command or an option needs is not installed."""


class LeakageError(ConfigError):
    """A subject is on two sides of a split."""


class ModelError(MedrdError):
    """A model folder, checkpoint or weights file cannot be used."""

    exit_code = 4


class InputError(MedrdError):
    """One input cannot be read or used; the others still can."""

    exit_code = 3


class MissingInputError(InputError):
    """The file or folder does not exist, or is not readable."""


class FileFormatError(InputError):
    """The file is not what its name says: empty, text, wrong magic, broken header."""


class TruncatedFileError(InputError):
    """The file ends before the data that its header promises, or is damaged within."""


class ShapeError(InputError):
    """The dimensions are not those of one three-dimensional image."""


class SeriesError(InputError):
    """The DICOM files are not the slices of one volume: several series, missing, duplicate or
    uneven slices, or a tilted gantry."""


class TooLargeError(InputError):
    """The input has more voxels than the limit allows, or than fit into memory."""


class AffineError(InputError):
    """The affine is not finite or not invertible."""


class NonFiniteError(InputError):
    """The image has too many NaN or infinite voxels."""


class LabelError(InputError):
    """A label, or a picture's mask, holds values that are not labels: fractions, negative numbers,
    NaN, or grey values."""


class ValueRangeError(InputError):
    """The values that stand for black and white are unknown."""


class GridMismatchError(InputError):
    """The images of one subject lie on different grids."""


class WrongKindError(InputError):
    """The image is readable but of another kind: a label, a map, or another modality."""


class EmptyBrainError(InputError):
    """The scan shows no brain: only background, or nothing that varies."""


class ExtractionError(InputError):
    """Another program failed to find the brain in a head."""


class RegistrationError(InputError):
    """A head could not be registered to the template, or its scans to each other."""


class UnlikeTrainingError(InputError):
    """The scan is unlike the training scans of the model, and ``--strict`` forbids that."""


class EmptyMaskError(InputError):
    """A picture that counts as anomalous has an empty mask."""


class OutputError(InputError):
    """A result could not be written: no permission, no space, a name already taken."""
