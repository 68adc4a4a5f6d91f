"""What a search leaves: ``trials.csv``, ``best.yaml``, ``best/`` and ``search.png``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medrd.config import load_config
from medrd.files import write_text
from medrd.run.cohort import load_cohort
from medrd.run.model_folder import copy_model
from medrd.run.outputs import make_folder
from medrd.tuning.config import TuneConfig
from medrd.tuning.figure import save_search_figure
from medrd.tuning.optuna_space import distributions, encode
from medrd.tuning.space import Space
from medrd.tuning.trial import TRIALS, read_trials
from medrd.tuning.trials import Trial, best_of, trials_csv
from medrd.tuning.validation import read_validation

MIN_TRIALS = 8
"""With fewer judged trials, importances are noise."""


def write_results(config: TuneConfig, search: Path) -> list[Trial]:
    """Gather the trials of a search's folder and write what they have come to."""
    trials = read_trials(search)
    write_text(search / "trials.csv", trials_csv(trials))
    best = best_of(trials)
    if best is not None:
        _keep_best(search, search / TRIALS / best.name / "run", seen=_chosen_on(config, best))
    if any(trial.objective is not None for trial in trials):
        found = importances(config.space, trials)
        save_search_figure(config.space, trials, found, search / "search.png")
    return trials


def _keep_best(search: Path, run: Path, *, seen: Mapping[str, Any]) -> None:
    """The best trial's config and model under names that stay."""
    make_folder(search / "best")
    copy_model(run / "model", search / "best", seen=seen)
    write_text(search / "best.yaml", load_config(run / "config.yaml").to_yaml())


def _chosen_on(config: TuneConfig, best: Trial) -> dict[str, dict[str, str]]:
    """What the best model has seen beside its training: the scans whose labels chose it."""
    if config.objective.kind != "labelled":
        return {}
    trial = config.trial_config(best.point)  # its recipe decides what a scan's hash is taken of
    validation = read_validation(load_cohort(trial), config.objective.validation, trial)
    return {"validation_subjects": validation}


def importances(space: Space, trials: Sequence[Trial]) -> dict[str, float]:
    """The share of the objective's variance that each key explains, by functional ANOVA.

    Over the trials that were trained to their end (Hutter et al., ICML 2014, as optuna has it).
    Empty where there are fewer than :data:`MIN_TRIALS`, or where all are alike.
    """
    judged = [t for t in trials if t.status == "finished" and t.objective is not None]
    if len(judged) < MIN_TRIALS or len({trial.objective for trial in judged}) < 2:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space_there = distributions(space)
    study = optuna.create_study(direction="maximize")
    for trial in judged:
        study.add_trial(
            optuna.trial.create_trial(
                params=encode(space, trial.point),
                distributions=space_there,
                value=trial.objective,
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: found.get(key, 0.0) for key in space}
