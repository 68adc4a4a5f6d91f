"""Optuna's figures of a search: its history, the importance of keys, and their good values."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrd.files import atomic_path
from medrd.tuning.space import Choice, Dimension, Space
from medrd.tuning.trials import Trial, as_text

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

MIN_TRIALS = 8
"""Fewest finished trials for importances; with fewer, they are noise."""


def save_figures(space: Space, trials: Sequence[Trial], folder: Path) -> None:
    """Write ``search-*.png`` into a folder; only trials that were trained to their end are shown.

    ``search-history.png`` shows the objective by trial, ``search-values.png`` the objective over
    the values of each key, and ``search-importances.png`` the share of the objective's variance
    that each key explains, by functional ANOVA (Hutter et al., ICML 2014). The last one needs
    :data:`MIN_TRIALS` finished trials.
    """
    finished = [trial.objective for trial in trials if trial.status == "finished"]
    if not finished:
        return
    import matplotlib.pyplot as plt
    import numpy as np
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import matplotlib as plots

    study = study_of(space, trials)
    with warnings.catch_warnings(), plt.style.context("default"):  # Optuna sets a style for good
        warnings.simplefilter("ignore")  # and calls its plots experimental
        drawn: dict[str, Any] = {
            "history": plots.plot_optimization_history(study),
            "values": plots.plot_slice(study),
        }
        if len(finished) >= MIN_TRIALS and len(set(finished)) > 1:
            fanova = FanovaImportanceEvaluator(seed=0)
            drawn["importances"] = plots.plot_param_importances(study, evaluator=fanova)
        for name, axes in drawn.items():
            figure = np.ravel(axes)[0].figure
            if name == "values":
                figure.set_size_inches(2 + 4 * len(space), 5)
            with atomic_path(folder / f"search-{name}.png") as temporary:
                figure.savefig(temporary, format="png", dpi=160, bbox_inches="tight")
            plt.close(figure)


def study_of(space: Space, trials: Sequence[Trial]) -> Study:
    """The trials as a study of Optuna, where only finished ones are complete."""
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for trial in trials:
        params, distributions = {}, {}
        for key, dimension in space.items():
            name = f"{key} [{dimension.unit}]" if dimension.unit else key
            params[name], distributions[name] = _as_plain(dimension, trial.point[key])
        finished = trial.status == "finished"
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE if finished else TrialState.FAIL,
                value=trial.objective if finished else None,
                params=params,
                distributions=distributions,
            )
        )
    return study


def _as_plain(dimension: Dimension, value: Any) -> tuple[Any, BaseDistribution]:
    """A value and its distribution; as texts if the choices are lists or sections."""
    from optuna.distributions import CategoricalDistribution

    if not isinstance(dimension, Choice) or not any(
        isinstance(each, list | dict) for each in dimension.values
    ):
        return value, dimension.distribution()
    texts = [as_text(each) for each in dimension.values]
    if len(set(texts)) < len(texts):  # for example two settings of one model
        texts = [json.dumps(each) for each in dimension.values]
    return texts[dimension.values.index(value)], CategoricalDistribution(texts)
