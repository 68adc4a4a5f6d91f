"""Finds the inputs of ``medrd predict`` for scans: NIfTI files, BraTS subjects, DICOM series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from medrd.config import RecipeConfig
from medrd.data.brains import brats, decathlon
from medrd.data.brains.bids import bids_root, bids_subjects
from medrd.data.brains.labels import is_label_folder
from medrd.data.cases import (
    ERRORS_NAME,
    Case,
    Found,
    expand_all,
    holds,
    refuse_nothing,
    refuse_unused_series,
    without_collisions,
)
from medrd.data.folders import folders_below, scans_in
from medrd.data.left_out import LeftOut
from medrd.data.names import (
    MODALITIES,
    is_label_name,
    name_and_modality,
    named_kind,
)
from medrd.data.output_names import SCAN_FILES, UNPREPARED_ENDING, ending_in, files_of
from medrd.data.pictures.files import is_picture
from medrd.data.subject import Source, Subject
from medrd.errors import ConfigError, FileFormatError, InputError, MissingInputError, WrongKindError
from medrd.files import leads_nowhere
from medrd.images.dicom_series import (
    find_series,
    holds_dicom,
    is_dicom,
    series_of,
    why_no_scan,
    without_index,
)
from medrd.images.formats import (
    SCAN_ENDINGS,
    header_file,
    is_scan_name,
    parts_of,
    scan_file,
    scan_stem,
    unread_ending,
)


@dataclass(frozen=True)
class _Wanted:
    """The model's recipe, the caller's options, and the scans that are left out."""

    recipe: RecipeConfig
    frame: int | None
    series: str | None
    left_out: list[LeftOut] = field(default_factory=list)


def find_scans(
    inputs: Sequence[Path],
    recipe: RecipeConfig,
    *,
    frame: int | None = None,
    series: str | None = None,
) -> Found:
    """Expand files, subject folders and folders of those.

    A folder's tree is mirrored in the outputs. Labels and medrd's own outputs are ignored.
    Errors of unusable inputs are returned, so that the others are still predicted.
    Other scans that are not taken are returned with the reason.

    Parameters
    ----------
    frame
        Index of the frame of 4D files, from 0.
    series
        Series Instance UID; DICOM folders without this series are ignored.

    Raises
    ------
    ConfigError
        Two inputs would write the same output, there is nothing to do, or ``series`` is given
        without a DICOM series.
    """
    wanted = _Wanted(recipe, frame, series)
    # A pattern such as folder/* names both files of a scan.
    voxels = {part for path in inputs for part in _voxel_files(path)}
    inputs = [header_file(without_index(path)) for path in inputs if path not in voxels]
    cases, errors = expand_all(inputs, lambda path, bad: _expand(path, wanted, bad))
    complete = []
    for case in cases:
        try:
            complete.append(with_channels(case, recipe.channels))
        except InputError as error:
            errors.append(error)
    what = "NIfTI files, BraTS subject folders, DICOM series or folders of those"
    refuse_nothing(inputs, complete, errors, noun="scan", what=what)
    if not errors:
        refuse_unused_series(series, complete)
    complete = without_collisions(
        complete,
        errors,
        endings=lambda case: files_of(case, SCAN_FILES).endings,
        noun=SCAN_FILES.noun,
    )
    return Found(complete, errors, wanted.left_out)


def holds_input(path: Path) -> bool:
    """Whether a path, or something in a folder, is what :func:`find_scans` takes or explains."""
    path = without_index(path)
    return _is_input(path) or holds(path, _is_input)


def _is_input(path: Path) -> bool:
    named = is_scan_name(header_file(path)) and not is_label_name(path)
    return named or is_dicom(path) or bool(unread_ending(path)) or leads_nowhere(path)


def _voxel_files(path: Path) -> list[Path]:
    """The voxel files that a header file names; none if it cannot be read (reported later)."""
    try:
        return parts_of(path)[1:] if is_scan_name(path) and path.is_file() else []
    except InputError:
        return []


def _expand(path: Path, wanted: _Wanted, errors: list[InputError]) -> list[Case]:
    is_folder = path.is_dir() and scan_file(path) is None
    if is_folder and (root := bids_root(path)):
        failed = len(errors)
        cases = [
            Case(subject, place, origin)
            for subject, place, origin in bids_subjects(
                root, path, wanted.recipe.channels, errors, wanted.left_out
            )
        ]
        if not cases and len(errors) == failed:
            raise MissingInputError(
                path,
                expected=f"images of {', '.join(wanted.recipe.channels)} in this BIDS dataset "
                "(sub-*/anat/sub-*_FLAIR.nii.gz and so on)",
                found="none",
                remedy="Give the dataset that contains them, or use a model for its modalities.",
            )
        return [_in_frame(case, wanted.frame) for case in cases]
    if is_folder:
        failed = len(errors)
        cases = [
            case for folder in folders_below(path) for case in _folder(folder, path, wanted, errors)
        ]
        if not cases and len(errors) == failed:
            raise _no_scan(path)
        return cases
    if is_dicom(path):
        return [_series(path.parent, Path(), wanted, wanted.series or series_of(path))]
    if path.is_file() and not is_scan_name(path):
        raise MissingInputError(
            path,
            expected=f"a scan ({SCAN_ENDINGS}), a DICOM file or a folder: the model was trained on "
            "scans",
            found=f"a {'picture' if is_picture(path) else 'file'} named {path.name}",
            remedy="Convert the scan to NIfTI first (dcm2niix, mri_convert, 3D Slicer); for "
            "pictures, train a model on pictures.",
        )
    _refuse_other_modality(path, wanted.recipe)
    # A missing file becomes a case too; reading it reports the error.
    return [_file(path, Path(), wanted)]


def _no_scan(folder: Path) -> MissingInputError:
    """The error for a folder without scans, with what it contains instead."""
    if ending_in(folder, UNPREPARED_ENDING):
        found = "none, but subjects that medrd prepare failed on"
        remedy = f"See why in the {ERRORS_NAME} that it wrote, and prepare them again."
    elif holds(folder, leads_nowhere):
        found = "links to files that are not there"
        remedy = "Fetch them (datalad get, git annex get), or correct the links."
    elif holds(folder, lambda path: bool(unread_ending(path))):
        found = "files of other formats"
        remedy = "Convert them to NIfTI (mri_convert, mrconvert, 3D Slicer), or unpack them."
    else:
        found = "pictures" if holds(folder, is_picture) else "none"
        remedy = "Give the folder of a subject, or of subjects."
    return MissingInputError(
        folder,
        expected=f"a scan ({SCAN_ENDINGS}, DICOM) in this folder or below: the model was trained "
        "on scans",
        found=found,
        remedy=remedy,
    )


def _refuse_other_modality(path: Path, recipe: RecipeConfig) -> None:
    """Raise InputError for a file of a BraTS subject whose modality the model does not take.

    Only a subject's folder is proof: in a plain folder, images that end in ``_t1`` may be what the
    model was trained on, whatever the name of its channel.
    """
    if not path.exists():
        return
    for subject in brats.subjects_in(path.parent, errors=[]):
        files = {s.path: c for c, s in subject.images.items()}
        if subject.label is not None:
            files[subject.label.path] = "label"
        kind = files.get(scan_file(path) or path)
        if kind is None or kind in recipe.channels or recipe.channels[0] not in subject.images:
            continue
        right = ", ".join(s.path.name for c, s in subject.images.items() if c in recipe.channels)
        raise WrongKindError(
            path,
            expected=f"{', '.join(recipe.channels)}, which the model was trained on",
            found=f"the {kind} of subject {subject.id}",
            remedy=f"Give {right}, or the folder.",
        )


def _folder(folder: Path, root: Path, wanted: _Wanted, errors: list[InputError]) -> list[Case]:
    """The cases directly in this folder; its error, if any, is appended to ``errors``."""
    try:
        if decathlon.is_label_folder(folder) or is_label_folder(folder):
            return []
        wanted.left_out.extend(
            LeftOut(path, f"{ending} files are not read: convert them to NIfTI")
            for path in sorted(folder.iterdir())
            if (ending := unread_ending(path))
        )
        if decathlon.describes(folder):
            return _decathlon(folder, root, wanted)
        failed = len(errors)
        subjects = brats.subjects_in(folder, errors)
        if subjects or len(errors) > failed:
            # The outputs' tree does not repeat a folder that belongs to a single subject.
            own = len(subjects) == 1 and folder != root
            place = (folder.parent if own else folder).relative_to(root)
            wanted.left_out.extend(_beside(folder, subjects, errors[failed:]))
            return [Case(subject, place) for subject in subjects]
        files = [
            _file(path, folder.relative_to(root), wanted)
            for path in _of_the_modality(folder, wanted)
        ]
        return files + _dicom(folder, root, wanted)
    except InputError as error:
        errors.append(error)
        return []


def _of_the_modality(folder: Path, wanted: _Wanted) -> list[Path]:
    """The scans of a plain folder.

    If the name of one says the model's only modality, those that say another are left out.
    """
    kinds = {path: named_kind(path) for path in scans_in(folder) if not is_label_name(path)}
    channel, *others = wanted.recipe.channels
    if others or channel not in MODALITIES or channel not in kinds.values():
        return list(kinds)
    wanted.left_out.extend(
        LeftOut(path, f"{kind} by its name, beside a {channel} scan, which the model takes")
        for path, kind in kinds.items()
        if kind not in (None, channel)
    )
    return [path for path, kind in kinds.items() if kind in (None, channel)]


def _decathlon(folder: Path, root: Path, wanted: _Wanted) -> list[Case]:
    """The cases of a folder ``imagesTr``; ``--frame`` overrides ``dataset.json``."""
    try:
        subjects = decathlon.subjects_in(folder)
    except ConfigError as error:  # only this folder fails, not the call
        raise InputError(
            error.where, expected=error.expected, found=error.found, remedy=error.remedy
        ) from None
    cases = [
        Case(decathlon.only_channel(subject, wanted.recipe.channels), folder.relative_to(root))
        for subject in subjects
    ]
    return [case if wanted.frame is None else _in_frame(case, wanted.frame) for case in cases]


def _beside(
    folder: Path, subjects: Sequence[Subject], errors: Sequence[InputError]
) -> Iterator[LeftOut]:
    """The scans in a folder of BraTS subjects that belong neither to these nor to failed ones."""
    taken = {path for subject in subjects for path in subject.files}
    failed = {name_and_modality(Path(error.where))[0] for error in errors}
    for path, file in scans_in(folder).items():
        failing = name_and_modality(path)[0] in failed
        if not (failing or is_label_name(path) or file in taken):
            kind = named_kind(path)
            yield LeftOut(
                path,
                f"{kind} by its name, but not in the BraTS layout, unlike others in its folder"
                if kind
                else "its name does not end in a modality (_flair, _t1 …), unlike others there",
            )
    if holds_dicom(folder):
        yield LeftOut(folder, "its DICOM files lie beside NIfTI files of subjects")


def _dicom(folder: Path, root: Path, wanted: _Wanted) -> list[Case]:
    """The folder's series, if any; a choice between several is made when it is read."""
    if not holds_dicom(folder):
        return []
    if wanted.series and all(found.uid != wanted.series for found in find_series(folder)):
        wanted.left_out.append(LeftOut(folder, "not the series that --series names"))
        return []
    if folder != root and not wanted.series:
        with suppress(FileFormatError):  # a damaged header may be a scan's, and reading it says so
            if reason := why_no_scan(find_series(folder)):
                wanted.left_out.append(LeftOut(folder, reason))
                return []
    place = Path() if folder == root else folder.parent.relative_to(root)
    return [_series(folder, place, wanted, wanted.series)]


def _in_frame(case: Case, frame: int | None) -> Case:
    images = {c: replace(s, frame=frame) for c, s in case.subject.images.items()}
    return replace(case, subject=replace(case.subject, images=images))


def _series(folder: Path, place: Path, wanted: _Wanted, uid: str | None) -> Case:
    """A series, named after its folder, since patients' names must not be disclosed."""
    source = Source(folder, wanted.frame, uid)
    return Case(Subject(folder.resolve().name, {wanted.recipe.channels[0]: source}), place)


def _file(path: Path, place: Path, wanted: _Wanted) -> Case:
    images = {wanted.recipe.channels[0]: Source(scan_file(path) or path, wanted.frame)}
    return Case(Subject(scan_stem(path), images, brats.label_beside(path)), place)


def with_channels(case: Case, channels: Sequence[str]) -> Case:
    """The case with a model's channels alone. Raises MissingInputError if it lacks one."""
    images = case.subject.images
    missing = [channel for channel in channels if channel not in images]
    if missing:
        raise _incomplete(case, missing, channels)
    chosen = {channel: images[channel] for channel in channels}
    return replace(case, subject=replace(case.subject, images=chosen))


def _incomplete(case: Case, missing: Sequence[str], channels: Sequence[str]) -> MissingInputError:
    images = case.subject.images
    if all(named_kind(path) == channel for channel, path in case.subject.paths.items()):
        there = _listed(images)
        remedy = f"Give a folder with its {_listed(missing)} too, or a model of {there}."
    else:  # a file or series by itself, which was taken for the model's first modality
        there = case.first_file.name
        remedy = "Give the folder of a subject that has them all."
    return MissingInputError(
        case.first_file if len(images) == 1 else case.first_file.parent,
        expected=f"{_listed(channels)}, which the model was trained on",
        found=f"only {there}",
        remedy=remedy,
    )


def _listed(names: Iterable[str]) -> str:
    """``a``; ``a and b``; ``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
