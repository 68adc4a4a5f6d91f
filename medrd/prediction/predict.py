"""``medrd predict``: writes anomaly maps of scans or pictures on their own grids.

This module loops over the inputs; :mod:`medrd.prediction.case` processes each of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from medrd.data.cases import Case
from medrd.data.left_out import LeftOut, log_left_out
from medrd.data.output_names import files_of
from medrd.errors import ConfigError, InputError
from medrd.extras import require_extra
from medrd.files import as_paths
from medrd.prediction.bids import describe_derivative
from medrd.prediction.case import Done, Job, Outcome
from medrd.prediction.guard import check_strict
from medrd.prediction.options import DEFAULTS, PredictKeywords, PredictOptions
from medrd.prediction.raw import prepare_cases
from medrd.prediction.work import PredictWork
from medrd.run.builtin import LIMIT
from medrd.run.failures import REPORT_STEP, Failure, all_failures, write_failures
from medrd.run.folder_lock import lock_folder
from medrd.run.model_folder import Model, load_model
from medrd.run.outputs import make_folder
from medrd.run.progress import progress
from medrd.run.shard import Shard
from medrd.run.signals import InterruptedRunError, stop_on_signals
from medrd.runner.runner import HERE, Runner
from medrd.runner.shared_model import SharedModel

if TYPE_CHECKING:
    from medrd.prediction.report import HtmlReport

logger = logging.getLogger("medrd.predict")


@dataclass
class PredictReport:
    """The outcomes of all inputs.

    Attributes
    ----------
    done, skipped
        Paths of the ``<stem>.json`` files: written now, or valid from an earlier run.
    errors
        Errors of inputs that failed in this call. ``errors.json`` also lists those of earlier
        calls, as long as their inputs exist and are not predicted.
    page
        The report, if requested.
    left_out
        Scans or pictures beside the inputs that were not taken, with the reason.
    """

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)
    page: HtmlReport | None = None
    left_out: list[LeftOut] = field(default_factory=list)


def predict(
    model: str | Path | Model | None,
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    runner: Runner = HERE,
    **options: Unpack[PredictKeywords],
) -> PredictReport:
    """Predict scans or pictures; see :func:`predict_inputs`.

    The other keywords are the fields of :class:`medrd.prediction.options.PredictOptions`, which
    explains them.
    """
    if unknown := options.keys() - PredictKeywords.__annotations__.keys():
        raise TypeError(f"predict() got an unexpected keyword argument {min(unknown)!r}")
    return predict_inputs(model, inputs, out, PredictOptions(**options), runner=runner)


def predict_inputs(
    model: str | Path | Model | None,
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    options: PredictOptions = DEFAULTS,
    *,
    runner: Runner = HERE,
) -> PredictReport:
    """Predict scans or pictures one at a time, reading the next while one computes.

    Memory does not grow with their number. If an input fails, its error is in the result and in
    ``errors.json``, and the others are still predicted.

    Parameters
    ----------
    model
        A run folder, its ``model/``, or a loaded model; None for the built-in one.
    inputs
        Scans (:data:`medrd.images.formats.SCAN_ENDINGS`), BraTS subject folders, BIDS datasets (the
        results are then a BIDS derivative), DICOM series (a folder, or one of its files), folders
        of those. For a model of pictures: picture files and folders of those.
    runner
        Runs the work in this process, or in others with :class:`medrd.runner.on_ray.Ray`.

    Raises
    ------
    MedrdError
        The model cannot be used, there is nothing to do, two inputs have the same output, a frame
        is given for a picture, or ``strict`` for a model without a profile of its training scans.
    InterruptedRunError
        SIGTERM or Ctrl-C stopped it after the current input.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    if (options.native or options.prepare) and not loaded.kind.volumetric:
        name = "--prepare" if options.prepare else "--native"
        raise ConfigError(
            name,
            expected="a model of scans that medrd prepare can write",
            found="a model of pictures",
            remedy=f"Remove {name}: maps are on the picture's own grid.",
        )
    if options.dicom:
        require_extra("dicom", "--dicom")
        if not loaded.kind.volumetric:
            raise ConfigError(
                "--dicom",
                expected="a model of scans",
                found="one of pictures",
                remedy="Leave --dicom out.",
            )
    elif options.keep_names:
        raise ConfigError(
            "--keep-names",
            expected="--dicom, whose objects can hold names",
            found="no --dicom",
            remedy="Leave --keep-names out, or add --dicom.",
        )
    if options.shard and options.report:
        raise ConfigError(
            "--report",
            expected="a call for all inputs",
            found=f"--shard {options.shard}",
            remedy="Remove --report, and run medrd report when all shards are done.",
        )
    if options.prepare:
        cases, errors, raw = prepare_cases(as_paths(inputs), Path(out), loaded, options)
        options = replace(options, native=True)
        return predict_cases(
            loaded, cases, Path(out), options, errors=errors, raw=raw, runner=runner
        )
    cases, errors, left_out = loaded.kind.find(
        as_paths(inputs), frame=options.frame, series=options.series
    )
    for problem in errors:
        logger.error("%s", problem)
    log_left_out(left_out)
    describe_derivative(cases, Path(out))
    result = predict_cases(loaded, cases, Path(out), options, errors=errors, runner=runner)
    return replace(result, left_out=left_out)


def predict_cases(
    loaded: Model,
    cases: Sequence[Case],
    out: Path,
    options: PredictOptions = DEFAULTS,
    *,
    errors: Sequence[InputError] = (),
    raw: Sequence[Path] = (),
    runner: Runner = HERE,
) -> PredictReport:
    """Predict the cases that :func:`predict_inputs` found.

    ``errors`` are those of unusable inputs; ``raw`` are the files from which the cases were
    prepared.
    """
    if options.strict:
        check_strict(loaded, [case.subject for case in cases])
    result = PredictReport()
    files = loaded.kind.files
    protected = {Path(os.path.realpath(path)) for case in cases for path in case.subject.files}
    job = Job(out, options, frozenset(protected))
    if options.shard:
        cases = options.shard.of(sorted(cases, key=lambda case: case.output(Path(), "")))
    work = PredictWork(SharedModel(loaded), job)
    outcomes: dict[Path, Outcome] = {}

    def record_of(case: Case) -> Path:
        return case.output(out, files_of(case, files).record)

    records = [record_of(case) for case in cases]
    try:
        with (
            stop_on_signals() as stop,
            closing(runner.map(work, cases, lambda: bool(stop))) as results,
            progress("predicting", len(cases)) as advance,
        ):
            for index, outcome in results:
                case = cases[index]
                outcomes[record_of(case)] = outcome
                if outcome is None:
                    advance(note=f"{case.subject.id}: already there")
                elif isinstance(outcome, InputError):
                    logger.error("%s", outcome)
                    advance(note=f"{case.subject.id}: failed")
                else:
                    for text in outcome.differences:
                        logger.warning("%s is unlike the training scans: %s", case.first_file, text)
                    advance(note=f"{case.subject.id}: score {outcome.score:.3f}")
        if len(outcomes) < len(cases):
            raise InterruptedRunError(
                f"stopped after {len(outcomes)} of {len(cases)} {files.noun}s; finished ones are "
                "kept. Run the same command again to continue."
            )
    finally:
        # Errors are listed in the order of the inputs, in whatever order these were processed.
        ended = [case for case in cases if record_of(case) in outcomes]
        failed = [(Path(error.where), error) for error in errors]
        failed += [
            (case.first_file, outcome)
            for case in ended
            if isinstance(outcome := outcomes[record_of(case)], InputError)
        ]
        result.errors = [error for _, error in failed]
        with _lock_errors(out, options.shard):
            files_seen = [*raw, *(path for case in ended for path in case.subject.files)]
            listed = all_failures(out, failed, files_seen)
            write_failures(out, listed)
    result.done += [record for record in records if isinstance(outcomes[record], Done)]
    result.skipped += [record for record in records if outcomes[record] is None]
    if loaded.built_in and (result.done or result.skipped):
        logger.info("%s", LIMIT)
    if options.report and (result.done or result.skipped):
        from medrd.prediction.report import find_records, report_predictions

        result.page = report_predictions(out, find_records(out))
        unshown = [Failure(error, step=REPORT_STEP) for error in result.page.errors]
        write_failures(out, [*listed, *unshown])
    return result


def _lock_errors(out: Path, shard: Shard | None) -> AbstractContextManager[None]:
    """Keep other shards from changing ``errors.json`` while this one updates it."""
    if shard is None:
        return nullcontext()
    make_folder(out)
    return lock_folder(out, "shard", wait=True)
