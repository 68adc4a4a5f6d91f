"""What ``medrd prepare`` finds: subjects with all modalities that there are of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medrd.data.bids import bids_root, bids_subjects
from medrd.data.layouts import (
    MODALITIES,
    Source,
    Subject,
    folders_below,
    is_label_name,
    is_nifti,
    name_and_modality,
    stem,
)
from medrd.errors import ConfigError, InputError, MissingInputError
from medrd.volumes import find_series, holds_dicom, is_dicom, series_of
from medrd.workflows.inputs import Case, expand_all, refuse_collisions, refuse_nothing
from medrd.workflows.outputs import PREPARED_ENDING


@dataclass(frozen=True)
class _Found:
    """A scan: its subject's name, and the folder of its results relative to ``--out``."""

    place: Path
    name: str
    modality: str
    source: Source


@dataclass(frozen=True)
class _Wanted:
    modality: str | None
    frame: int | None
    series: str | None


def find_raw(
    inputs: Sequence[Path],
    *,
    modality: str | None = None,
    frame: int | None = None,
    series: str | None = None,
) -> tuple[list[Case], list[InputError]]:
    """Subjects below what was given. What cannot be used is returned, so that the rest gets done.

    Files of one folder whose names differ in their modality alone are one subject; so are DICOM
    series in folders that are called as modalities are (``patient/flair``, ``patient/T1w``).

    Parameters
    ----------
    modality
        Of files and series whose name does not say it.
    frame
        Of 4D files, from 0.
    series
        Series Instance UID, for DICOM folders that hold several.

    Raises
    ------
    ConfigError
        Nothing to do, an unknown modality, or two subjects of one name.
    """
    if modality is not None and modality not in MODALITIES:
        raise ConfigError(
            "--modality",
            expected=f"one of {', '.join(MODALITIES)}",
            found=modality,
            remedy="Name what the scans are.",
        )
    wanted = _Wanted(modality, frame, series)
    errors: list[InputError] = []
    scans: list[_Found] = []
    cases, problems = expand_all(inputs, lambda path, bad: _expand(path, wanted, scans, bad))
    errors += problems
    cases += _gathered(scans, errors)
    what = "NIfTI files, BIDS datasets, DICOM series or folders of those"
    refuse_nothing(inputs, cases, errors, noun="scan", what=what)
    refuse_collisions(cases, lambda _: ("",), "subject")  # a folder each
    return cases, errors


def _expand(
    path: Path, wanted: _Wanted, scans: list[_Found], errors: list[InputError]
) -> list[Case]:
    """Cases that are whole already (BIDS); single scans are added to ``scans``."""
    if path.is_dir() and (root := bids_root(path)):
        return _bids(root, path, wanted, errors)
    if path.is_dir():
        before = len(scans) + len(errors)
        for folder in folders_below(path):
            try:
                scans += _folder(folder, path, wanted, errors)
            except InputError as error:
                errors.append(error)
        if len(scans) + len(errors) == before:
            raise MissingInputError(
                path,
                expected="a scan (.nii, .nii.gz, DICOM) in this folder or below",
                found="none",
                remedy="Give the folder of a subject, or of subjects.",
            )
    elif is_dicom(path):
        scans.append(_series(path.parent, Path(), wanted, wanted.series or series_of(path)))
    elif path.is_file() and not is_nifti(path):
        raise MissingInputError(
            path,
            expected="a NIfTI file (.nii, .nii.gz), a DICOM file or a folder",
            found=f"a file named {path.name}",
            remedy="Convert the scan to NIfTI first.",
        )
    else:  # a missing file becomes a scan too: reading it says what is wrong
        scans.append(_file(path, Path(), wanted))
    return []


def _folder(folder: Path, root: Path, wanted: _Wanted, errors: list[InputError]) -> list[_Found]:
    """Scans whose files lie in this very folder; what was prepared is raw no more."""
    if any(folder.glob(f"*{PREPARED_ENDING}")):
        return []
    found = []
    files = [p for p in sorted(folder.iterdir()) if is_nifti(p) and not is_label_name(p)]
    # A subject's own folder is no part of the outputs' tree; one that several share is.
    names = {name_and_modality(path)[0] for path in files}
    own = len(names) == 1 and folder != root
    place = (folder.parent if own else folder).relative_to(root)
    for path in files:
        try:
            found.append(_file(path, place, wanted))
        except InputError as error:
            errors.append(error)
    if holds_dicom(folder):
        uids = [series.uid for series in find_series(folder)]
        if not wanted.series or wanted.series in uids:
            found.append(_series(folder, _series_place(folder, root), wanted, wanted.series))
    return found


def _file(path: Path, place: Path, wanted: _Wanted) -> _Found:
    name, modality = name_and_modality(path)
    if modality is None:
        name, modality = stem(path), wanted.modality
    if modality is None:
        raise _nameless(path)
    return _Found(place, name or path.absolute().parent.name, modality, Source(path, wanted.frame))


def _series(folder: Path, place: Path, wanted: _Wanted, uid: str | None) -> _Found:
    """Named after its folder: what DICOM files call a patient is nobody's business."""
    folder_name = folder.resolve().name
    _, modality = name_and_modality(Path(f"_{folder_name}.nii"))
    name = folder.resolve().parent.name if modality else folder_name
    modality = modality or wanted.modality
    if modality is None:
        raise _nameless(folder)
    return _Found(place, name, modality, Source(folder, wanted.frame, uid))


def _series_place(folder: Path, root: Path) -> Path:
    _, modality = name_and_modality(Path(f"_{folder.resolve().name}.nii"))
    above = 2 if modality else 1  # the series' folder, and its subject's
    parts = folder.relative_to(root).parts
    return Path(*parts[: max(0, len(parts) - above)])


def _bids(root: Path, below: Path, wanted: _Wanted, errors: list[InputError]) -> list[Case]:
    """A case a session, of all modalities that it has one of."""
    sessions: dict[tuple[Path, str], dict[str, Source]] = {}
    for channel in MODALITIES:
        for subject, place, _ in bids_subjects(root, below, (channel,), errors):
            name = "_".join(
                part for part in subject.id.split("_") if part.startswith(("sub-", "ses-"))
            )
            images = sessions.setdefault((place, name), {})
            source = Source(subject.images[channel].path, wanted.frame)
            if channel in images:
                errors.append(_doubled(channel, images.pop(channel), source))
                continue
            images[channel] = source
    # The images' own folder (anat) says nothing of a prepared subject.
    return [
        Case(Subject(name, images), place.parent)
        for (place, name), images in sessions.items()
        if images
    ]


def _gathered(scans: Sequence[_Found], errors: list[InputError]) -> list[Case]:
    """Scans of one subject as one case."""
    subjects: dict[tuple[Path, Path, str], dict[str, Source]] = {}
    for scan in scans:
        above = scan.source.path.parent
        images = subjects.setdefault((scan.place, above, scan.name), {})
        if scan.modality in images:
            errors.append(_doubled(scan.modality, images[scan.modality], scan.source))
        else:
            images[scan.modality] = scan.source
    return [Case(Subject(name, images), place) for (place, _, name), images in subjects.items()]


def _nameless(path: Path) -> MissingInputError:
    return MissingInputError(
        path,
        expected="a name that says what it is (…_flair.nii.gz, …_T1w.nii.gz, a folder t1ce/)",
        found="none that medrd knows",
        remedy=f"Say it with --modality {'|'.join(MODALITIES)}, or rename it.",
    )


def _doubled(channel: str, first: Source, second: Source) -> InputError:
    return InputError(
        second.path,
        expected=f"one {channel} scan of a subject",
        found=f"{first.path.name} and {second.path.name}",
        remedy="Give the folder without the one that is not wanted, or their files one by one.",
    )
