"""``medrd prepare``: turns raw scans of heads into scans like those of BraTS.

A subject's folder gets its name when everything in it is written. A failed subject is reported;
only the reason and, if possible, a figure are written, and an earlier result is kept.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medrd.data.brains.find import with_channels
from medrd.data.brains.prepare import refuse_label
from medrd.data.cache import source_hash
from medrd.data.cases import Case
from medrd.data.output_names import PREPARED_ENDING
from medrd.data.subject import Source
from medrd.errors import InputError, OutputError, RegistrationError, SeriesError, ShapeError
from medrd.extras import require_extra
from medrd.files import as_paths, atomic_folder, remove_abandoned
from medrd.images.header import DEFAULT_MAX_VOXELS
from medrd.images.read import read_volume
from medrd.images.volume import Volume
from medrd.preparation.head import PreparedHead, prepare_head
from medrd.preparation.inputs import find_raw
from medrd.preparation.options import PrepareOptions
from medrd.preparation.outputs import (
    FAILED_PICTURE,
    check_folder,
    draw,
    forget_failure,
    keep_failure,
    kept_failures,
    write_head,
)
from medrd.preparation.programs import find_extractor
from medrd.preparation.report import write_prepared_page
from medrd.preparation.template import Template, load_template
from medrd.run.failures import write_errors
from medrd.run.input_errors import catch_input_error
from medrd.run.progress import progress
from medrd.run.record import Record
from medrd.run.signals import InterruptedRunError, stop_on_signals

logger = logging.getLogger("medrd.prepare")

CODE_VERSION = 3
"""Increase it whenever the same scans give other results, so that subjects are prepared again."""


@dataclass
class PrepareReport:
    """The outcomes of all subjects.

    Attributes
    ----------
    done, skipped
        Records of subjects: written now, or valid from an earlier run.
    errors
        Errors of inputs that failed in this call. ``errors.json`` and the page also list those of
        earlier calls, until their subjects are prepared.
    page
        The page with the figures; None if it could not be written.
    """

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)
    page: Path | None = None


@dataclass(frozen=True)
class _Job:
    """The settings of a call, which are the same for all subjects."""

    out: Path
    template: Template
    options: PrepareOptions
    overwrite: bool
    max_voxels: int

    @property
    def identity(self) -> dict[str, Any]:
        """The settings on which a subject's result depends, besides its scans."""
        return {
            "code": CODE_VERSION,
            "template": self.template.hash,
            "options": json.loads(json.dumps(asdict(self.options))),
        }

    def folder(self, case: Case) -> Path:
        return self.out / case.place / case.subject.id

    def record(self, case: Case) -> Path:
        return self.folder(case) / f"{case.subject.id}{PREPARED_ENDING}"


def prepare(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    template: str | Path | None = None,
    template_mask: str | Path | None = None,
    options: PrepareOptions | None = None,
    modality: str | None = None,
    frame: int | None = None,
    series: str | None = None,
    must_use: bool = True,
    needed: Sequence[str] = (),
    overwrite: bool = False,
    max_voxels: int = DEFAULT_MAX_VOXELS,
) -> PrepareReport:
    """Prepare subjects one at a time; see docs/prepare.md.

    Parameters
    ----------
    inputs
        NIfTI files, BIDS datasets, DICOM series, folders of those.
    out
        The folder for one folder per subject, in BraTS's layout.
    template, template_mask
        NIfTI files; default: MNI152 from nilearn.
    options
        The options of the preparation.
    modality, frame, series, must_use
        See :func:`medrd.preparation.inputs.find_raw`.
    needed
        Subjects without one of these modalities are errors, and are not prepared.
    overwrite
        Prepare finished subjects again.
    max_voxels
        Larger scans are refused before they are read.

    Raises
    ------
    MissingExtraError
        If SimpleITK is not installed, or the program for brain extraction.
    MedrdError
        The template cannot be used, there is nothing to do, or two subjects have one name.
    InterruptedRunError
        SIGTERM or Ctrl-C stopped it after the current subject.
    """
    options = options or PrepareOptions()
    require_extra("prepare", "medrd prepare")
    find_extractor(options.extraction)
    cases, errors = find_raw(
        as_paths(inputs), modality=modality, frame=frame, series=series, must_use=must_use
    )
    cases = [case for case in cases if _has(case, needed, errors)]
    for problem in errors:
        logger.error("%s", problem)
    result = PrepareReport(errors=list(errors))
    space = load_template(_path(template), _path(template_mask))
    job = _Job(Path(out), space, options, overwrite, max_voxels)
    remove_abandoned(job.out)
    count = 0
    try:
        with stop_on_signals() as stop, progress("preparing", len(cases)) as advance:
            for case in cases:
                if stop:
                    break
                advance(note=f"{case.subject.id}: {_run(case, job, result)}")
                count += 1
        if count < len(cases):
            raise InterruptedRunError(
                f"stopped after {count} of {len(cases)} subjects; finished ones are kept. Run the "
                "same command again to continue."
            )
    finally:
        listed = {str(error): error for error in (*kept_failures(job.out), *result.errors)}
        write_errors(job.out, list(listed.values()))
    if result.done or result.skipped:
        try:
            result.page = write_prepared_page(job.out, list(listed.values()))
        except OutputError as error:  # the results themselves are written
            logger.warning("%s", error)
    return result


def _has(case: Case, needed: Sequence[str], errors: list[InputError]) -> bool:
    """Whether a subject has these modalities; if not, its error is added."""
    try:
        with_channels(case, needed)
    except InputError as error:
        errors.append(error)
        return False
    return True


def _run(case: Case, job: _Job, result: PrepareReport) -> str:
    """Prepare a subject, add it to the result, and return its state for the progress bar."""
    start = time.perf_counter()
    outcome = catch_input_error(case.first_file, lambda: _prepare(case, job))
    if isinstance(outcome, InputError):
        logger.error("%s", outcome)
        result.errors.append(outcome)
        if not isinstance(outcome, OutputError):
            keep_failure(job.folder(case), case, outcome)
        return "failed"
    if not outcome:
        result.skipped.append(job.record(case))
        return "already there"
    logger.info("%s: prepared in %.0f s", case.subject.id, time.perf_counter() - start)
    result.done.append(job.record(case))
    return "done"


def _prepare(case: Case, job: _Job) -> bool:
    """Prepare a subject; False if an earlier result is valid."""
    folder = job.folder(case)
    identity = {
        **job.identity,
        "inputs": {c: source_hash(s) for c, s in case.subject.images.items()},
    }
    if not job.overwrite and _is_done(folder, job.record(case), identity):
        forget_failure(folder, case)
        return False
    check_folder(folder, case, overwrite=job.overwrite)
    volumes = {}
    for channel, source in case.subject.images.items():
        logger.debug("%s: %s is %s", case.subject.id, channel, source.path)
        volumes[channel] = _read(source, job.max_voxels)
        refuse_label(volumes[channel])
    head = _made(case, volumes, job)
    if failures := head.quality.failures():
        # An earlier result of the subject is kept.
        picture = folder / f"{case.subject.id}{FAILED_PICTURE}"
        draw(picture, head, case, job.template)
        raise _failed(
            case,
            "; ".join(failures),
            f"Look at {picture}, and check the scan's orientation and field of view; nothing else "
            "was written for this subject.",
        )
    try:
        with atomic_folder(folder) as unfinished:
            write_head(unfinished, head, volumes, case, job.template, identity)
    except OutputError:
        # Another process may have prepared the subject meanwhile.
        if _is_done(folder, job.record(case), identity):
            return False
        raise
    for text in head.warnings():
        logger.warning("%s: %s", case.subject.id, text)
    return True


def _is_done(folder: Path, path: Path, identity: Mapping[str, Any]) -> bool:
    record = Record.read(path)
    return record is not None and record.is_current(folder, identity)


def _read(source: Source, max_voxels: int) -> Volume:
    """Read a scan; ``--frame`` applies only to those of a subject's scans that have frames."""
    read = partial(read_volume, source.path, series=source.series, max_voxels=max_voxels)
    if source.frame is None:
        return read()
    try:
        return read(frame=source.frame)
    except (ShapeError, SeriesError) as error:
        try:
            return read()
        except InputError:
            raise error from None


def _made(case: Case, volumes: dict[str, Volume], job: _Job) -> PreparedHead:
    """Prepare the head; errors of ITK and LAPACK become errors of its scans."""
    try:
        head = prepare_head(volumes, job.template, job.options)
    except (RuntimeError, np.linalg.LinAlgError) as error:
        found = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise _failed(
            case, found, "Check that each of its scans shows a whole head, with contrast."
        ) from None
    quality = head.quality
    logger.debug(
        "%s: reference %s, brain %s, contrast %.2f to the template%s",
        case.subject.id,
        quality.reference,
        quality.brain,
        quality.to_template.contrast,
        "".join(f", {a.contrast:.2f} of {c}" for c, a in quality.to_reference.items()),
    )
    return head


def _failed(case: Case, found: str, remedy: str) -> RegistrationError:
    several = len(case.subject.images) > 1
    return RegistrationError(
        case.first_file.parent if several else case.first_file,
        expected="a head that can be registered to the template",
        found=found,
        remedy=remedy,
    )


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
