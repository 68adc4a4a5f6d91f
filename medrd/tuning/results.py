"""The results of a search: ``trials.csv``, ``best.yaml``, ``best/`` and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medrd.config import load_config
from medrd.files import write_text
from medrd.run.cohort import load_cohort
from medrd.run.model_folder import copy_model
from medrd.run.outputs import make_folder
from medrd.tuning.config import TuneConfig
from medrd.tuning.figures import save_figures
from medrd.tuning.trial import TRIALS
from medrd.tuning.trials import Trial, best_of, trials_csv
from medrd.tuning.validation import read_validation


def write_results(config: TuneConfig, trials: Sequence[Trial], search: Path) -> None:
    """Write the table of a search's trials, the best config and model, and the figures."""
    write_text(search / "trials.csv", trials_csv(trials))
    best = best_of(trials)
    if best is not None:
        run = search / TRIALS / best.name / "run"
        make_folder(search / "best")
        copy_model(run / "model", search / "best", seen=_chosen_on(config, best))
        write_text(search / "best.yaml", load_config(run / "config.yaml").to_yaml())
    save_figures(config.space, trials, search)


def _chosen_on(config: TuneConfig, best: Trial) -> dict[str, dict[str, str]]:
    """Hashes of the validation scans, whose labels were used to choose the best model."""
    if config.objective.kind != "labelled":
        return {}
    trial = config.trial_config(best.point)  # the hash covers the modalities of the recipe
    validation = read_validation(load_cohort(trial), config.objective.validation, trial)
    return {"validation_subjects": validation}
