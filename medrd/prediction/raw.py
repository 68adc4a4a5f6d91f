"""``medrd predict --prepare``: prepares raw heads below ``--out``, and finds them there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from medrd.data.cases import Case
from medrd.data.names import MODALITIES
from medrd.errors import ConfigError, InputError
from medrd.images.header import DEFAULT_MAX_VOXELS
from medrd.prediction.options import PredictOptions
from medrd.preparation.prepare import prepare
from medrd.preparation.record import PreparedRecord
from medrd.run.model_folder import Model

logger = logging.getLogger("medrd.predict")

PREPARED_FOLDER = "prepared"


def prepare_cases(
    inputs: Sequence[Path], out: Path, model: Model, options: PredictOptions
) -> tuple[list[Case], list[InputError], list[Path]]:
    """Prepare heads into ``<out>/prepared``; return their cases, the errors, and the raw files.

    A scan whose name does not give its modality counts as the model's, if the model takes only one.

    Raises
    ------
    ConfigError
        A shard is requested, which ``--prepare`` does not support.
    MedrdError
        See :func:`medrd.preparation.prepare.prepare`.
    """
    if options.shard:
        raise ConfigError(
            "--prepare",
            expected="a call for all inputs",
            found=f"--shard {options.shard}",
            remedy="Run medrd prepare first, and predict its folder with --native.",
        )
    modality, *others = model.recipe.layout.modalities
    prepared = prepare(
        inputs,
        out / PREPARED_FOLDER,
        modality=modality if modality in MODALITIES and not others else None,
        must_use=False,
        needed=model.recipe.layout.modalities,
        frame=options.frame,
        series=options.series,
        overwrite=options.overwrite,
        max_voxels=options.max_voxels or DEFAULT_MAX_VOXELS,
    )
    records = [*prepared.done, *prepared.skipped]
    if not records:
        return [], prepared.errors, []
    # The whole folder, as the outputs mirror its tree; earlier calls may have prepared more.
    folders = {record.parent for record in records}
    cases, errors, _ = model.kind.find([out / PREPARED_FOLDER], frame=None, series=None)
    ours = [e for e in errors if not folders.isdisjoint((Path(e.where), Path(e.where).parent))]
    for problem in ours:
        logger.error("%s", problem)
    raw = [PreparedRecord.load(r, remedy="Prepare the raw scan again.").inputs for r in records]
    return (
        [case for case in cases if case.first_file.parent in folders],
        [*prepared.errors, *ours],
        [Path(path) for paths in raw for path in paths.values()],
    )
