"""``medrd evaluate --shard``: keeps the scores of subjects on disk until all shards are done.

``shards/`` in the output folder has a file for each subject and model, and ``shards.json``, which
identifies the evaluation. The call that finds all files writes the results.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.config import digest
from medrd.data.subject import Subject
from medrd.errors import ConfigError, FileFormatError, InputError, MedrdError
from medrd.evaluation.outputs import read_arrays
from medrd.evaluation.subject import Outcome, Scored, SubjectScores
from medrd.evaluation.work import EvaluateWork
from medrd.files import atomic_path, file_hash, write_json
from medrd.metrics import Confusion, Histogram, LesionCounts
from medrd.run.progress import progress
from medrd.run.shard import Shard
from medrd.run.signals import InterruptedRunError
from medrd.runner.runner import Runner

logger = logging.getLogger("medrd.evaluate")

SHARDS_NAME = "shards"
"""Folder with the scores of each subject, in the evaluation's folder."""

_STORED: dict[str, type] = {
    kind.__name__: kind for kind in (Scored, SubjectScores, Histogram, Confusion, LesionCounts)
}
"""The classes that may occur in a stored outcome."""


class ShardedScores:
    """The outcomes of an evaluation's items in ``shards/``.

    Parameters
    ----------
    items
        Pairs of a model's number and a subject, in the order in which they are summarised.
    identity
        Everything but the subjects' files that the scores depend on.

    Raises
    ------
    ConfigError
        The folder has shards of another evaluation.
    """

    def __init__(
        self,
        out: Path,
        shard: Shard,
        items: Sequence[tuple[int, Subject]],
        identity: Mapping[str, Any],
    ) -> None:
        self._folder = out / SHARDS_NAME
        self._shard, self._items = shard, items
        subjects = list(dict.fromkeys(subject.id for _, subject in items))
        self._shard_of = {name: i % shard.count + 1 for i, name in enumerate(subjects)}
        self._refuse_others({"shards": shard.count, "subjects": subjects, **identity})

    def score(self, runner: Runner, work: EvaluateWork, should_stop: Callable[[], bool]) -> bool:
        """Score the subjects of this shard that have no score yet or failed.

        Returns
        -------
        bool
            Whether all shards are done.

        Raises
        ------
        MedrdError
            As for :meth:`medrd.runner.runner.Runner.map`.
        InterruptedRunError
            The work was stopped; finished scores are kept.
        """
        own = [
            index
            for index, (_, subject) in enumerate(self._items)
            if self._shard_of[subject.id] == self._shard.number
        ]
        inputs = {index: _hash(self._items[index][1]) for index in own}
        left = [index for index in own if not self._is_scored(index, inputs[index])]
        done = 0
        with (
            closing(runner.map(work, [self._items[i] for i in left], should_stop)) as results,
            progress(f"evaluating shard {self._shard}", len(left)) as advance,
        ):
            for position, outcome in results:
                index = left[position]
                _save(self._path(index), outcome, inputs[index])
                done += 1
                advance(note=self._items[index][1].id)
        if done < len(left):
            raise InterruptedRunError(
                f"stopped after {done} of {len(left)} scores, which are kept. Run it again."
            )
        missing = {
            self._shard_of[subject.id]
            for index, (_, subject) in enumerate(self._items)
            if not self._path(index).is_file()
        }
        if missing:
            names = ", ".join(map(str, sorted(missing)))
            logger.info("shard %s is done; still missing: %s", self._shard, names)
        return not missing

    def read(self) -> Generator[tuple[int, Outcome], None, None]:
        """All outcomes in the order of the items, as :meth:`Runner.map` yields them.

        Raises
        ------
        FileFormatError
            A file is damaged.
        """
        for index in range(len(self._items)):
            yield index, _load(self._path(index))[0]

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:06}.npz"

    def _is_scored(self, index: int, inputs: str | None) -> bool:
        try:
            outcome, stored = _load(self._path(index))
        except FileFormatError:
            return False
        return not isinstance(outcome, MedrdError) and stored == inputs

    def _refuse_others(self, identity: Mapping[str, Any]) -> None:
        path = self._folder / "shards.json"
        own = json.loads(json.dumps(identity))
        if not path.is_file():
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(path, own)
        try:
            existing = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            existing = {}
        for key, value in own.items():
            if existing.get(key) != value:
                raise ConfigError(
                    self._folder,
                    expected=f"shards of this evaluation, with {key} {_short(value)}",
                    found=f"shards with {key} {_short(existing.get(key))}",
                    remedy=f"Choose another --out, or remove {SHARDS_NAME}/ to start again.",
                )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _hash(subject: Subject) -> str | None:
    try:
        return digest([file_hash(path) for path in subject.files])
    except InputError:
        return None


def _save(path: Path, outcome: Outcome, inputs: str | None) -> None:
    """Write an outcome atomically, as arrays and JSON without pickles."""
    arrays: dict[str, NDArray[Any]] = {}
    error = outcome.to_dict() if isinstance(outcome, MedrdError) else None
    content = {
        "inputs": inputs,
        "error": error,
        "scores": None if error else _encode(outcome, arrays),
    }
    text = np.frombuffer(json.dumps(content).encode(), np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{"content": text, **arrays})  # type: ignore[arg-type]


def _load(path: Path) -> tuple[Outcome, str | None]:
    """Read an outcome that :func:`_save` wrote, and the hash of the subject's files."""
    arrays = read_arrays(path)
    content = json.loads(arrays["content"].tobytes())
    if content["error"]:
        error = MedrdError.from_dict(content["error"])
        assert isinstance(error, InputError)  # other errors end a call and are not stored
        return error, content["inputs"]
    return _decode(content["scores"], arrays), content["inputs"]


def _encode(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """Convert a value to JSON that refers to its arrays by name; they are put into ``arrays``."""
    if isinstance(value, np.ndarray):
        name = f"array{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, np.generic):
        return value.item()
    if type(value).__name__ in _STORED:
        fields = (
            value._asdict()
            if hasattr(value, "_asdict")  # a named tuple
            else {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        )
        encoded = {key: _encode(each, arrays) for key, each in fields.items()}
        return {"class": type(value).__name__, "fields": encoded}
    if isinstance(value, tuple):
        return {"tuple": [_encode(each, arrays) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[key, _encode(each, arrays)] for key, each in value.items()]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is not among the classes that shards store")


def _decode(content: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Rebuild the value that :func:`_encode` converted."""
    match content:
        case {"array": name}:
            return arrays[name]
        case {"class": name, "fields": fields}:
            return _STORED[name](**{k: _decode(each, arrays) for k, each in fields.items()})
        case {"tuple": members}:
            return tuple(_decode(each, arrays) for each in members)
        case {"dict": pairs}:
            return {key: _decode(each, arrays) for key, each in pairs}
    return content
