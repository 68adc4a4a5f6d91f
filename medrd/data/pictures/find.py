"""Finds the inputs of ``medrd predict`` for pictures: picture files, and folders of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medrd.data.cases import Case, Found, expand_all, holds, refuse_nothing, without_collisions
from medrd.data.folders import folders_below
from medrd.data.left_out import LeftOut
from medrd.data.output_names import PICTURE_FILES
from medrd.data.pictures.files import PICTURE_ENDINGS, is_picture
from medrd.data.subject import Source, Subject
from medrd.errors import MissingInputError
from medrd.images.formats import is_scan_name

_ENDINGS = ", ".join(sorted(PICTURE_ENDINGS))
_OTHER_PICTURES = frozenset(
    {".gif", ".jp2", ".jxl", ".heic", ".heif", ".avif", ".tga", ".ppm", ".pgm", ".psd", ".exr"}
    | {".dng", ".cr2", ".nef", ".svg", ".jfif"}
)
_MASK = Path(PICTURE_FILES.mask).stem


def find_pictures(inputs: Sequence[Path]) -> Found:
    """Expand files and folders.

    A folder's tree is mirrored in the outputs. Hidden files, masks beside their pictures and
    medrd's own outputs are ignored, unless they are given by name. Errors of unusable inputs are
    returned, so that the others are still predicted.

    Raises
    ------
    ConfigError
        Two inputs would write the same output, or there is nothing to do.
    """
    left_out: list[LeftOut] = []
    cases, errors = expand_all(inputs, lambda path, _: _expand(path, left_out))
    what = f"pictures ({_ENDINGS}) or folders of those"
    refuse_nothing(inputs, cases, errors, noun="picture", what=what)
    cases = without_collisions(
        cases,
        errors,
        endings=lambda _: PICTURE_FILES.endings,
        noun=PICTURE_FILES.noun,
    )
    return Found(cases, errors, left_out)


def _expand(path: Path, left_out: list[LeftOut]) -> list[Case]:
    if path.is_dir():
        cases = [
            _case(file, folder.relative_to(path))
            for folder in folders_below(path)
            for file in _pictures_of(folder)
        ]
        if not cases:
            raise MissingInputError(
                path,
                expected=f"a picture ({_ENDINGS}) in this folder or below: the model was "
                "trained on pictures",
                found="scans" if holds(path, is_scan_name) else "none",
                remedy="Give the folder of pictures.",
            )
        left_out += [
            LeftOut(file, f"{file.suffix.lower()} files are not read: save them as PNG")
            for folder in folders_below(path)
            for file in sorted(folder.iterdir())
            if file.suffix.lower() in _OTHER_PICTURES and not file.name.startswith(".")
        ]
        return cases
    if path.is_file() and not is_picture(path):
        raise MissingInputError(
            path,
            expected=f"a picture ({_ENDINGS}) or a folder: the model was trained on pictures",
            found=f"a {'scan' if is_scan_name(path) else 'file'} named {path.name}",
            remedy="Save the picture as PNG first; for scans, train a model on scans.",
        )
    # A missing file becomes a case too; reading it reports the error.
    return [_case(path, Path())]


def _case(path: Path, place: Path) -> Case:
    return Case(Subject(path.stem, {"picture": Source(path)}), place)


def _pictures_of(folder: Path) -> list[Path]:
    """The pictures directly in this folder, in order, by their names alone."""
    names = {path.name for path in folder.iterdir()}
    # Broken links are included: reading them reports the error.
    pictures = [path for path in sorted(folder.iterdir()) if is_picture(path) and not path.is_dir()]
    stems = Counter(path.stem for path in pictures)

    def passed_over(path: Path) -> bool:
        if path.name.endswith(PICTURE_FILES.map):
            return True
        of = path.stem.removesuffix(_MASK)
        if of != path.stem:
            return of in stems or f"{of}{PICTURE_FILES.map}" in names
        # An overlay has a map beside it, and its record, or its picture where a killed run
        # wrote no record.
        return (
            path.suffix == PICTURE_FILES.overlay
            and f"{of}{PICTURE_FILES.map}" in names
            and (f"{of}{PICTURE_FILES.record}" in names or stems[of] > 1)
        )

    return [path for path in pictures if not passed_over(path)]
