"""Reading one input of ``medrd predict``, predicting it, and writing results with a record.

:class:`medrd.data.kind.Kind` hides the differences between scans and pictures.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from medrd.data.brains.bids import map_sidecar, mask_sidecar
from medrd.data.cache import source_hash
from medrd.data.cases import Case
from medrd.data.kind import CODE_VERSION, Opened
from medrd.data.output_names import BIDS_MASK_SIDECAR, MAKER, files_of
from medrd.dicom_objects.scene import Maker
from medrd.dicom_objects.write import is_own_object
from medrd.errors import InputError
from medrd.files import file_hash, write_json
from medrd.prediction.dicom import (
    check_dicom,
    dicom_targets,
    remove_dicom,
    write_dicom,
)
from medrd.prediction.guard import Likeness, compare_with_training, names_of, refuse
from medrd.prediction.native import (
    NATIVE_ENDINGS,
    NativeSpace,
    find_native_space,
    write_native,
)
from medrd.prediction.options import DEFAULTS, PredictOptions
from medrd.run.builtin import POPULATION
from medrd.run.calibration import standing
from medrd.run.device import choose_execution
from medrd.run.engine import make_predictor
from medrd.run.input_errors import catch_input_error
from medrd.run.model_folder import Model
from medrd.run.output_folder import OutputFolder, refuse_others
from medrd.run.outputs import make_folder, remove
from medrd.run.predictor import Prediction
from medrd.run.provenance import versions
from medrd.run.record import ModelName, OutputFile, PredictionRecord, Record

logger = logging.getLogger("medrd.predict")


class Done(NamedTuple):
    """A predicted case: its score, and its differences from the training scans."""

    score: float
    differences: tuple[str, ...]


Outcome = Done | InputError | None
"""The outcome of a case; None if an earlier call finished it."""


@dataclass(frozen=True)
class Job:
    """A call of ``medrd predict`` without its inputs, for other processes.

    Attributes
    ----------
    protected
        Real paths of all input files, which no output may replace.
    """

    out: Path
    options: PredictOptions = DEFAULTS
    protected: frozenset[Path] = frozenset()


@dataclass(frozen=True, eq=False)
class Loaded:
    """An input after reading."""

    case: Case
    opened: Opened
    hashes: dict[str, str]
    likeness: Likeness
    native: NativeSpace | None = None
    record_time: int | None = None
    """Time at which an existing record was written, before reading it; None without one."""


class CasePredictor:
    """Predicts the inputs of a job with a model, one at a time."""

    def __init__(self, model: Model, job: Job) -> None:
        self._out, self._options = job.out, job.options
        self._model = model
        self._kind = model.kind
        self._folder = OutputFolder(job.out, job.protected, model.kind.files.noun)
        execution = choose_execution(job.options.device, model.config.train.precision)
        self._predictor, engine = make_predictor(model, execution, job.options.engine)
        # Maps differ in their last bits between precisions and devices, so a finished result
        # is valid only for the same ones.
        self._identity = {
            "model": model.hash,
            "precision": execution.precision,
            "device": execution.device.type,
            "code": str(CODE_VERSION),
            "engine": engine,
            **job.options.identity,
        }

    def read(self, case: Case) -> Loaded | InputError | None:
        """Read a case's slices, or return the error; None if an earlier result is valid."""
        return catch_input_error(case.first_file, lambda: self._read(case))

    def finish(self, item: Loaded | InputError | None) -> Outcome:
        """Predict a case after reading, and write the results."""
        if item is None or isinstance(item, InputError):
            return item
        return catch_input_error(item.case.first_file, lambda: self._write(item))

    def _record_path(self, case: Case) -> Path:
        return case.output(self._out, files_of(case, self._kind.files).record)

    def _is_done(self, path: Path, record: Record | None, hashes: dict[str, str]) -> bool:
        """True if an earlier result belongs to these inputs, is complete and is what this call
        requests."""
        return (
            record is not None
            and self._options.shown_by(record)
            and record.is_current(path.parent, {**self._identity, "inputs": hashes})
        )

    def _read(self, case: Case) -> Loaded | None:
        path = self._record_path(case)
        record_time, record = _time_of(path), Record.read(path)
        hashes = {c: source_hash(s) for c, s in case.subject.images.items()}
        if not self._options.overwrite and self._is_done(path, record, hashes):
            return None
        native = find_native_space(case.first_file) if self._options.native else None
        files = files_of(case, self._kind.files)
        self._folder.refuse_taken(
            [case.output(self._out, ending) for ending in files.endings],
            # A killed call may leave a map without a record.
            ours=record is not None or self._kind.is_own_map(case.output(self._out, files.map)),
        )
        if not self._options.overwrite:
            refuse_others(path, record, case, whole=False)
        if native is not None:
            for ending in NATIVE_ENDINGS:
                target = case.output(self._out, ending)
                self._folder.refuse_taken([target], ours=self._kind.is_own_map(target))
        if self._options.dicom:
            check_dicom(case, native)
            for target in dicom_targets(case, self._out).values():
                self._folder.refuse_taken([target], ours=is_own_object(target))
        budget = self._options.max_voxels or self._model.config.data.budget
        opened = self._kind.read(case, budget=budget)
        names = names_of(case.subject)
        likeness = compare_with_training(opened.prepared, self._model, names)
        if self._options.strict:
            refuse(case.first_file, likeness.differences)
        return Loaded(case, opened, hashes, likeness, native, record_time)

    def _write(self, item: Loaded) -> Done | None:
        """Predict and write; the JSON file comes last, so its presence means finished."""
        case, path = item.case, self._record_path(item.case)
        start = time.perf_counter()
        prediction = self._predictor.on_grid(item.opened.prepared, self._model.threshold)
        scored, seconds = len(prediction.image_scores), time.perf_counter() - start
        pieces = self._kind.files.pieces
        logger.debug("%s: %d %s in %.2f s", case.subject.id, scored, pieces, seconds)
        # If this process was declared dead, another may have finished the scan meanwhile.
        if _time_of(path) != item.record_time and self._is_done(
            path, Record.read(path), item.hashes
        ):
            return None
        make_folder(path.parent)
        self._remove_stale(case)
        paths, entries = self._write_outputs(item, prediction)
        self._record(item, prediction, paths, entries).write(path)
        return Done(prediction.scan_score, item.likeness.differences)

    def _remove_stale(self, case: Case) -> None:
        """Outputs of an earlier call that this one does not write must not remain."""
        files = files_of(case, self._kind.files)
        sidecars = [BIDS_MASK_SIDECAR] if case.origin else []
        for ending in (files.record, files.mask, files.overlay, *sidecars):
            remove(case.output(self._out, ending))
        for native_path in (case.output(self._out, ending) for ending in NATIVE_ENDINGS):
            if self._kind.is_own_map(native_path):
                remove(native_path)
        remove_dicom(case, self._out)

    def _write_outputs(
        self, item: Loaded, prediction: Prediction
    ) -> tuple[dict[str, Path], dict[str, Any]]:
        """Write all files but the record: their paths, and what the record says of them."""
        case, opened, out = item.case, item.opened, self._out
        files, threshold = files_of(case, self._kind.files), self._model.threshold
        description = f"{MAKER} anomaly score, model {self._model.hash[:12]}"
        paths = {"map": case.output(out, files.map)}
        opened.write_map(
            paths["map"], prediction.grid_map, description=description, threshold=threshold
        )
        if prediction.mask is not None and threshold is not None:
            paths["mask"] = case.output(out, files.mask)
            opened.write_mask(paths["mask"], prediction.mask)
            if case.origin:
                sidecar = case.output(out, BIDS_MASK_SIDECAR)
                write_json(sidecar, mask_sidecar(case.origin, threshold))
        entries = opened.describe(prediction.grid_map, prediction.mask, prediction.image_scores)
        findings = entries["findings"]
        if item.native is not None:
            entries |= write_native(
                item.native,
                case,
                out,
                prediction,
                paths,
                description=description,
                threshold=threshold,
            )
            findings = entries["native"].get("findings")
        if self._options.dicom:
            entries |= write_dicom(
                case,
                item.native,
                out,
                paths,
                maker=Maker(self._model.config.model.name, self._model.hash, threshold),
                findings=findings,
                scan_score=entries["scan_score"],
                keep_names=self._options.keep_names,
            )
        if self._options.picture:
            paths["picture"] = case.output(out, files.overlay)
            opened.write_overlay(
                paths["picture"], prediction.grid_map, threshold=threshold, title=case.subject.id
            )
        return paths, entries

    def _record(
        self,
        item: Loaded,
        prediction: Prediction,
        paths: Mapping[str, Path],
        entries: Mapping[str, Any],
    ) -> PredictionRecord:
        subject, origin = item.case.subject, item.case.origin
        first, label = next(iter(subject.images.values())), subject.label
        lesion_labels = getattr(self._model.config.data, "lesion_labels", ()) if label else ()
        return PredictionRecord(
            **(map_sidecar(origin) if origin else {}),
            subject=subject.id,
            # Absolute paths, because a later call may run in another folder.
            inputs={c: str(path.absolute()) for c, path in subject.paths.items()},
            frame=first.frame,
            series=first.series,
            label=str(label.path.absolute()) if label else None,
            **({"lesion_labels": list(lesion_labels)} if lesion_labels else {}),
            **entries,
            **standing(
                prediction.scan_score,
                self._model.calibration,
                normal=self._kind.normal,
                noun=self._kind.files.noun,
            ),
            warnings=list(item.opened.prepared.warnings),
            unlike_training=list(item.likeness.differences),
            not_judged=list(item.likeness.unchecked),
            model=ModelName(
                name=self._model.title,
                hash=self._model.hash,
                **({"calibrated_on": POPULATION} if self._model.built_in else {}),
            ),
            versions=versions(),
            notice=self._model.notice,
            outputs={
                name: OutputFile(file=path.name, sha256=file_hash(path))
                for name, path in paths.items()
            },
            identity={**self._identity, "inputs": item.hashes},
        )


def _time_of(path: Path) -> int | None:
    """A file's time of modification in ns; None if it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
