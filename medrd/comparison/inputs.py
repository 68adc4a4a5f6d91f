"""Checks that results in a comparison's folder were made with the same configs and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medrd.comparison.config import Cell, Test
from medrd.config import digest, load_config
from medrd.config.difference import first_difference
from medrd.errors import ConfigError, InputError, MedrdError
from medrd.files import file_hash, read_json
from medrd.run.cohort import load_cohort
from medrd.run.progress import progress
from medrd.training.fit import portable

INPUTS = "inputs.json"
"""A file in each finished cell's folder, with the hash of each input's files."""


def refuse_changes(cells: Sequence[Cell], out: Path) -> dict[Path, dict[str, str]]:
    """Check that existing results of the cells were made with these configs and these data.

    Returns
    -------
    dict
        Folder of each test of a cell -> input id -> hash of the input's files.

    Raises
    ------
    ConfigError
        A cell's run has another config, or its results come from other data. (Changed test
        inputs that failed before are accepted: their cells are evaluated again.)
    """
    inputs: dict[Path, dict[str, str]] = {}
    hashes: dict[object, dict[str, str]] = {}
    for cell in cells:
        _refuse_other_config(cell, out / cell.folder)
        for test in cell.tests:
            # Models may read different modalities of one data set.
            read = (test.data_set, cell.category, test.config.recipe.layout.modalities)
            if read not in hashes:
                hashes[read] = _hashes(test)
            inputs[test.folder] = hashes[read]
            _refuse_other_data(test, out / test.folder, hashes[read])
    return inputs


def _hashes(test: Test) -> dict[str, str]:
    """The hash of each subject's or picture's files; empty if the data set cannot be read."""
    try:
        subjects = load_cohort(test.config).subjects.values()
    except InputError:  # the cells will fail with the same error
        return {}
    with progress(f"hashing the files of {test.data_set}", len(subjects)) as advance:
        hashes = {}
        for subject in subjects:
            hashes[subject.id] = digest([_file_hash(path) for path in subject.files])
            advance()
    return hashes


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
        existing = load_config(path)
    except MedrdError:  # training will report the same error
        return
    key, was, now = first_difference(portable(existing), portable(cell.config))
    if key:
        raise ConfigError(
            folder,
            expected=f"a run with {key}: {now}, as in the comparison",
            found=f"a run with {key}: {was}",
            remedy="Choose another --out, or remove this folder to run the cell again.",
        )


def _refuse_other_data(test: Test, folder: Path, now: Mapping[str, str]) -> None:
    was, metrics = read_json(folder / INPUTS), read_json(folder / "evaluation" / "metrics.json")
    if not isinstance(was, dict) or not isinstance(metrics, dict):
        return
    changed = sorted(id for id in was.keys() | now.keys() if was.get(id) != now.get(id))
    if not metrics.get("complete"):
        tested = load_cohort(test.config).split.test
        changed = [id for id in changed if id not in tested]
    if changed and now:
        raise ConfigError(
            folder,
            expected="results for the current data",
            found=f"results for other data: {changed[0]} and {len(changed) - 1} more have changed",
            remedy="Choose another --out, or remove this folder to run the cell again.",
        )
