"""A prepared subject's folder: its files and record, or the reason of a failure."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from medrd.data.cases import Case
from medrd.data.output_names import PREPARED_ENDING, UNPREPARED_ENDING, ending_in
from medrd.draw.heat import save_figure
from medrd.errors import InputError, MedrdError, OutputError
from medrd.files import file_hash, read_json, refuse_foreign, write_json
from medrd.images.nifti import write_nifti
from medrd.images.volume import Volume
from medrd.preparation.figure import draw_prepared
from medrd.preparation.head import PreparedHead
from medrd.preparation.linear import write_transform
from medrd.preparation.record import Origin, PreparedRecord
from medrd.preparation.sample import resample
from medrd.preparation.template import Template
from medrd.run.output_folder import refuse_others
from medrd.run.outputs import remove
from medrd.run.provenance import versions
from medrd.run.record import OutputFile, Record

FAILED_PICTURE = "_failed.png"


def check_folder(folder: Path, case: Case, *, overwrite: bool) -> None:
    """Check that the content of a subject's folder may be replaced.

    Raises
    ------
    OutputError
        The folder has files that medrd did not write; or, without ``overwrite``, a result of other
        scans that still exist: another subject of that name.
    """
    record = Record.read(folder / f"{case.subject.id}{PREPARED_ENDING}")
    refuse_foreign(folder, _written_in(case.subject.id, record))
    if not overwrite:
        refuse_others(folder, record, case, whole=True)


def write_head(
    folder: Path,
    head: PreparedHead,
    raw: Mapping[str, Volume],
    case: Case,
    template: Template,
    identity: Mapping[str, Any],
) -> None:
    """Write everything about a subject, the record last."""
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
    draw(paths["picture"], head, case, template)
    origins = {
        channel: Origin.of(volume, head.to_raw[channel], str(images[channel].path.absolute()))
        for channel, volume in raw.items()
    }
    PreparedRecord(
        subject=name,
        # Absolute paths, because a later call may run in another folder.
        inputs={channel: str(source.path.absolute()) for channel, source in images.items()},
        series={channel: source.series for channel, source in images.items()},
        template=template.name,
        quality=head.quality,
        warnings=head.warnings(),
        outputs={
            key: OutputFile(file=path.relative_to(folder).as_posix(), sha256=file_hash(path))
            for key, path in paths.items()
        },
        origins=origins,
        versions=versions(),
        notice="Research use only; not a medical device.",
        identity=dict(identity),
    ).write(folder / f"{name}{PREPARED_ENDING}")


def draw(path: Path, head: PreparedHead, case: Case, template: Template) -> None:
    """Write the figure for visual checks."""
    outline = resample(template.region(), template.shape, template.affine, head.to_template)
    figure = draw_prepared(
        {channel: volume.array for channel, volume in head.volumes.items()},
        template.affine,
        brain=head.brain,
        template=np.asarray(outline.array > 0.5),
        title=f"{case.subject.id} — " + "; ".join(head.quality.failures() or ["prepared"]),
    )
    save_figure(figure, path)


def keep_failure(folder: Path, case: Case, error: InputError) -> None:
    """Write why a subject failed, for later calls and other processes on the same ``--out``.

    Nothing is written if the folder is not writable or has files that medrd did not write.
    """
    name = case.subject.id
    with suppress(OutputError):
        record = Record.read(folder / f"{name}{PREPARED_ENDING}")
        refuse_foreign(folder, _written_in(name, record))
        write_json(folder / f"{name}{UNPREPARED_ENDING}", error.to_dict())


def forget_failure(folder: Path, case: Case) -> None:
    """Remove an earlier failure of a subject that is prepared now. Raises OutputError."""
    for ending in (FAILED_PICTURE, UNPREPARED_ENDING):
        remove(folder / f"{case.subject.id}{ending}")


def kept_failures(out: Path) -> list[MedrdError]:
    """The errors of subjects below a folder that failed in any call."""
    errors = (MedrdError.from_dict(read_json(p)) for p in ending_in(out, UNPREPARED_ENDING))
    return [error for error in errors if error is not None]


def _written_in(name: str, record: Record | None) -> set[str]:
    """The files that an earlier call wrote into a subject's folder."""
    endings = (PREPARED_ENDING, FAILED_PICTURE, UNPREPARED_ENDING)
    listed = {output.file for output in record.outputs.values()} if record else set()
    return listed | {f"{name}{ending}" for ending in endings}
