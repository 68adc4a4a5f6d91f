"""What a comparison's folder was made from: old results never stand under new configs or data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from medrd.comparison.config import Cell
from medrd.config import Config, digest, load_config
from medrd.config.difference import first_difference
from medrd.data.layouts import Subject
from medrd.errors import ConfigError, InputError, MedrdError
from medrd.files import file_hash
from medrd.run.cohort import load_cohort
from medrd.run.progress import progress
from medrd.training.fit import portable

INPUTS = "inputs.json"
"""In a finished cell's folder: the hash of each input's files."""


def refuse_changes(cells: Sequence[Cell], out: Path) -> dict[Path, dict[str, str]]:
    """See that what is there already was made with these very configs and data.

    Returns
    -------
    dict
        By a cell's folder: the hash of each of its inputs' files, by the input's id.

    Raises
    ------
    ConfigError
        A run there has another config, or results of other data. (Test inputs that have failed
        and were mended since are no such change: their cells are evaluated again.)
    """
    inputs: dict[Path, dict[str, str]] = {}
    known: dict[object, dict[str, str]] = {}
    for cell in cells:
        # One model may read modalities that another does not.
        read = (cell.data_set, cell.category, cell.config.recipe.layout.modalities)
        if read not in known:
            known[read] = _hashes(cell)
        inputs[cell.folder] = known[read]
        folder = out / cell.folder
        _refuse_other_config(cell, folder)
        _refuse_other_data(cell, folder, known[read])
    return inputs


def _hashes(cell: Cell) -> dict[str, str]:
    """Of each subject or picture: its images, label and masks. Empty where none can be found."""
    try:
        subjects = load_cohort(cell.config).subjects.values()
    except InputError:  # the cells themselves will fail by it, and say so
        return {}
    with progress(f"looking at the files of {cell.data_set}", len(subjects)) as advance:
        hashes = {}
        for subject in subjects:
            hashes[subject.id] = _hash(subject)
            advance()
    return hashes


def _hash(subject: Subject) -> str:
    return digest([_file_hash(path) for path in subject.files])


def _file_hash(path: Path) -> str | None:
    try:
        return file_hash(path)
    except InputError:
        return None


def _refuse_other_config(cell: Cell, folder: Path) -> None:
    path = folder / "config.yaml"
    if not path.is_file():
        return
    try:
        there = load_config(path)
    except MedrdError:  # training will say what is wrong with it
        return
    key, was, now = first_difference(portable(there), portable(cell.config))
    if key:
        raise ConfigError(
            folder,
            expected=f"a run with {key}: {now}, as the comparison has it",
            found=f"one with {key}: {was}",
            remedy="Give another --out, or remove that folder to have it done again.",
        )


def _refuse_other_data(cell: Cell, folder: Path, now: Mapping[str, str]) -> None:
    try:
        was = json.loads((folder / INPUTS).read_text(encoding="utf-8"))
        failed = not json.loads(
            (folder / "evaluation" / "metrics.json").read_text(encoding="utf-8")
        )["complete"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    changed = sorted(id for id in was.keys() | now.keys() if was.get(id) != now.get(id))
    if failed:
        changed = [id for id in changed if id not in _test_ids(cell.config)]
    if changed and now:
        raise ConfigError(
            folder,
            expected="results of the data as they are now",
            found=f"those of other data: {changed[0]} and {len(changed) - 1} more have changed",
            remedy="Give another --out, or remove that folder to have it done again.",
        )


def _test_ids(config: Config) -> set[str]:
    return set(load_cohort(config).split.test)
