"""``medrd predict``: scans or pictures in, anomaly maps on their own grids out.

What is common to both: the loop over inputs, what is skipped, and what a record holds. What
differs is behind :class:`medrd.workflows.medium.Medium`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medrd.data.bids import map_sidecar, mask_sidecar
from medrd.data.cache import file_hash, source_hash
from medrd.data.domain import CODE_VERSION
from medrd.errors import ConfigError, InputError
from medrd.volumes import write_json
from medrd.workflows.bids_out import describe_derivative
from medrd.workflows.device import choose_execution
from medrd.workflows.guard import blind_spots, check_strict, oddities, refuse
from medrd.workflows.infer import Prediction, Predictor
from medrd.workflows.inputs import Case
from medrd.workflows.interrupt import InterruptedRunError, stop_on_signals
from medrd.workflows.medium import Opened, medium_of
from medrd.workflows.model_folder import Model, load_model
from medrd.workflows.native import (
    NATIVE_ENDINGS,
    WayBack,
    check_native_targets,
    way_back,
    write_native,
)
from medrd.workflows.outputs import (
    BIDS_MASK_SIDECAR,
    MAKER,
    check_targets,
    files_of,
    is_done,
    make_folder,
    remove,
    write_errors,
)
from medrd.workflows.progress import progress
from medrd.workflows.read_ahead import read_ahead
from medrd.workflows.report import Report, write_report
from medrd.workflows.versions import versions

logger = logging.getLogger("medrd.predict")


@dataclass
class PredictReport:
    """What happened to each input.

    Attributes
    ----------
    done, skipped
        Paths of the ``<stem>.json`` files: written now, or valid from an earlier run.
    errors
        Inputs that failed.
    page
        The report, if one was asked for.
    """

    done: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)
    page: Report | None = None


class Done(NamedTuple):
    """A case that has been predicted: its score, and how it is unlike the training scans."""

    score: float
    odd: tuple[str, ...]


Outcome = Done | InputError | None
"""Of a case: None if it was done before."""


@dataclass(frozen=True)
class Job:
    """What is the same for all inputs of a call, as it travels to other processes.

    Attributes
    ----------
    inputs
        Real paths of all that was given, which no output may replace.
    """

    out: Path
    overwrite: bool
    max_voxels: int | None
    device: str
    strict: bool
    picture: bool
    inputs: frozenset[Path]
    native: bool = False


@dataclass(frozen=True, eq=False)
class Loaded:
    """An input that has been read."""

    case: Case
    opened: Opened
    hashes: dict[str, str]
    odd: tuple[str, ...]
    back: WayBack | None = None


class CasePredictor:
    """A model at work on the inputs of a job, one at a time."""

    def __init__(self, model: Model, job: Job) -> None:
        self.job = job
        self._model = model
        self._medium = medium_of(model.recipe)
        execution = choose_execution(job.device, model.config.train.precision)
        self._predictor = Predictor(model.detector, model.scoring(), execution)
        # Maps differ in their last bits between precisions and devices, so these belong to
        # what a finished input is compared by.
        self._identity = {
            "model": model.hash,
            "precision": execution.precision,
            "device": execution.device.type,
            "code": str(CODE_VERSION),
        }

    def read(self, case: Case) -> Loaded | None:
        """The case's slices; None if it is done already. Raises InputError."""
        hashes = {c: source_hash(s) for c, s in case.subject.images.items()}
        if not self.job.overwrite and is_done(
            self._record(case),
            hashes,
            self._identity,
            strict=self.job.strict,
            native=self.job.native,
        ):
            return None
        back = way_back(case.first_file) if self.job.native else None
        check_targets(
            case,
            self.job.out,
            self.job.inputs,
            files_of(case, self._medium.files),
            is_own_map=self._medium.is_own_map,
        )
        if back is not None:
            check_native_targets(case, self.job.out, is_own_map=self._medium.is_own_map)
        budget = self.job.max_voxels or self._model.config.data.budget
        opened = self._medium.read(case, budget=budget)
        odd = oddities(opened.prepared, self._model, case.subject)
        if self.job.strict:
            refuse(case.first_file, odd)
        return Loaded(case, opened, hashes, odd, back)

    def finish(self, item: Loaded | InputError | None) -> Outcome:
        """Predict and write what has been read."""
        if item is None or isinstance(item, InputError):
            return item
        try:
            return self._write(item)
        except InputError as error:
            return error

    def __call__(self, case: Case) -> Outcome:
        """Read, predict and write."""
        try:
            item = self.read(case)
        except InputError as error:
            return error
        return self.finish(item)

    def _record(self, case: Case) -> Path:
        return case.output(self.job.out, files_of(case, self._medium.files).record)

    def _write(self, item: Loaded) -> Done:
        """The JSON comes last, so its presence means finished."""
        case, opened, origin, out = item.case, item.opened, item.case.origin, self.job.out
        files = files_of(case, self._medium.files)
        start = time.perf_counter()
        prediction = self._predictor.on_grid(opened.prepared)
        scored, seconds = len(prediction.image_scores), time.perf_counter() - start
        logger.debug("%s: %d %s in %.2f s", case.subject.id, scored, files.pieces, seconds)
        calibration = self._model.calibration
        threshold = calibration.threshold if calibration else None
        paths = {"map": case.output(out, files.map)}
        make_folder(paths["map"].parent)
        # What this model or call does not write must not stay behind from an earlier one.
        stale = (files.record, files.mask, files.overlay, *([BIDS_MASK_SIDECAR] if origin else []))
        for ending in stale:
            remove(case.output(out, ending))
        for path in (case.output(out, ending) for ending in NATIVE_ENDINGS):
            if self._medium.is_own_map(path):
                remove(path)
        opened.write_map(
            paths["map"],
            prediction.grid_map,
            description=f"{MAKER} anomaly score, model {self._model.hash[:12]}",
            threshold=threshold,
        )
        mask = None
        if threshold is not None:
            mask = anomaly_mask(prediction, opened.prepared.scored(), threshold)
            paths["mask"] = case.output(out, files.mask)
            opened.write_mask(paths["mask"], mask)
            if origin:
                sidecar = case.output(out, BIDS_MASK_SIDECAR)
                write_json(sidecar, mask_sidecar(origin, threshold))
        native: dict[str, object] = {}
        if item.back is not None:
            native = write_native(item.back, case, out, prediction.grid_map, mask, paths)
        if self.job.picture:
            paths["picture"] = case.output(out, files.overlay)
            opened.write_overlay(
                paths["picture"], prediction.grid_map, threshold=threshold, title=case.subject.id
            )
        outputs = {
            name: {"file": path.name, "sha256": file_hash(path)} for name, path in paths.items()
        }
        write_json(
            self._record(case),
            {
                **(map_sidecar(origin) if origin else {}),
                "subject": case.subject.id,
                # Absolute: who reads them again may stand elsewhere.
                "inputs": {c: str(s.path.absolute()) for c, s in case.subject.images.items()},
                "frame": next(iter(case.subject.images.values())).frame,
                "series": next(iter(case.subject.images.values())).series,
                "label": str(label.path.absolute()) if (label := case.subject.label) else None,
                **opened.describe(prediction, mask, calibration),
                **native,
                "warnings": list(opened.prepared.warnings),
                "unlike_training": list(item.odd),
                "not_judged": blind_spots(self._model),
                "model": {"name": self._model.config.model.name, "hash": self._model.hash},
                "versions": versions(),
                "notice": self._medium.notice,
                "outputs": outputs,
                "identity": {**self._identity, "inputs": item.hashes},
            },
        )
        return Done(prediction.scan_score, item.odd)


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
    do: Do | None = None,
    report: bool = False,
) -> PredictReport:
    """Predict scans or pictures one at a time, reading the next while one computes.

    Memory does not grow with their number. One that fails is reported in the result and in
    ``errors.json``, and the others are done.

    Parameters
    ----------
    model
        A run folder, its ``model/``, or a loaded model.
    inputs
        NIfTI files, BraTS subject folders, BIDS datasets (the results are then a BIDS
        derivative), DICOM series (a folder, or one of its files), folders of those; of a model
        of pictures, picture files and folders of those.
    overwrite
        Predict again what is already there; else an input is skipped if the hashes of its
        files, of the model and of its outputs are those on record.
    frame
        Of 4D scans, from 0.
    series
        Series Instance UID, for DICOM folders that hold several.
    max_voxels
        Budget of a volume or a picture; default: the model's config.
    strict
        An input unlike the model's training scans fails; else it is warned of, in the log and
        in its JSON (``unlike_training``). What cannot be judged stands there too
        (``not_judged``).
    picture
        Also write an overlay as PNG.
    native
        Of scans that ``medrd prepare`` wrote: also write map and mask on the raw scan's grid.
    do
        Who does the work; default: this process. See :mod:`medrd.workflows.predict_on_ray`.
    report
        Also write ``report.html``, of all that lies in ``out``; see :func:`medrd.write_report`.

    Raises
    ------
    MedrdError
        Unusable model, nothing to do, two inputs with one output, a frame of a picture, or
        ``strict`` with a model that has no profile of its training scans.
    InterruptedRunError
        On SIGTERM or Ctrl-C, after the input under way.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    if native and loaded.recipe.kind == "pictures":
        raise ConfigError(
            "--native",
            expected="a model of scans, which medrd prepare can write",
            found="one of pictures",
            remedy="Leave --native out: maps are on the picture's own grid.",
        )
    cases, errors = medium_of(loaded.recipe).find(
        [Path(p) for p in inputs], frame=frame, series=series
    )
    for problem in errors:
        logger.error("%s", problem)
    describe_derivative(cases, Path(out))
    return predict_cases(
        loaded,
        cases,
        Path(out),
        errors=errors,
        overwrite=overwrite,
        max_voxels=max_voxels,
        device=device,
        strict=strict,
        picture=picture,
        native=native,
        do=do,
        report=report,
    )


def predict_cases(
    loaded: Model,
    cases: Sequence[Case],
    out: Path,
    *,
    errors: Sequence[InputError] = (),
    overwrite: bool = False,
    max_voxels: int | None = None,
    device: str = "auto",
    strict: bool = False,
    picture: bool = True,
    native: bool = False,
    do: Do | None = None,
    report: bool = False,
) -> PredictReport:
    """:func:`predict` on what is found already; ``errors`` are those of the search."""
    if strict:
        check_strict(loaded)
    result = PredictReport(errors=list(errors))
    files = medium_of(loaded.recipe).files
    given = {path.resolve() for case in cases for path in case.subject.files}
    job = Job(out, overwrite, max_voxels, device, strict, picture, frozenset(given), native)
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
                    for text in outcome.odd:
                        logger.warning("%s is unlike the training scans: %s", case.first_file, text)
                    advance(note=f"{case.subject.id}: score {outcome.score:.3f}")
        if len(outcomes) < len(cases):
            raise InterruptedRunError(
                f"stopped after {len(outcomes)} of {len(cases)} {files.noun}s; finished ones are "
                "kept. Run the same command again to go on."
            )
    finally:
        # In the order of the inputs, whatever the order in which they were done.
        for outcome in (outcomes[record] for record in records if record in outcomes):
            if isinstance(outcome, InputError):
                result.errors.append(outcome)
        write_errors(out, result.errors)
    result.done += [record for record in records if isinstance(outcomes[record], Done)]
    result.skipped += [record for record in records if outcomes[record] is None]
    if report and (result.done or result.skipped):
        result.page = write_report(out)
        write_errors(out, result.errors, of_report=result.page.errors)
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


def anomaly_mask(
    prediction: Prediction, region: NDArray[np.bool_], threshold: float
) -> NDArray[np.bool_]:
    """Where the scored region's score is at least the threshold: bool on the input's grid."""
    return (prediction.grid_map >= threshold) & region
