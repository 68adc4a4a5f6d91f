"""``medrd predict``: scans or pictures in, anomaly maps on their own grids out.

Here is the loop over the inputs; :mod:`medrd.prediction.case` deals with each of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medrd.errors import ConfigError, InputError
from medrd.prediction.bids import describe_derivative
from medrd.prediction.case import CasePredictor, Done, Job, Outcome
from medrd.prediction.guard import check_strict
from medrd.prediction.medium import medium_of
from medrd.prediction.options import DEFAULTS, PredictOptions
from medrd.prediction.report import Report, find_records, report_predictions
from medrd.run.cases import Case
from medrd.run.failures import REPORT_STEP, Failure, all_failures, write_failures
from medrd.run.model_folder import Model, load_model
from medrd.run.outputs import files_of
from medrd.run.progress import progress
from medrd.run.read_ahead import read_ahead
from medrd.run.signals import InterruptedRunError, stop_on_signals

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


Do = Callable[[Model, Job, Sequence[Case], Callable[[], bool]], Iterable[tuple[Case, Outcome]]]
"""(model, job, cases, should_stop) -> the cases in the order in which they are done. It ends before
the last one where ``should_stop`` says so."""


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
    do: Do | None = None,
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
    )
    return predict_inputs(model, inputs, out, options, do=do)


def predict_inputs(
    model: str | Path | Model,
    inputs: Sequence[str | Path],
    out: str | Path,
    options: PredictOptions = DEFAULTS,
    *,
    do: Do | None = None,
) -> PredictReport:
    """Predict scans or pictures one at a time, reading the next while one computes.

    Memory does not grow with their number. An input that fails is reported in the result and in
    ``errors.json``, and the others are done.

    Parameters
    ----------
    model
        A run folder, its ``model/``, or a loaded model.
    inputs
        NIfTI files, BraTS subject folders, BIDS datasets (the results are then a BIDS
        derivative), DICOM series (a folder, or one of its files), folders of those. For a model
        of pictures: picture files and folders of those.
    do
        Who does the work; default: this process. See :mod:`medrd.prediction.on_ray`.

    Raises
    ------
    MedrdError
        Unusable model, nothing to do, two inputs with one output, a frame of a picture, or
        ``strict`` with a model that has no profile of its training scans.
    InterruptedRunError
        On SIGTERM or Ctrl-C, after the input under way.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    if options.native and loaded.recipe.kind == "pictures":
        raise ConfigError(
            "--native",
            expected="a model of scans, which medrd prepare can write",
            found="one of pictures",
            remedy="Leave --native out: maps are on the picture's own grid.",
        )
    cases, errors = medium_of(loaded.recipe).find(
        [Path(p) for p in inputs], frame=options.frame, series=options.series
    )
    for problem in errors:
        logger.error("%s", problem)
    describe_derivative(cases, Path(out))
    return predict_cases(loaded, cases, Path(out), options, errors=errors, do=do)


def predict_cases(
    loaded: Model,
    cases: Sequence[Case],
    out: Path,
    options: PredictOptions = DEFAULTS,
    *,
    errors: Sequence[InputError] = (),
    do: Do | None = None,
) -> PredictReport:
    """Predict what :func:`predict_inputs` has found; ``errors`` are about the rest."""
    if options.strict:
        check_strict(loaded, [case.subject for case in cases])
    result = PredictReport()
    files = medium_of(loaded.recipe).files
    given = {path.resolve() for case in cases for path in case.subject.files}
    job = Job(out, options, frozenset(given))
    outcomes: dict[Path, Outcome] = {}

    def record_of(case: Case) -> Path:
        return case.output(out, files_of(case, files).record)

    records = [record_of(case) for case in cases]
    try:
        with stop_on_signals() as stop, progress("predicting", len(cases)) as advance:
            for case, outcome in (do or _do_here)(loaded, job, cases, lambda: bool(stop)):
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
        listed = all_failures(out, failed, [path for case in ended for path in case.subject.files])
        write_failures(out, listed)
    result.done += [record for record in records if isinstance(outcomes[record], Done)]
    result.skipped += [record for record in records if outcomes[record] is None]
    if options.report and (result.done or result.skipped):
        result.page = report_predictions(out, find_records(out))
        unshown = [Failure(error, step=REPORT_STEP) for error in result.page.errors]
        write_failures(out, [*listed, *unshown])
    return result


def _do_here(
    model: Model, job: Job, cases: Sequence[Case], should_stop: Callable[[], bool]
) -> Iterator[tuple[Case, Outcome]]:
    """One at a time in this process, reading the next while one computes."""
    worker = CasePredictor(model, job)
    for case, item in read_ahead(cases, worker.read):
        yield case, worker.finish(item)
        if should_stop():
            return
