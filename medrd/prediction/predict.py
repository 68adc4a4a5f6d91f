"""``medrd predict``: scans or pictures in, anomaly maps on their own grids out.

Here is the loop over the inputs; :mod:`medrd.prediction.case` deals with each of them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from medrd.data.cases import Case
from medrd.data.output_names import files_of
from medrd.errors import ConfigError, InputError
from medrd.prediction.bids import describe_derivative
from medrd.prediction.case import Done, Job, Outcome
from medrd.prediction.guard import check_strict
from medrd.prediction.options import DEFAULTS, PredictOptions
from medrd.prediction.report import Report, find_records, report_predictions
from medrd.prediction.work import PredictWork
from medrd.run.failures import REPORT_STEP, Failure, all_failures, write_failures
from medrd.run.folder_lock import alone_in
from medrd.run.model_folder import Model, load_model
from medrd.run.outputs import make_folder
from medrd.run.progress import progress
from medrd.run.shard import Shard
from medrd.run.signals import InterruptedRunError, stop_on_signals
from medrd.runner.runner import HERE, Runner
from medrd.runner.shared_model import SharedModel

logger = logging.getLogger("medrd.predict")


@dataclass
class PredictReport:
    """What happened to each input.

    Attributes
    ----------
    done, skipped
        Paths of the ``<stem>.json`` files: written now, or valid from an earlier run.
    errors
        Inputs that failed in this call. ``errors.json`` also lists those that failed in earlier
        calls, as long as they exist and are not predicted.
    page
        The report, if one was asked for.
    """

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)
    page: Report | None = None


def predict(
    model: str | Path | Model,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    frame: int | None = None,
    series: str | None = None,
    max_voxels: int | None = None,
    device: str = "auto",
    strict: bool = False,
    picture: bool = True,
    native: bool = False,
    report: bool = False,
    shard: Shard | None = None,
    runner: Runner = HERE,
) -> PredictReport:
    """Predict scans or pictures; see :func:`predict_inputs`.

    The other keywords are the fields of :class:`medrd.prediction.options.PredictOptions`, which
    explains them.
    """
    options = PredictOptions(
        overwrite=overwrite,
        frame=frame,
        series=series,
        max_voxels=max_voxels,
        device=device,
        strict=strict,
        picture=picture,
        native=native,
        report=report,
        shard=shard,
    )
    return predict_inputs(model, inputs, out, options, runner=runner)


def predict_inputs(
    model: str | Path | Model,
    inputs: Sequence[str | Path],
    out: str | Path,
    options: PredictOptions = DEFAULTS,
    *,
    runner: Runner = HERE,
) -> PredictReport:
    """Predict scans or pictures one at a time, reading the next while one computes.

    Memory does not grow with their number. An input that fails is reported in the result and in
    ``errors.json``, and the others are done.

    Parameters
    ----------
    model
        A run folder, its ``model/``, or a loaded model.
    inputs
        Scans (:data:`medrd.images.formats.SCAN_ENDINGS`), BraTS subject folders, BIDS datasets (the
        results are then a BIDS derivative), DICOM series (a folder, or one of its files), folders
        of those. For a model of pictures: picture files and folders of those.
    runner
        Who does the work: this process, or :class:`medrd.runner.on_ray.Ray`.

    Raises
    ------
    MedrdError
        Unusable model, nothing to do, two inputs with one output, a frame of a picture, or
        ``strict`` with a model that has no profile of its training scans.
    InterruptedRunError
        On SIGTERM or Ctrl-C, after the input under way.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    if options.native and not loaded.kind.volumetric:
        raise ConfigError(
            "--native",
            expected="a model of scans, which medrd prepare can write",
            found="one of pictures",
            remedy="Leave --native out: maps are on the picture's own grid.",
        )
    if options.shard and options.report:
        raise ConfigError(
            "--report",
            expected="a call for all inputs",
            found=f"--shard {options.shard}",
            remedy="Leave --report out, and run medrd report when all shards are done.",
        )
    cases, errors = loaded.kind.find(
        [Path(p) for p in inputs], frame=options.frame, series=options.series
    )
    for problem in errors:
        logger.error("%s", problem)
    describe_derivative(cases, Path(out))
    return predict_cases(loaded, cases, Path(out), options, errors=errors, runner=runner)


def predict_cases(
    loaded: Model,
    cases: Sequence[Case],
    out: Path,
    options: PredictOptions = DEFAULTS,
    *,
    errors: Sequence[InputError] = (),
    runner: Runner = HERE,
) -> PredictReport:
    """Predict what :func:`predict_inputs` has found; ``errors`` are about the rest."""
    if options.strict:
        check_strict(loaded, [case.subject for case in cases])
    result = PredictReport()
    files = loaded.kind.files
    given = {path.resolve() for case in cases for path in case.subject.files}
    job = Job(out, options, frozenset(given))
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
                "kept. Run the same command again to go on."
            )
    finally:
        # In the order of the inputs, whatever the order in which they were done.
        ended = [case for case in cases if record_of(case) in outcomes]
        failed = [(Path(error.where), error) for error in errors]
        failed += [
            (case.first_file, outcome)
            for case in ended
            if isinstance(outcome := outcomes[record_of(case)], InputError)
        ]
        result.errors = [error for _, error in failed]
        with _alone_at_errors(out, options.shard):
            known = [path for case in ended for path in case.subject.files]
            listed = all_failures(out, failed, known)
            write_failures(out, listed)
    result.done += [record for record in records if isinstance(outcomes[record], Done)]
    result.skipped += [record for record in records if outcomes[record] is None]
    if options.report and (result.done or result.skipped):
        result.page = report_predictions(out, find_records(out))
        unshown = [Failure(error, step=REPORT_STEP) for error in result.page.errors]
        write_failures(out, [*listed, *unshown])
    return result


def _alone_at_errors(out: Path, shard: Shard | None) -> AbstractContextManager[None]:
    """Let no other shard change ``errors.json`` between this one's reading and writing it."""
    if shard is None:
        return nullcontext()
    make_folder(out)
    return alone_in(out, "shard", wait=True)
