"""Finds the subjects of ``medrd prepare``, each with all its modalities."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medrd.data.brains.bids import bids_root, bids_subjects
from medrd.data.cases import (
    Case,
    expand_all,
    refuse_nothing,
    refuse_unused_series,
    without_collisions,
)
from medrd.data.folders import folders_below, scans_in
from medrd.data.left_out import LeftOut, log_left_out
from medrd.data.names import (
    MODALITIES,
    is_label_name,
    modality_of_word,
    name_and_modality,
)
from medrd.data.output_names import PREPARED_ENDING
from medrd.data.subject import Source, Subject
from medrd.errors import ConfigError, InputError, MissingInputError
from medrd.images.dicom_series import (
    find_series,
    holds_dicom,
    is_dicom,
    series_of,
    why_no_scan,
    without_index,
)
from medrd.images.formats import SCAN_ENDINGS, is_scan_name, scan_file, scan_stem


@dataclass(frozen=True)
class _Scan:
    """A scan of a subject.

    Attributes
    ----------
    home
        Scans with the same place and name within this folder belong to one subject.
    place, name
        The folder of the subject's results relative to ``--out``, and the subject's name.
    """

    home: Path
    place: Path
    name: str
    modality: str
    source: Source


@dataclass(frozen=True)
class _Options:
    modality: str | None
    frame: int | None
    series: str | None
    nameless: list[Path] = field(default_factory=list)
    """The scans for which ``modality`` was needed."""

    def modality_of(self, path: Path) -> str | None:
        """The modality of a scan whose name does not tell it."""
        self.nameless.append(path)
        return self.modality


def find_raw(
    inputs: Sequence[Path],
    *,
    modality: str | None = None,
    frame: int | None = None,
    series: str | None = None,
    must_use: bool = True,
) -> tuple[list[Case], list[InputError]]:
    """Find subjects in files and folders; errors of unusable inputs are returned.

    Files whose names differ only in the modality belong to one subject, whether they are in one
    folder or in separate ones. So do scans in folders that are named after modalities
    (``patient/flair``, ``patient/T1w``): a series, or the only file in the folder.

    Parameters
    ----------
    modality
        Modality of files and series whose name has none.
    frame
        Index of the frame of 4D files, from 0.
    series
        Series Instance UID, for DICOM folders with several series.
    must_use
        Refuse a modality for which there is no use.

    Raises
    ------
    ConfigError
        There is nothing to do, the modality is unknown, or two inputs have subjects of one name.
    """
    if modality is not None and modality not in MODALITIES:
        raise ConfigError(
            "--modality",
            expected=f"one of {', '.join(MODALITIES)}",
            found=modality,
            remedy="Give the modality of the scans.",
        )
    options = _Options(modality, frame, series)
    errors: list[InputError] = []
    scans: list[_Scan] = []
    inputs = [without_index(path) for path in inputs]
    cases, problems = expand_all(inputs, lambda path, bad: _expand(path, options, scans, bad))
    errors += problems
    cases += _gathered(scans, errors)
    what = "NIfTI files, BIDS datasets, DICOM series or folders of those"
    refuse_nothing(inputs, cases, errors, noun="scan", what=what)
    if not errors:
        refuse_unused_series(series, cases)
        if must_use:
            _refuse_unused_modality(options, cases)
    cases = without_collisions(
        cases,
        errors,
        endings=lambda _: ("",),  # a folder each
        noun="subject",
    )
    return cases, errors


def _refuse_unused_modality(options: _Options, cases: Sequence[Case]) -> None:
    if options.modality is not None and cases and not options.nameless:
        raise ConfigError(
            "--modality",
            expected="a scan whose name does not tell its modality",
            found=f"names that all do, such as {cases[0].first_file.name}",
            remedy="Leave it out, or rename the scans: their names count.",
        )


def _expand(
    path: Path, options: _Options, scans: list[_Scan], errors: list[InputError]
) -> list[Case]:
    """Return the cases of a BIDS dataset; other scans are added to ``scans``."""
    is_folder = path.is_dir() and scan_file(path) is None
    if is_folder and (root := bids_root(path)):
        return _bids(root, path, options, errors)
    if is_folder:
        before = len(scans) + len(errors)
        scans += _below(path, options, errors)
        if len(scans) + len(errors) == before:
            raise MissingInputError(
                path,
                expected=f"a scan ({SCAN_ENDINGS}, DICOM) in this folder or below",
                found="none",
                remedy="Give the folder of a subject, or of subjects.",
            )
    elif is_dicom(path):
        folder = path.parent
        scans.append(_series(folder, folder, options, options.series or series_of(path)))
    elif path.is_file() and not is_scan_name(path):
        raise MissingInputError(
            path,
            expected=f"a scan ({SCAN_ENDINGS}), a DICOM file or a folder",
            found=f"a file named {path.name}",
            remedy="Convert the scan to NIfTI first.",
        )
    else:  # reading reports a missing file
        name, modality = _file(path, options)
        home = _patient(path.parent)
        source = Source(scan_file(path) or path, options.frame)
        scans.append(_Scan(home, Path(), name, modality, source))
    return []


def _below(root: Path, options: _Options, errors: list[InputError]) -> list[_Scan]:
    """The scans in a folder's tree, without prepared ones."""
    result: list[_Scan] = []
    left_out: list[LeftOut] = []
    files: dict[Path, list[tuple[str, str, Path]]] = defaultdict(list)
    for folder in folders_below(root):
        if any(folder.glob(f"*{PREPARED_ENDING}")):
            continue
        here = {p: file for p, file in scans_in(folder).items() if not is_label_name(p)}
        for path, file in here.items():
            try:
                named = _file(path, options, only=len(here) == 1)
                files[_patient(folder)].append((*named, file))
            except InputError as error:
                errors.append(error)
        try:
            series = find_series(folder) if holds_dicom(folder) else []
            asked = options.series
            if series and not asked and folder != root and (reason := why_no_scan(series)):
                left_out.append(LeftOut(folder, reason))
            elif series and (not asked or asked in {one.uid for one in series}):
                result.append(_series(folder, root, options, options.series))
        except InputError as error:
            errors.append(error)
    log_left_out(left_out)
    for patient, scans in files.items():
        # The outputs' tree does not repeat a folder that belongs to a single subject.
        home, place = _where(patient, root, own=len({name for name, _, _ in scans}) == 1)
        result += [
            _Scan(home, place, name, modality, Source(path, options.frame))
            for name, modality, path in scans
        ]
    return result


def _file(path: Path, options: _Options, *, only: bool = False) -> tuple[str, str]:
    """A file's subject and modality; ``only``: it is the only scan in its folder."""
    name, modality = name_and_modality(path)
    if modality not in MODALITIES:  # not told, or another sequence (_adc)
        of_folder = _modality_of_folder(path.parent)
        name = "" if of_folder and only else scan_stem(path)
        modality = of_folder or options.modality_of(path)
    if modality is None:
        raise _nameless(path)
    return name or _patient(path.parent).name, modality


def _series(folder: Path, root: Path, options: _Options, uid: str | None) -> _Scan:
    """A DICOM series, named after its folder, since patients' names must not be disclosed."""
    modality = _modality_of_folder(folder) or options.modality_of(folder)
    if modality is None:
        raise _nameless(folder)
    patient = _patient(folder)
    home, place = _where(patient, root, own=True)
    return _Scan(home, place, patient.name, modality, Source(folder, options.frame, uid))


def _modality_of_folder(folder: Path) -> str | None:
    """The modality after which a folder is named, if any."""
    return modality_of_word(_absolute(folder).name)


def _patient(folder: Path) -> Path:
    """The subject's folder, for a folder with its scans."""
    return _absolute(folder).parent if _modality_of_folder(folder) else _absolute(folder)


def _where(patient: Path, root: Path, *, own: bool) -> tuple[Path, Path]:
    """Home and place of scans in a patient's folder; ``own``: it has only one subject."""
    root = _absolute(root)
    if not patient.is_relative_to(root):
        return patient, Path()
    return root, (patient.parent if own and patient != root else patient).relative_to(root)


def _absolute(path: Path) -> Path:
    """The absolute path with symbolic links kept, as their names may say more."""
    return Path(os.path.abspath(path))


def _bids(root: Path, below: Path, options: _Options, errors: list[InputError]) -> list[Case]:
    """One case per session, with all its modalities."""
    sessions: dict[tuple[Path, str], dict[str, list[Source]]] = {}
    for channel in MODALITIES:
        for subject, place, _ in bids_subjects(root, below, (channel,), errors):
            name = "_".join(
                part for part in subject.id.split("_") if part.startswith(("sub-", "ses-"))
            )
            # The images' folder (anat) is not part of a prepared subject's path.
            images = sessions.setdefault((place.parent, name), {})
            source = Source(subject.images[channel].path, options.frame)
            images.setdefault(channel, []).append(source)
    return [
        Case(session, place)
        for (place, name), images in sessions.items()
        if (session := _subject(name, images, errors))
    ]


def _gathered(scans: Sequence[_Scan], errors: list[InputError]) -> list[Case]:
    """Group the scans of each subject into a case."""
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
    """A subject with one scan per modality; if there are several, None and an error."""
    doubled = {channel: sources for channel, sources in images.items() if len(sources) > 1}
    if doubled:
        listed = "; ".join(
            f"{channel}: {', '.join(str(source.path) for source in sources)}"
            for channel, sources in doubled.items()
        )
        errors.append(
            InputError(
                next(iter(doubled.values()))[0].path.parent,
                expected=f"one scan of each modality of {name}",
                found=listed,
                remedy="Give the files to use one by one, or move the others away.",
            )
        )
        return None
    return Subject(name, {channel: sources[0] for channel, sources in images.items()})


def _nameless(path: Path) -> MissingInputError:
    return MissingInputError(
        path,
        expected="a name with a modality (…_flair.nii.gz, …_T1w.nii.gz, a folder t1ce/)",
        found="a name without one",
        remedy=f"Give it with medrd prepare --modality {'|'.join(MODALITIES)}, or rename the file "
        "or folder.",
    )
