"""The folder of a search: what it holds must be one search on one split of one data set."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medrd.config import Config
from medrd.config.difference import first_difference
from medrd.config.load import read_yaml
from medrd.data.split import SIDES, Split
from medrd.errors import ConfigError, LeakageError
from medrd.files import write_json, write_text
from medrd.run.cohort import Cohort, contents_of, load_cohort, prepare_sides, refuse_same_scan
from medrd.training.fit import portable
from medrd.tuning.config import LabelledObjective, TuneConfig, make_tune
from medrd.tuning.objective import simulate_set
from medrd.tuning.trial import SEARCH, SPLIT, TRIALS
from medrd.tuning.validation import hash_test_side, read_validation, refuse_same_scans

logger = logging.getLogger("medrd.tune")


def open_search(config: TuneConfig, out: Path, *, resume: bool) -> TuneConfig:
    """Check a search against its data and its folder, and put it on record there.

    Parameters
    ----------
    out
        The search's folder: there already, and held by this process.
    resume
        Go on with what is in it.

    Returns
    -------
    TuneConfig
        The search as it stands in ``search.yaml``: with absolute paths and, where validation
        subjects are taken out of the others, with lists of those.

    Raises
    ------
    ConfigError
        No data, trials with different test subjects, nothing to judge by, or a folder that
        holds something else.
    LeakageError
        Test subjects were asked for as validation.
    """
    config = _with_absolute_paths(config)
    corners = config.corners()
    cohort = load_cohort(corners[0][1])
    if config.objective.kind == "labelled":
        config = _with_validation(config, config.objective, cohort)
        corners = config.corners()
        cohort = load_cohort(corners[0][1])
    elif not cohort.split.calibration:
        raise ConfigError(
            "data.split.calibration",
            expected="held-out subjects to simulate anomalies in",
            found="none",
            remedy="Give it some subjects; no test subject may judge a trial.",
        )
    _warn_of_smoothing_unseen(config, corners)
    _refuse_other_splits(corners, cohort.split)
    _refuse_other_search(config, cohort.split, out, resume=resume)
    write_text(out / SEARCH, config.to_yaml())
    write_json(out / SPLIT, {"hash": cohort.split.hash, **asdict(cohort.split)})
    return config


def prepare_search(config: TuneConfig, out: Path) -> None:
    """Prepare the slices that trials share, and see that there is something to judge them by.

    Once for all trials and before the first: they need not all prepare at once, nor train for an
    epoch to find out what no trial can succeed with.

    Raises
    ------
    InputError
        A subject cannot be read; ``errors.json`` lists all of those that trials share.
    ConfigError
        Simulated anomalies that cannot be put in or seen, or validation subjects without any.
    LeakageError
        The scan of a held-out or validation subject is on another side too, under another name.
    """
    first = config.corners()[0][1]
    cohort = load_cohort(first)
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
    """Trials may run in other folders than the command."""
    raw = config.to_dict()
    data, model = (raw["config"].get(section) for section in ("data", "model"))
    for section, keys in ((data, ("root", "cache")), ((model or {}).get("teacher"), ("file",))):
        for key in keys:
            if isinstance(section, dict) and section.get(key):
                section[key] = str(Path(section[key]).expanduser().absolute())
    return make_tune(raw)


def _with_validation(config: TuneConfig, wanted: LabelledObjective, cohort: Cohort) -> TuneConfig:
    """The search with validation subjects out of its split, which becomes explicit lists."""
    first = config.corners()[0][1]
    if first.data.kind == "pictures":
        raise ConfigError(
            "objective.kind",
            expected="simulated for pictures, whose anomalous ones are all for testing",
            found="labelled",
            remedy="Set objective={kind: simulated}.",
        )
    split = cohort.split
    for subject in wanted.validation:
        if subject in split.test:
            raise LeakageError(
                "objective.validation",
                expected="subjects that are not for testing",
                found=f"test subject {subject}",
                remedy="Name others; with seed "
                f"{first.seed} the test subjects are {', '.join(split.test)}.",
            )
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
                found=f"{subject}, which has none",
                remedy="Add its label (all 0 where it is healthy), or take it out.",
            )
    sides = {
        side: [id for id in getattr(split, side) if id not in wanted.validation] for side in SIDES
    }
    if not sides["train"]:
        raise ConfigError(
            "objective.validation",
            expected="some subjects to be left to train on",
            found="all of them",
            remedy="Name fewer.",
        )
    raw = config.to_dict()
    raw["config"].setdefault("data", {})["split"] = sides
    return make_tune(raw)


def _warn_of_smoothing_unseen(config: TuneConfig, corners: Sequence[tuple[str, Config]]) -> None:
    """Simulated anomalies lie in slices of many scans, out of their stacks."""
    across = any(trial.scoring.sigma_across_mm > 0 for _, trial in corners)
    if config.objective.kind == "simulated" and across:
        logger.warning(
            "trials are judged slice by slice, without scoring.sigma_across_mm: the best for "
            "single slices need not be the best for slices that are smoothed with their neighbours"
        )


def _refuse_other_splits(corners: Sequence[tuple[str, Config]], split: Split) -> None:
    """What one trial trains on must not be what another is tested on."""
    for key, trial in corners:
        decides = key.split(".")[0] in ("seed", "data")
        if decides and load_cohort(trial).split.hash != split.hash:
            raise LeakageError(
                f"space.{key}",
                expected="trials that all have the same test subjects",
                found="a key that changes who they are",
                remedy="Take it out of the space, or list the subjects in data.split.",
            )


def _refuse_other_search(config: TuneConfig, split: Split, out: Path, *, resume: bool) -> None:
    if not (out / SEARCH).is_file():
        if any(not path.name.startswith(".") for path in out.iterdir()):
            raise ConfigError(
                out,
                expected="a new or empty folder for the search",
                found="files",
                remedy="Give another --out.",
            )
        return
    if not any((out / TRIALS).glob("*")):
        return  # nothing was tried yet: what was found wrong with it has been mended
    if not resume:
        raise ConfigError(
            out,
            expected="a new or empty folder for the search",
            found="another one",
            remedy="Go on with it by --resume, or give another --out.",
        )
    there = make_tune(read_yaml(out / SEARCH), where=str(out / SEARCH))
    now = _identity(config)
    for section, was in _identity(there).items():
        key, before, wanted = first_difference({section: was}, {section: now[section]})
        if key:
            raise ConfigError(
                out,
                expected=f"a search with {key}: {wanted}",
                found=f"one with {before}",
                remedy="Resume with the search's own settings, or give another --out.",
            )
    if json.loads((out / SPLIT).read_text(encoding="utf-8"))["hash"] != split.hash:
        raise LeakageError(
            out,
            expected="the subjects that the search began with, on the same sides",
            found="others",
            remedy="Put the data set back as it was, or give another --out.",
        )


def _identity(config: TuneConfig) -> dict[str, Any]:
    """What must be the same for a search to be gone on with."""
    raw = config.to_dict()
    return {
        "space": raw["space"],
        "objective": raw["objective"],
        "search": {key: raw["search"][key] for key in ("algorithm", "seed")},
        "stopping": raw["stopping"],
        "config": portable(config.corners()[0][1]),
    }
