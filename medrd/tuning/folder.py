"""The folder of a search, which holds one search on one split of one data set."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medrd.config import Config, DataConfig
from medrd.config.difference import first_difference
from medrd.config.load import read_yaml
from medrd.data.persons import person_of
from medrd.data.split import SIDES, Split
from medrd.errors import ConfigError, LeakageError
from medrd.files import write_json, write_text
from medrd.run.cohort import Cohort, contents_of, load_cohort, prepare_sides, refuse_same_scan
from medrd.training.fit import portable
from medrd.tuning.config import LabelledObjective, TuneConfig, parse_tune
from medrd.tuning.objective import simulate_set
from medrd.tuning.trial import SEARCH, SPLIT, TRIALS
from medrd.tuning.validation import hash_test_side, read_validation, refuse_same_scans

logger = logging.getLogger("medrd.tune")


def open_search(config: TuneConfig, out: Path, *, resume: bool) -> tuple[TuneConfig, Cohort]:
    """Check a search against its data and its folder, and write it to the folder.

    Parameters
    ----------
    config
        A search as :func:`medrd.tuning.config.load_tune` returns it.
    out
        The search's folder, which exists and is locked by this process.
    resume
        Continue the search in the folder.

    Returns
    -------
    TuneConfig
        The search in ``search.yaml``, with absolute paths; if validation subjects are taken out
        of the other sides, with lists of the remaining subjects.
    Cohort
        The data set's subjects, with the split of all trials.

    Raises
    ------
    ConfigError
        If there are no data, trials would have different test subjects, there is nothing to
        score trials by, or the folder holds something else.
    LeakageError
        If test subjects were named as validation subjects.
    """
    config = _with_absolute_paths(config)
    corners = config.corners()
    cohort = load_cohort(corners[0][1])
    if config.objective.kind == "labelled":
        config, cohort = _without_validation(config, config.objective, corners[0][1], cohort)
        corners = config.corners()
    elif not cohort.split.calibration:
        raise ConfigError(
            "data.split.calibration",
            expected="held-out subjects to simulate anomalies in",
            found="none",
            remedy="Assign some subjects to it; test subjects must not be used for scoring trials.",
        )
    _warn_of_ignored_smoothing(config, corners)
    _refuse_other_splits(corners, cohort.split)
    _refuse_other_search(config, corners[0][1], cohort.split, out, resume=resume)
    write_text(out / SEARCH, config.to_yaml())
    write_json(out / SPLIT, {"hash": cohort.split.hash, **asdict(cohort.split)})
    return config, cohort


def prepare_search(config: TuneConfig, cohort: Cohort, out: Path) -> None:
    """Prepare the slices that trials share, and check that trials can be scored on them.

    This is done once, before the first trial, so that trials do not each prepare the same slices,
    and problems that would stop every trial are found early.

    Raises
    ------
    InputError
        If a scan cannot be read; ``errors.json`` lists all such scans that trials share.
    ConfigError
        If anomalies cannot be simulated or are invisible, or no validation subject has any.
    LeakageError
        If the scan of a held-out or validation subject is on another side too, under another name.
    """
    first = config.corners()[0][1]
    (training, held_out), _ = prepare_sides(cohort, ("train", "calibration"), first, out)
    refuse_same_scan(training, held_out)
    if config.objective.kind == "simulated":
        simulate_set(held_out, config.objective, first)
        return
    validation = read_validation(cohort, config.objective.validation, first)
    sides = {
        "training": contents_of(training),
        "calibration": contents_of(held_out),
        "test": hash_test_side(cohort, first),
    }
    refuse_same_scans(validation, sides)


def _with_absolute_paths(config: TuneConfig) -> TuneConfig:
    """The search with absolute paths, for trials that run in other folders."""
    shared = copy.deepcopy(config.config)
    data, model = (shared.get(section) for section in ("data", "model"))
    teacher = model.get("teacher") if isinstance(model, dict) else None
    for section, keys in ((data, ("root", "cache")), (teacher, ("file",))):
        for key in keys:
            if isinstance(section, dict) and section.get(key):
                section[key] = str(Path(section[key]).expanduser().absolute())
    return config.model_copy(update={"config": shared})


def _without_validation(
    config: TuneConfig, objective: LabelledObjective, first: Config, cohort: Cohort
) -> tuple[TuneConfig, Cohort]:
    """Take the validation subjects, with all scans of theirs, out of the split, which becomes
    explicit lists."""
    if first.data.kind == "pictures":
        raise ConfigError(
            "objective.kind",
            expected="simulated for pictures, as all anomalous pictures are for testing",
            found="labelled",
            remedy="Set objective={kind: simulated}.",
        )
    split = cohort.split
    assert isinstance(first.data, DataConfig)
    pattern = first.data.subject_pattern
    persons = {person_of(subject, pattern) for subject in objective.validation}
    for subject in split.test:
        if person_of(subject, pattern) in persons:
            raise LeakageError(
                "objective.validation",
                expected="subjects that are not for testing",
                found=f"test subject {subject}, or another scan of that person",
                remedy="Name other subjects; with seed "
                f"{first.seed} the test subjects are {', '.join(split.test)}.",
            )
    for subject in objective.validation:
        if subject not in cohort.subjects:
            raise ConfigError(
                "objective.validation",
                expected="ids of subjects in data.root",
                found=f"{subject}, which is not there",
                remedy=f"There are {len(cohort.subjects)}, the first is {min(cohort.subjects)}.",
            )
        if cohort.subjects[subject].label is None:
            raise ConfigError(
                "objective.validation",
                expected="subjects with labels",
                found=f"{subject}, which has no label",
                remedy="Add its label (all 0 if it is healthy), or remove it from the list.",
            )
    sides = {
        side: [id for id in getattr(split, side) if person_of(id, pattern) not in persons]
        for side in SIDES
    }
    if not sides["train"]:
        raise ConfigError(
            "objective.validation",
            expected="some remaining subjects to train on",
            found="all of the training subjects",
            remedy="Name fewer subjects.",
        )
    shared = copy.deepcopy(config.config)
    shared.setdefault("data", {})["split"] = sides
    left = Split(**{side: tuple(ids) for side, ids in sides.items()})
    return config.model_copy(update={"config": shared}), Cohort(cohort.subjects, left)


def _warn_of_ignored_smoothing(config: TuneConfig, corners: Sequence[tuple[str, Config]]) -> None:
    """Warn that smoothing across slices has no effect on the simulated objective.

    Simulated anomalies are in single slices of many scans, without their neighbours.
    """
    across = any(trial.scoring.sigma_across_mm > 0 for _, trial in corners)
    if config.objective.kind == "simulated" and across:
        logger.warning(
            "trials are scored slice by slice, without scoring.sigma_across_mm: the best trial "
            "for single slices may not be the best if slices are smoothed with their neighbours"
        )


def _refuse_other_splits(corners: Sequence[tuple[str, Config]], split: Split) -> None:
    """Refuse a space in which one trial could train on what another is tested on."""
    for key, trial in corners:
        decides = key.split(".")[0] in ("seed", "data")
        if decides and load_cohort(trial).split.hash != split.hash:
            raise LeakageError(
                f"space.{key}",
                expected="trials that all have the same test subjects",
                found="a key that changes the test subjects",
                remedy="Remove it from the space, or list the subjects in data.split.",
            )


def _refuse_other_search(
    config: TuneConfig, first: Config, split: Split, out: Path, *, resume: bool
) -> None:
    if not (out / SEARCH).is_file():
        if any(not path.name.startswith(".") for path in out.iterdir()):
            raise ConfigError(
                out,
                expected="a new or empty folder for the search",
                found="files",
                remedy="Choose another --out.",
            )
        return
    if any((out / TRIALS).glob("*/trial.json")):
        raise ConfigError(
            out,
            expected="a search that this version of medrd started",
            found="a search of an earlier version, which stored its trials in another format",
            remedy="Finish it with that version, or start a new search with another --out. Its "
            "best.yaml can be trained as before.",
        )
    if not any((out / TRIALS).glob("*")):
        return  # no trial has started, so the search may be corrected and started again
    if not resume:
        raise ConfigError(
            out,
            expected="a new or empty folder for the search",
            found="another search",
            remedy="Continue it with --resume, or choose another --out.",
        )
    existing = parse_tune(read_yaml(out / SEARCH), where=str(out / SEARCH))
    now = _identity(config, first)
    for section, was in _identity(existing, existing.corners()[0][1]).items():
        key, before, after = first_difference({section: was}, {section: now[section]})
        if key:
            raise ConfigError(
                out,
                expected=f"a search with {key}: {after}",
                found=f"a search with {before}",
                remedy="Resume with the search's own settings, or choose another --out.",
            )
    if json.loads((out / SPLIT).read_text(encoding="utf-8"))["hash"] != split.hash:
        raise LeakageError(
            out,
            expected="the subjects with which the search started, on the same sides",
            found="other subjects or sides",
            remedy="Restore the data set, or choose another --out.",
        )


def _identity(config: TuneConfig, first: Config) -> dict[str, Any]:
    """The settings that must stay the same when a search is resumed."""
    raw = config.to_dict()
    return {
        "space": raw["space"],
        "objective": raw["objective"],
        "search": {key: raw["search"][key] for key in ("algorithm", "seed")},
        "stopping": raw["stopping"],
        "config": portable(first),
    }
