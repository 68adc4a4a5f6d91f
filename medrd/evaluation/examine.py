"""Test subjects read, predicted and judged, one at a time: the part of an evaluation that can be
done anywhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from medrd.config import Config
from medrd.data.kind import TestItem
from medrd.data.kinds import kind_of
from medrd.data.layouts import Subject
from medrd.errors import InputError, LeakageError
from medrd.evaluation.baseline import baseline_predictor
from medrd.evaluation.judge import Judged, judge, unit_entries
from medrd.run.attempt import attempt
from medrd.run.device import choose_execution
from medrd.run.model_folder import Model
from medrd.run.predictor import Predictor


@dataclass(frozen=True)
class Contender:
    """What is evaluated, all but its weights, as it travels to other processes.

    Attributes
    ----------
    config
        Its recipe, and the budget of an input.
    threshold
        The calibrated one; None if there is none.
    entries
        By category, how many bins a subject's own sketch has; see :func:`entries_of`.
    froc_factors
        Multiples of the threshold at which lesions are counted too.
    seen
        Names of scans that must not be among the subjects, by the hashes of their content.
    is_baseline
        Made from the config, and not the model that is given.
    """

    name: str
    config: Config
    threshold: float | None
    entries: Mapping[str, int]
    froc_factors: tuple[float, ...] = ()
    seen: Mapping[str, str] = field(default_factory=dict)
    is_baseline: bool = False


class Examined(NamedTuple):
    """A subject that has been judged: in how many seconds its maps were made, and how precisely."""

    judged: Judged
    seconds: float
    precision: str


Outcome = Examined | InputError


class Examiner:
    """A contender at work."""

    def __init__(self, contender: Contender, predictor: Predictor) -> None:
        self._contender = contender
        self._predictor = predictor
        self._kind = kind_of(contender.config.recipe)

    def read(self, subject: Subject) -> TestItem | InputError:
        """Its slices and its truth, or why it cannot be used.

        Raises
        ------
        LeakageError
            It is one that the model has seen, under whatever name.
        """
        return attempt(subject.files[0], lambda: self._read(subject))

    def finish(self, subject: Subject, item: TestItem | InputError) -> Outcome:
        """Predict and judge what has been read."""
        if isinstance(item, InputError):
            return item
        return attempt(subject.files[0], lambda: self._judge(subject, item))

    def __call__(self, subject: Subject) -> Outcome:
        """Read, predict and judge. Raises LeakageError."""
        return self.finish(subject, self.read(subject))

    def _read(self, subject: Subject) -> TestItem:
        config = self._contender.config
        item = self._kind.test_item(subject, budget=config.data.budget)
        same = self._contender.seen.get(item.content)
        if same is not None:
            raise leakage(subject.id, same, remedy="The data set holds it twice: remove one.")
        return item

    def _judge(self, subject: Subject, item: TestItem) -> Examined:
        contender = self._contender
        start = time.perf_counter()
        prediction = self._predictor.on_grid(item.prepared)
        seconds = time.perf_counter() - start
        judged = judge(
            subject.id,
            item,
            prediction,
            threshold=contender.threshold,
            entries=contender.entries[subject.category],
            froc_factors=contender.froc_factors,
        )
        return Examined(judged, seconds, self._predictor.execution.precision)


def make_examiners(model: Model, device: str, contenders: Sequence[Contender]) -> list[Examiner]:
    """The contenders at work; ``model`` is the one of them that is no baseline."""
    return [Examiner(each, _predictor(each, model, device)) for each in contenders]


def by_category(subjects: Sequence[Subject]) -> list[Subject]:
    """Those of a category together, as they are judged; else in the order in which they came."""
    groups: dict[str, list[Subject]] = {}
    for subject in subjects:
        groups.setdefault(subject.category, []).append(subject)
    return [subject for members in groups.values() for subject in members]


def entries_of(subjects: Sequence[Subject]) -> dict[str, int]:
    """By category, what :func:`medrd.evaluation.judge.unit_entries` gives each of its subjects."""
    sizes = Counter(subject.category for subject in subjects)
    return {category: unit_entries(size) for category, size in sizes.items()}


def leakage(subject: str, same: str, *, remedy: str) -> LeakageError:
    """``same`` is the name under which the model has seen the subject."""
    return LeakageError(
        subject,
        expected="test subjects that the model has never seen",
        found=f"one that it was trained, calibrated or chosen on (as {same})",
        remedy=remedy,
    )


def _predictor(contender: Contender, model: Model, device: str) -> Predictor:
    if contender.is_baseline:
        return baseline_predictor(contender.config, device)
    execution = choose_execution(device, model.config.train.precision)
    return Predictor(model.detector, model.scoring(), execution)
