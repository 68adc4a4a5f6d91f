"""The work of ``medrd evaluate`` on each test subject, for any process."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from medrd.data.kind import TestItem
from medrd.data.subject import Subject
from medrd.errors import InputError
from medrd.evaluation.subject import EvaluatedModel, Outcome, SubjectScorer, make_scorers
from medrd.runner.runner import lost_input
from medrd.runner.shared_model import SharedModel

Item = tuple[int, Subject]
"""The number of an evaluated model, and a test subject."""


@dataclass(frozen=True)
class EvaluateWork:
    """Score each subject with each model; see :class:`medrd.runner.runner.Work`."""

    model: SharedModel
    device: str
    evaluated: Sequence[EvaluatedModel]

    @property
    def devices(self) -> tuple[str, Collection[str]]:
        """The device that the caller chose."""
        return "--device", {self.device}

    def open(self) -> EvaluateWorker:
        """Load the model. Raises ModelError."""
        return EvaluateWorker(make_scorers(self.model.load(), self.device, self.evaluated))

    def name(self, item: Item, /) -> str:
        """The subject's id."""
        return item[1].id

    def lost(self, item: Item, reason: str, /) -> Outcome:
        """The error for a subject whose process died."""
        return lost_input(item[1].files[0], reason, limit="data.budget")


class EvaluateWorker:
    """A scorer for each evaluated model."""

    def __init__(self, scorers: Sequence[SubjectScorer]) -> None:
        self._scorers = scorers

    def read(self, item: Item, /) -> tuple[Item, TestItem | InputError]:
        """Read the subject's slices and label. Raises LeakageError."""
        number, subject = item
        return item, self._scorers[number].read(subject)

    def finish(self, loaded: tuple[Item, TestItem | InputError], /) -> Outcome:
        """Predict the subject and score its map."""
        (number, subject), read = loaded
        return self._scorers[number].finish(subject, read)
