"""What ``medrd prepare`` finds: subjects with all modalities that there are of them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medrd.data.brains.bids import bids_root, bids_subjects
from medrd.data.cases import Case, expand_all, refuse_nothing, without_collisions
from medrd.data.layouts import (
    MODALITIES,
    Source,
    Subject,
    folders_below,
    is_label_name,
    is_scan,
    name_and_modality,
    stem,
)
from medrd.data.output_names import PREPARED_ENDING
from medrd.errors import ConfigError, InputError, MissingInputError
from medrd.images.dicom import find_series, holds_dicom, series_of
from medrd.images.dicom_meta import is_dicom
from medrd.images.formats import SCAN_ENDINGS

_FOLDERS = {
    "flair": ("flair", "t2f"),
    "t1": ("t1", "t1w", "t1n"),
    "t1ce": ("t1ce", "t1c", "t1gd"),
    "t2": ("t2", "t2w"),
}
"""What a modality's folder may be called, in small letters."""
_CALLED = {name: modality for modality, names in _FOLDERS.items() for name in names}


@dataclass(frozen=True)
class _Found:
    """A scan.

    Attributes
    ----------
    home
        Within this folder, scans of one place and name are one subject's.
    place, name
        Folder of its subject's results relative to ``--out``, and what the subject is called.
    """

    home: Path
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

    Files whose names differ in their modality alone are one subject, whether they lie in one folder
    or each in its own. So are scans in folders that are called as modalities are
    (``patient/flair``, ``patient/T1w``): a series, or the only file there.

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
        Nothing to do, an unknown modality, or two subjects of one name from two inputs.
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
    cases = without_collisions(
        inputs,
        cases,
        errors,
        endings=lambda _: ("",),  # a folder each
        noun="subject",
    )
    return cases, errors


def _expand(
    path: Path, wanted: _Wanted, scans: list[_Found], errors: list[InputError]
) -> list[Case]:
    """Cases that are whole already (BIDS); single scans are added to ``scans``."""
    if path.is_dir() and (root := bids_root(path)):
        return _bids(root, path, wanted, errors)
    if path.is_dir():
        before = len(scans) + len(errors)
        scans += _below(path, wanted, errors)
        if len(scans) + len(errors) == before:
            raise MissingInputError(
                path,
                expected=f"a scan ({SCAN_ENDINGS}, DICOM) in this folder or below",
                found="none",
                remedy="Give the folder of a subject, or of subjects.",
            )
    elif is_dicom(path):
        folder = path.parent
        scans.append(_series(folder, folder, wanted, wanted.series or series_of(path)))
    elif path.is_file() and not is_scan(path):
        raise MissingInputError(
            path,
            expected=f"a scan ({SCAN_ENDINGS}), a DICOM file or a folder",
            found=f"a file named {path.name}",
            remedy="Convert the scan to NIfTI first.",
        )
    else:  # a missing file becomes a scan too: reading it says what is wrong
        name, modality = _file(path, wanted)
        home = _patient(path.parent)
        scans.append(_Found(home, Path(), name, modality, Source(path, wanted.frame)))
    return []


def _below(root: Path, wanted: _Wanted, errors: list[InputError]) -> list[_Found]:
    """Scans in a folder's tree; what was prepared is raw no more."""
    found: list[_Found] = []
    files: dict[Path, list[tuple[str, str, Path]]] = defaultdict(list)
    for folder in folders_below(root):
        if any(folder.glob(f"*{PREPARED_ENDING}")):
            continue
        here = [p for p in sorted(folder.iterdir()) if is_scan(p) and not is_label_name(p)]
        for path in here:
            try:
                named = _file(path, wanted, alone=len(here) == 1)
                files[_patient(folder)].append((*named, path))
            except InputError as error:
                errors.append(error)
        try:
            uids = [series.uid for series in find_series(folder)] if holds_dicom(folder) else []
            if uids and (not wanted.series or wanted.series in uids):
                found.append(_series(folder, root, wanted, wanted.series))
        except InputError as error:
            errors.append(error)
    for patient, scans in files.items():
        # A subject's own folder is no part of the outputs' tree; one that several share is.
        home, place = _where(patient, root, own=len({name for name, _, _ in scans}) == 1)
        found += [
            _Found(home, place, name, modality, Source(path, wanted.frame))
            for name, modality, path in scans
        ]
    return found


def _file(path: Path, wanted: _Wanted, *, alone: bool = False) -> tuple[str, str]:
    """Whose a file is, and of what modality; ``alone``: no other scan lies in its folder."""
    name, modality = name_and_modality(path)
    if modality is None:
        called = _called(path.parent)
        name = "" if called and alone else stem(path)
        modality = called or wanted.modality
    if modality is None:
        raise _nameless(path)
    return name or _patient(path.parent).name, modality


def _series(folder: Path, root: Path, wanted: _Wanted, uid: str | None) -> _Found:
    """Named after its folder: what DICOM files call a patient is nobody's business."""
    modality = _called(folder) or wanted.modality
    if modality is None:
        raise _nameless(folder)
    patient = _patient(folder)
    home, place = _where(patient, root, own=True)
    return _Found(home, place, patient.name, modality, Source(folder, wanted.frame, uid))


def _called(folder: Path) -> str | None:
    """The modality that a folder is called as."""
    return _CALLED.get(_absolute(folder).name.lower())


def _patient(folder: Path) -> Path:
    """The folder of the subject whose scans lie in this one."""
    return _absolute(folder).parent if _called(folder) else _absolute(folder)


def _where(patient: Path, root: Path, *, own: bool) -> tuple[Path, Path]:
    """Home and place of scans in a patient's folder, whose ``own`` it is or not."""
    root = _absolute(root)
    if not patient.is_relative_to(root):
        return patient, Path()
    return root, (patient.parent if own and patient != root else patient).relative_to(root)


def _absolute(path: Path) -> Path:
    """Links stay: they may be called better than what they lead to."""
    return Path(os.path.abspath(path))


def _bids(root: Path, below: Path, wanted: _Wanted, errors: list[InputError]) -> list[Case]:
    """A case a session, of all modalities that it has."""
    sessions: dict[tuple[Path, str], dict[str, list[Source]]] = {}
    for channel in MODALITIES:
        for subject, place, _ in bids_subjects(root, below, (channel,), errors):
            name = "_".join(
                part for part in subject.id.split("_") if part.startswith(("sub-", "ses-"))
            )
            # The images' own folder (anat) says nothing of a prepared subject.
            images = sessions.setdefault((place.parent, name), {})
            source = Source(subject.images[channel].path, wanted.frame)
            images.setdefault(channel, []).append(source)
    return [
        Case(found, place)
        for (place, name), images in sessions.items()
        if (found := _subject(name, images, errors))
    ]


def _gathered(scans: Sequence[_Found], errors: list[InputError]) -> list[Case]:
    """Scans of one subject as one case."""
    subjects: dict[tuple[Path, Path, str], dict[str, list[Source]]] = {}
    for scan in scans:
        images = subjects.setdefault((scan.home, scan.place, scan.name), {})
        images.setdefault(scan.modality, []).append(scan.source)
    return [
        Case(subject, place)
        for (_, place, name), images in subjects.items()
        if (subject := _subject(name, images, errors))
    ]


def _subject(
    name: str, images: Mapping[str, Sequence[Source]], errors: list[InputError]
) -> Subject | None:
    """A subject with one scan of each modality; None, and an error, where there are several."""
    doubled = {channel: sources for channel, sources in images.items() if len(sources) > 1}
    if doubled:
        found = "; ".join(
            f"{channel}: {', '.join(str(source.path) for source in sources)}"
            for channel, sources in doubled.items()
        )
        errors.append(
            InputError(
                next(iter(doubled.values()))[0].path.parent,
                expected=f"one scan of each modality of {name}",
                found=found,
                remedy="Give the files that are wanted one by one, or move the others away.",
            )
        )
        return None
    return Subject(name, {channel: sources[0] for channel, sources in images.items()})


def _nameless(path: Path) -> MissingInputError:
    return MissingInputError(
        path,
        expected="a name that says what it is (…_flair.nii.gz, …_T1w.nii.gz, a folder t1ce/)",
        found="none that medrd knows",
        remedy=f"Say it with --modality {'|'.join(MODALITIES)}, or rename it.",
    )
