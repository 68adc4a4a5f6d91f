"""The work of ``medrd predict`` on each input, for any process."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from medrd.data.cases import Case
from medrd.prediction.case import CasePredictor, Job, Outcome
from medrd.runner.runner import lost_input
from medrd.runner.shared_model import SharedModel


@dataclass(frozen=True)
class PredictWork:
    """Predict each case; see :class:`medrd.runner.runner.Work`."""

    model: SharedModel
    job: Job

    @property
    def devices(self) -> tuple[str, Collection[str]]:
        """The device that the caller chose."""
        return "--device", {self.job.options.device}

    def open(self) -> CasePredictor:
        """Load the model. Raises ModelError."""
        return CasePredictor(self.model.load(), self.job)

    def name(self, case: Case, /) -> str:
        """The stem of its outputs."""
        return case.subject.id

    def lost(self, case: Case, reason: str, /) -> Outcome:
        """The error for an input whose process died."""
        return lost_input(case.first_file, reason, limit="--max-voxels")
