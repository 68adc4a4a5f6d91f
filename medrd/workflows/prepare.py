"""``medrd prepare``: raw heads in, what models were trained on out.

A subject's folder appears under its name when everything in it is written. One whose registration
failed is reported, and leaves nothing but a picture of what went wrong.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medrd.data.cache import file_hash, source_hash
from medrd.data.prepare import refuse_label
from medrd.errors import InputError, RegistrationError
from medrd.heads.brain import Extraction, require_deepbet
from medrd.heads.head import Options, PreparedHead, prepare_head
from medrd.heads.linear import write_transform
from medrd.heads.record import Origin
from medrd.heads.sample import resample
from medrd.heads.template import Template, load_template
from medrd.report.heat import save_figure
from medrd.report.prepared import draw_prepared
from medrd.volumes import (
    DEFAULT_MAX_VOXELS,
    Volume,
    atomic_folder,
    read_volume,
    refuse_foreign,
    write_json,
    write_nifti,
)
from medrd.workflows.inputs import Case
from medrd.workflows.interrupt import InterruptedRunError, stop_on_signals
from medrd.workflows.outputs import PREPARED_ENDING, is_done, write_errors
from medrd.workflows.prepare_inputs import find_raw
from medrd.workflows.progress import progress
from medrd.workflows.report_prepared import write_prepared_page
from medrd.workflows.versions import versions

logger = logging.getLogger("medrd.prepare")

CODE_VERSION = 1
"""Raise it whenever the same scans give other results: subjects are then prepared again."""
FAILED_ENDING = "_failed.png"


@dataclass
class PrepareReport:
    """What happened to each subject.

    Attributes
    ----------
    done, skipped
        Records of subjects: written now, or valid from an earlier run.
    errors
        Inputs that failed.
    page
        What there is to look at.
    """

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)
    page: Path | None = None


@dataclass(frozen=True)
class _Job:
    """What is the same for all subjects."""

    out: Path
    template: Template
    options: Options
    overwrite: bool
    max_voxels: int

    @property
    def identity(self) -> dict[str, Any]:
        """What a finished subject is compared by, besides its scans."""
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
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    template: str | Path | None = None,
    template_mask: str | Path | None = None,
    options: Options | None = None,
    modality: str | None = None,
    frame: int | None = None,
    series: str | None = None,
    overwrite: bool = False,
    max_voxels: int = DEFAULT_MAX_VOXELS,
) -> PrepareReport:
    """Prepare subjects one at a time; see docs/prepare.md.

    Parameters
    ----------
    inputs
        NIfTI files, BIDS datasets, DICOM series, folders of those.
    out
        Gets a folder a subject, in BraTS's layout.
    template, template_mask
        NIfTI; default: MNI152 as nilearn carries it.
    options
        What is done.
    modality, frame, series
        See :func:`medrd.workflows.prepare_inputs.find_raw`.
    overwrite
        Prepare again what is already there.
    max_voxels
        Larger scans are refused unread.

    Raises
    ------
    MedrdError
        An unusable template, nothing to do, or two subjects of one name.
    InterruptedRunError
        On SIGTERM or Ctrl-C, after the subject under way.
    """
    options = options or Options()
    if options.extraction is Extraction.deepbet:
        require_deepbet()
    cases, errors = find_raw(
        [Path(p) for p in inputs], modality=modality, frame=frame, series=series
    )
    for problem in errors:
        logger.error("%s", problem)
    result = PrepareReport(errors=list(errors))
    job = _Job(
        Path(out),
        load_template(_path(template), _path(template_mask)),
        options,
        overwrite,
        max_voxels,
    )
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
                "same command again to go on."
            )
    finally:
        write_errors(job.out, result.errors)
    if result.done or result.skipped:
        result.page = write_prepared_page(job.out, result.errors)
    return result


def _run(case: Case, job: _Job, result: PrepareReport) -> str:
    """Prepare a subject, enter it into the result, and say in a word what became of it."""
    try:
        hashes = {c: source_hash(s) for c, s in case.subject.images.items()}
        if not job.overwrite and is_done(job.record(case), hashes, job.identity):
            result.skipped.append(job.record(case))
            return "already there"
        _prepare(case, job, hashes)
    except InputError as error:
        logger.error("%s", error)
        result.errors.append(error)
        return "failed"
    result.done.append(job.record(case))
    return "done"


def _prepare(case: Case, job: _Job, hashes: dict[str, str]) -> None:
    folder = job.folder(case)
    refuse_foreign(folder, _written_in(folder, case.subject.id))
    volumes = {}
    for channel, source in case.subject.images.items():
        volumes[channel] = read_volume(
            source.path, frame=source.frame, series=source.series, max_voxels=job.max_voxels
        )
        refuse_label(volumes[channel])
    head = prepare_head(volumes, job.template, job.options)
    failures = head.quality.failures()
    with atomic_folder(folder) as partial:
        if failures:
            _draw(head, job, case, partial / f"{case.subject.id}{FAILED_ENDING}")
        else:
            _write(head, volumes, job, case, hashes, partial)
    if failures:
        picture = folder / f"{case.subject.id}{FAILED_ENDING}"
        raise RegistrationError(
            case.first_file.parent if len(volumes) > 1 else case.first_file,
            expected="a head that can be brought to the template",
            found="; ".join(failures),
            remedy=f"Look at {picture}, and at the scan's orientation and field of view; nothing "
            "else was written of this subject.",
        )


def _write(
    head: PreparedHead,
    volumes: dict[str, Volume],
    job: _Job,
    case: Case,
    hashes: dict[str, str],
    folder: Path,
) -> None:
    """Everything of a subject, the record last."""
    name, images = case.subject.id, case.subject.images
    like = next(iter(head.volumes.values()))
    paths = {}
    for channel, volume in head.volumes.items():
        paths[channel] = folder / f"{name}_{channel}.nii.gz"
        write_nifti(
            paths[channel], volume.array, volume, dtype="float32", description="prepared head"
        )
        transform = f"from-{channel}_to-prepared_mode-image_xfm"
        paths[transform] = folder / "transforms" / f"{name}_{transform}.tfm"
        write_transform(paths[transform], head.to_raw[channel])
    onto = "from-template_to-prepared_mode-image_xfm"
    paths[onto] = folder / "transforms" / f"{name}_{onto}.tfm"
    write_transform(paths[onto], head.to_template)
    paths["brain"] = folder / f"{name}_brain_mask.nii.gz"
    write_nifti(paths["brain"], head.brain, like, dtype="uint8", description="brain")
    paths["picture"] = folder / f"{name}_prepare.png"
    _draw(head, job, case, paths["picture"])
    origins = {
        channel: Origin.of(volume, head.to_raw[channel], str(images[channel].path))
        for channel, volume in volumes.items()
    }
    warnings = [
        f"{channel}: {text}" for channel, volume in volumes.items() for text in volume.warnings
    ]
    write_json(
        folder / f"{name}{PREPARED_ENDING}",
        {
            "subject": name,
            "inputs": {channel: str(source.path) for channel, source in images.items()},
            "template": job.template.name,
            "quality": head.quality.to_dict(),
            "warnings": [*warnings, *head.quality.warnings()],
            "outputs": {
                key: {"file": path.relative_to(folder).as_posix(), "sha256": file_hash(path)}
                for key, path in paths.items()
            },
            "origins": {channel: origin.to_dict() for channel, origin in origins.items()},
            "versions": versions(),
            "notice": "Research use only; not a medical device.",
            "identity": {**job.identity, "inputs": hashes},
        },
    )


def _draw(head: PreparedHead, job: _Job, case: Case, path: Path) -> None:
    template = job.template
    outline = resample(template.region(), template.shape, template.affine, head.to_template)
    figure = draw_prepared(
        {channel: volume.array for channel, volume in head.volumes.items()},
        template.affine,
        brain=head.brain,
        template=np.asarray(outline.array > 0.5),
        title=f"{case.subject.id} — " + "; ".join(head.quality.failures() or ["prepared"]),
    )
    save_figure(figure, path)


def _written_in(folder: Path, name: str) -> set[str]:
    """The files that an earlier call wrote there, as far as its record can be read."""
    try:
        record = json.loads((folder / f"{name}{PREPARED_ENDING}").read_text(encoding="utf-8"))
        listed = {entry["file"] for entry in record["outputs"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        listed = set()
    return listed | {f"{name}{PREPARED_ENDING}", f"{name}{FAILED_ENDING}"}


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
