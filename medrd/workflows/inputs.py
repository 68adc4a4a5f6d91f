"""What ``medrd predict`` was given -> cases: which files, and where their results go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medrd.config import RecipeConfig
from medrd.data.layouts import (
    Source,
    Subject,
    brats_subjects,
    folders_below,
    is_label_name,
    is_nifti,
    stem,
)
from medrd.errors import ConfigError, InputError, MissingInputError


@dataclass(frozen=True)
class Case:
    """One scan to predict.

    Attributes
    ----------
    subject
        Its id is the stem of the output names.
    place
        Folder of its outputs, relative to ``--out``.
    """

    subject: Subject
    place: Path

    def output(self, out: Path, ending: str) -> Path:
        """``<out>/<place>/<stem><ending>``."""
        return out / self.place / f"{self.subject.id}{ending}"


def find_cases(
    inputs: Sequence[Path], recipe: RecipeConfig, *, frame: int | None = None
) -> tuple[list[Case], list[InputError]]:
    """Expand files, subject folders and folders of those.

    A folder's tree is mirrored in the outputs. Labels and medrd's own outputs are passed
    over. What cannot be used is returned as errors, so that the rest gets done.

    Parameters
    ----------
    frame
        Which frame of 4D files to take, from 0.

    Raises
    ------
    ConfigError
        Two inputs that would write the same output, or nothing to do at all.
    """
    cases: list[Case] = []
    errors: list[InputError] = []
    for path in inputs:
        try:
            cases += _expand(path, recipe, frame, errors)
        except InputError as error:
            errors.append(error)
    complete = []
    for case in cases:
        try:
            complete.append(_with_channels(case, recipe))
        except InputError as error:
            errors.append(error)
    if not complete and not errors:
        raise ConfigError(
            ", ".join(map(str, inputs)) or "INPUT",
            expected="NIfTI files, BraTS subject folders or folders of those",
            found="no scan",
            remedy="Give the path of a scan.",
        )
    _refuse_collisions(complete)
    return complete, errors


def _expand(
    path: Path, recipe: RecipeConfig, frame: int | None, errors: list[InputError]
) -> list[Case]:
    if path.is_dir():
        failed = len(errors)
        cases = [
            case
            for folder in folders_below(path)
            for case in _folder(folder, path, recipe, frame, errors)
        ]
        if not cases and len(errors) == failed:
            raise MissingInputError(
                path,
                expected="a scan (.nii, .nii.gz) in this folder or below",
                found="none",
                remedy="Give the folder of a subject, or of subjects.",
            )
        return cases
    if path.is_file() and not is_nifti(path):
        raise MissingInputError(
            path,
            expected="a NIfTI file (.nii, .nii.gz) or a folder",
            found=f"a file named {path.name}",
            remedy="Convert the scan to NIfTI first.",
        )
    # A missing file becomes a case too: reading it says what is wrong.
    return [_file(path, Path(), recipe, frame)]


def _folder(
    folder: Path, root: Path, recipe: RecipeConfig, frame: int | None, errors: list[InputError]
) -> list[Case]:
    """Cases whose files lie in this very folder. What is wrong with it spares the others."""
    try:
        subjects = brats_subjects(folder)
    except InputError as error:
        errors.append(error)
        return []
    if subjects:
        # A subject's own folder is no part of the outputs' tree; one that several share is.
        own = len(subjects) == 1 and folder != root
        place = (folder.parent if own else folder).relative_to(root)
        return [Case(subject, place) for subject in subjects]
    return [
        _file(path, folder.relative_to(root), recipe, frame)
        for path in sorted(folder.iterdir())
        if is_nifti(path) and not is_label_name(path)
    ]


def _file(path: Path, place: Path, recipe: RecipeConfig, frame: int | None) -> Case:
    return Case(Subject(stem(path), {recipe.channels[0]: Source(path, frame)}), place)


def _with_channels(case: Case, recipe: RecipeConfig) -> Case:
    images = case.subject.images
    missing = [channel for channel in recipe.channels if channel not in images]
    if missing:
        first = next(iter(images.values())).path
        raise MissingInputError(
            first if len(images) == 1 else first.parent,
            expected=f"the modalities {', '.join(recipe.channels)} that the model was trained on",
            found=f"no {', '.join(missing)}",
            remedy="Give a subject's folder with all of them.",
        )
    chosen = {channel: images[channel] for channel in recipe.channels}
    return replace(case, subject=Subject(case.subject.id, chosen))


def _refuse_collisions(cases: Sequence[Case]) -> None:
    seen: dict[Path, Case] = {}
    for case in cases:
        target = case.place / case.subject.id
        if target == Path("errors"):
            raise ConfigError(
                next(iter(case.subject.images.values())).path,
                expected="a scan by another name: errors.json lists the scans that failed",
                found="errors",
                remedy="Rename the scan.",
            )
        if target in seen:
            places = [str(next(iter(c.subject.images.values())).path) for c in (seen[target], case)]
            raise ConfigError(
                places[1],
                expected="every input to have outputs of its own",
                found=f"the same output name {target} as of {places[0]}",
                remedy="Give them in two runs with different --out, or rename one.",
            )
        seen[target] = case
