"""``medrd tune``: a search over any key of a config, on a laptop or on a Ray cluster.

Ray decides what runs where and which trials stop early. What a search knows lies in its folder
(:mod:`medrd.tuning.trial`), not in Ray's pickles: a killed search is a new session of Ray
that is told what the folder holds. Ray is imported inside the functions.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from medrd.extras import require_extra
from medrd.files import write_text
from medrd.run.folder_lock import alone_in
from medrd.run.outputs import make_folder
from medrd.run.signals import InterruptedRunError
from medrd.runner.cluster import Cluster, given_address, ray_cluster, refuse_too_much
from medrd.tuning.config import TuneConfig
from medrd.tuning.folder import open_search, prepare_search
from medrd.tuning.live_table import Show, live_table
from medrd.tuning.optuna_space import decode, distributions, encode
from medrd.tuning.plan import Plan, what_is_left
from medrd.tuning.results import write_results
from medrd.tuning.space import Point, Space
from medrd.tuning.trial import (
    begin_trial,
    has_failed,
    read_objectives,
    read_trial,
    read_trials,
    record_death,
    run_trial,
    stop_trial,
    trial_folder,
)
from medrd.tuning.trials import Trial, trials_csv

if TYPE_CHECKING:
    from ray.tune import Callback
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher

logger = logging.getLogger("medrd.tune")

_METRIC, _TIME = "objective", "epoch"
_WORST = 0.0
"""What a trial that has failed is to the search: as bad as can be."""
_POINT = "point"


def tune(
    config: TuneConfig,
    out: str | Path,
    *,
    address: str | None = None,
    resume: bool = False,
    dashboard: bool = False,
) -> list[Trial]:
    """Search, and write what has come of it.

    Parameters
    ----------
    config
        From :func:`medrd.tuning.config.load_tune`, with ``data.root`` set.
    out
        The search's folder, which all nodes must see. It must be new, unless ``resume``. It gets
        ``trials/`` with a run folder each, ``trials.csv``, ``best.yaml``, ``best/`` (a model) and
        ``search.png``.
    address
        Of a Ray cluster (``auto`` on one of its nodes). Default: ``RAY_ADDRESS``, or a cluster
        of this machine alone for the time of the search.
    resume
        Go on with the search in ``out``: its unfinished trials from their checkpoints, then new
        ones. ``search.samples`` may be higher than it was.
    dashboard
        Let Ray serve its dashboard (needs ``ray[default]``).

    Returns
    -------
    list of Trial
        In the order in which they began.

    Raises
    ------
    MissingExtraError
        If Ray Tune or Optuna is not installed.
    ConfigError
        What :func:`medrd.tuning.folder.open_search` refuses, resources that are not there,
        no cluster at the address, or another search at work in ``out``.
    InputError
        A subject that trials share cannot be read.
    InterruptedRunError
        On SIGTERM or Ctrl-C; the trials' checkpoints are saved.
    """
    require_extra("tune", "medrd tune")
    out = Path(out).absolute()
    make_folder(out)
    with alone_in(out, "search"):
        config = open_search(config, out, resume=resume)
        prepare_search(config, out)
        before = read_trials(out)
        plan = what_is_left(config, before)
        if plan.trials > 0:
            try:
                with ray_cluster(given_address(address), dashboard=dashboard) as cluster:
                    _refuse_too_much(config, cluster)
                    _search(config, out, before, plan)
            except KeyboardInterrupt:
                write_text(out / "trials.csv", trials_csv(read_trials(out)))
                raise InterruptedRunError(
                    f"stopped; saved. Go on with --out {out} --resume"
                ) from None
        return write_results(config, out)


def _refuse_too_much(config: TuneConfig, cluster: Cluster) -> None:
    """Of one trial, more than there is."""
    wanted = {"CPU": config.resources.cpus, "GPU": config.resources.gpus}
    refuse_too_much(cluster, wanted, key="resources.{name}", remedy="Lower resources.{name}.")
    if cluster.amount("GPU") and not config.resources.gpus:
        logger.warning("there are GPUs, and the trials use none: see resources.gpus")


def _search(config: TuneConfig, out: Path, before: Sequence[Trial], plan: Plan) -> None:
    """Run Ray Tune until the plan is done or the time is up."""
    from ray import tune as ray_tune

    session = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    searcher, param_space, samples = None, {}, 1
    if config.search.algorithm == "optuna":
        searcher, samples = _optuna(config, before, plan), plan.trials
    else:
        param_space = {_POINT: ray_tune.grid_search(plan.points)}
    with live_table(plan.trials + sum(t.status != "unfinished" for t in before)) as show:
        tuner = ray_tune.Tuner(
            ray_tune.with_resources(
                _trainable(config, out),
                {"cpu": config.resources.cpus, "gpu": config.resources.gpus},
            ),
            param_space=param_space,
            tune_config=ray_tune.TuneConfig(
                search_alg=searcher,
                scheduler=_scheduler(config, out, before),
                num_samples=samples,
                max_concurrent_trials=config.search.concurrent or None,
                time_budget_s=config.search.time_budget_s,
                # A process imports torch once, not once a trial; one that failed is not reused.
                reuse_actors=True,
                trial_dirname_creator=lambda trial: (
                    f"{trial_folder(out, _point(config.space, trial.config)).name}-{trial.trial_id}"
                ),
            ),
            run_config=ray_tune.RunConfig(
                name=session,
                storage_path=str(out / "ray"),
                verbose=0,
                callbacks=[_watcher(config, out, show), *_mlflow(config, out)],
                failure_config=ray_tune.FailureConfig(max_failures=config.resources.retries),
            ),
        )
        tuner.fit()


def _trainable(config: TuneConfig, out: Path) -> Callable[[dict[str, Any]], None]:
    """What Ray runs for each trial, in a process of its own."""
    space, threads = config.space, max(1, int(config.resources.cpus))

    def medrd_trial(drawn: dict[str, Any]) -> None:
        import torch
        from ray import tune as ray_tune

        point = _point(space, drawn)
        torch.set_num_threads(threads)
        try:
            run_trial(out, point, lambda report: ray_tune.report(asdict(report)))
        except Exception:
            # Raising would have Ray try again what fails again. Only who dies is tried again.
            if not has_failed(out, point):
                raise
            ray_tune.report({_METRIC: _WORST, _TIME: 0})
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # for the other trials on this GPU

    return medrd_trial


def _point(space: Space, drawn: dict[str, Any]) -> Point:
    """What Ray hands to a trial, as values: a whole point, or optuna's own terms."""
    point: Point | None = drawn.get(_POINT)
    return decode(space, drawn) if point is None else point


def _optuna(config: TuneConfig, before: Sequence[Trial], plan: Plan) -> Searcher:
    """Optuna, told of every trial there is; unfinished ones come first."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = config.search.seed
    if before:  # the same seed again would draw the same points again
        seed = random.Random(f"{seed}:{len(before)}").randrange(2**31)
    searcher = OptunaSearch(
        distributions(config.space),
        metric=_METRIC,
        mode="max",
        seed=seed,
        points_to_evaluate=[encode(config.space, point) for point in plan.points] or None,
    )
    for trial in before:
        if trial.status != "unfinished":
            value = _WORST if trial.status == "failed" else trial.objective
            searcher.add_evaluated_point(encode(config.space, trial.point), value or _WORST)
    return searcher


def _scheduler(config: TuneConfig, out: Path, before: Sequence[Trial]) -> TrialScheduler | None:
    """Successive halving that has seen what earlier sessions have; None to stop nothing."""
    from ray.tune.schedulers import ASHAScheduler

    longest = max(trial.train.epochs for _, trial in config.corners())
    if config.stopping.kind == "none" or config.stopping.grace_epochs >= longest:
        return None
    scheduler = ASHAScheduler(
        time_attr=_TIME,
        metric=_METRIC,
        mode="max",
        max_t=longest,
        grace_period=config.stopping.grace_epochs,
        reduction_factor=config.stopping.reduction,
    )
    for trial in before:
        if trial.status in ("finished", "stopped"):
            stand_in: Any = SimpleNamespace(trial_id=trial.name)
            controller: Any = None
            scheduler.on_trial_add(controller, stand_in)
            for epoch, objective in read_objectives(trial_folder(out, trial.point)).items():
                result = {_TIME: epoch, _METRIC: objective}
                scheduler.on_trial_result(controller, stand_in, result)
    return scheduler


def _watcher(config: TuneConfig, out: Path, show: Show) -> Callback:
    """Puts on record what trials cannot say themselves, and shows how the search goes."""
    from ray.tune import Callback

    begun, budget = time.monotonic(), config.search.time_budget_s
    seen = {trial.name: trial for trial in read_trials(out)}

    def look(drawn: dict[str, Any]) -> None:
        folder = begin_trial(out, _point(config.space, drawn))
        seen[folder.name] = read_trial(folder)
        show(list(seen.values()), seen[folder.name])

    class Watcher(Callback):
        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any
        ) -> None:
            look(trial.config)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            if budget is not None and time.monotonic() - begun >= budget:
                return  # cut off, to be gone on with
            folder = begin_trial(out, _point(config.space, trial.config))
            if read_trial(folder).status == "unfinished":
                stop_trial(folder)
            look(trial.config)
            write_text(out / "trials.csv", trials_csv(read_trials(out)))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            folder = begin_trial(out, _point(config.space, trial.config))
            if read_trial(folder).status == "unfinished":
                record_death(folder, _last_words(trial))
            look(trial.config)
            write_text(out / "trials.csv", trials_csv(read_trials(out)))

    return Watcher()


def _last_words(trial: Any) -> str:
    """Why a process has died that could not say so itself, by Ray's account."""
    error = trial.get_pickled_error()
    error = getattr(error, "cause", None) or error  # what was raised there, not what it became
    lines = [line for line in str(error).splitlines() if line.strip()] if error else []
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else "its process has died"


def _mlflow(config: TuneConfig, out: Path) -> list[Callback]:
    """A logger to MLflow's server or, without one, to ``mlflow.db``, if it is installed."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out / 'mlflow.db'}"
    try:
        from mlflow.tracking import MlflowClient

        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except ImportError:
        return []
    except Exception as error:  # a search must not end for its log
        logger.warning("nothing is logged to MLflow at %s: %s", uri, str(error).splitlines()[0])
        return []
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return [MLflowLoggerCallback(tracking_uri=uri, experiment_name=config.name)]
