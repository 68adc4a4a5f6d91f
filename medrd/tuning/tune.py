"""``medrd tune``: a search over any key of a config, on a laptop or on a Ray cluster.

Ray Tune schedules the trials, stops some of them early, and stores the state of the search.
Ray is imported inside the functions.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from medrd.errors import ConfigError
from medrd.extras import require_extra
from medrd.run.folder_lock import lock_folder
from medrd.run.outputs import make_folder
from medrd.run.signals import InterruptedRunError, stop_on_signals
from medrd.runner.cluster import (
    Cluster,
    given_address,
    ray_cluster,
    refuse_too_much,
    settle_environment,
)
from medrd.tuning.config import TuneConfig
from medrd.tuning.folder import open_search, prepare_search
from medrd.tuning.results import write_results
from medrd.tuning.space import Point
from medrd.tuning.trial import TRIALS, run_trial
from medrd.tuning.trials import Trial, trials_of

if TYPE_CHECKING:
    from ray.tune import Callback

logger = logging.getLogger("medrd.tune")

_RAY = "ray"
"""Folder in the search's folder for Ray's state and logs, and TensorBoard's files."""
_SAVE_EVERY_S = "5"
"""Interval at which Ray saves the state. After a kill, trials that started later are lost."""


def tune(
    config: TuneConfig,
    out: str | Path,
    *,
    address: str | None = None,
    resume: bool = False,
    dashboard: bool = False,
) -> list[Trial]:
    """Search, and write the results.

    Parameters
    ----------
    config
        A search as :func:`medrd.tuning.config.load_tune` returns it, with ``data.root`` set.
    out
        The search's folder, which all nodes must see. It must be new, unless ``resume``. Results
        are ``trials/`` with a run folder for each trial, ``trials.csv``, ``best.yaml``, ``best/``
        (a model), figures, and Ray's own files in ``ray/``.
    address
        Address of a Ray cluster (``auto`` on one of its nodes). Default: ``RAY_ADDRESS``, or a
        temporary cluster on this machine.
    resume
        Continue the search in ``out``: its unfinished trials from their checkpoints, then new
        ones. ``search.samples`` may be higher than before. Ray's state of the search is
        unpickled, so resume only folders that you trust.
    dashboard
        Let Ray serve its dashboard (needs ``ray[default]``).

    Returns
    -------
    list of Trial
        All trials, in the order in which they were drawn.

    Raises
    ------
    MissingExtraError
        If Ray Tune or Optuna is not installed.
    ConfigError
        If :func:`medrd.tuning.folder.open_search` refuses the search, resources are missing,
        no cluster answers at the address, or another process is searching in ``out``.
    InputError
        If a scan that trials share cannot be read.
    InterruptedRunError
        On SIGTERM or Ctrl-C, once the state of the search is saved.
    """
    require_extra("tune", "medrd tune")
    settle_environment()
    if dashboard and given_address(address):
        raise ConfigError(
            "--dashboard",
            expected="a Ray that this call starts",
            found=f"the cluster at {given_address(address)}, which serves its own or none",
            remedy="Leave it out, or start the cluster with its dashboard.",
        )
    out = Path(out).absolute()
    make_folder(out)
    with lock_folder(out, "search"):
        config, cohort = open_search(config, out, resume=resume)
        prepare_search(config, cohort, out)
        trials = _known_trials(out)
        if len(trials) < config.trials or any(t.status == "unfinished" for t in trials):
            with ray_cluster(given_address(address), dashboard=dashboard) as cluster:
                refuse_small_cluster(config, cluster)
                trials = _search(config, cohort.split.hash, out)
        write_results(config, trials, out)
        return trials


def _known_trials(out: Path) -> list[Trial]:
    """Read the trials of a search from Ray's state, without starting Ray."""
    from ray.tune import ExperimentAnalysis

    from medrd.tuning.searcher import unpack_state

    if not any((out / TRIALS).glob("*")):
        shutil.rmtree(out / _RAY, ignore_errors=True)  # no trial had begun when it was stopped
    if not unpack_state(out / _RAY):
        return []
    return trials_of(ExperimentAnalysis(str(out / _RAY)).trials or [])


def refuse_small_cluster(config: TuneConfig, cluster: Cluster) -> None:
    """Refuse trials that need more resources than there are."""
    needed = {"CPU": config.resources.cpus, "GPU": config.resources.gpus}
    refuse_too_much(cluster, needed, key="resources.{name}", remedy="Lower resources.{name}.")
    if cluster.amount("GPU") and not config.resources.gpus:
        logger.warning("there are GPUs, but the trials use none: see resources.gpus")


def _search(config: TuneConfig, split_hash: str, out: Path) -> list[Trial]:
    """Run Ray Tune, from its state if there is one, until all trials are done or time is up."""
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", _SAVE_EVERY_S)
    from ray import tune as ray_tune

    from medrd.tuning.searcher import (
        ResumableSearch,
        SearchStoppedError,
        Watcher,
        make_scheduler,
        make_searcher,
        unpack_state,
    )

    budget = config.search.time_budget_s
    end = math.inf if budget is None else time.monotonic() + budget
    scheduler = make_scheduler(config)
    experiment = ray_tune.Experiment(
        name=_RAY,
        run=_trainable(config, split_hash, out),
        num_samples=config.trials,
        storage_path=str(out),
        resources_per_trial={"cpu": config.resources.cpus, "gpu": config.resources.gpus},
        max_failures=config.resources.retries,
        trial_dirname_creator=lambda trial: trial.trial_id,
    )
    search = ResumableSearch(make_searcher(config), scheduler, experiment, out / _RAY)
    with stop_on_signals() as stop:
        watcher = Watcher(
            search, out / "trials.csv", config.trials, lambda: bool(stop) or time.monotonic() > end
        )
        try:
            # Ray's Tuner would take settings and callbacks from a pickle of the first session.
            ray_tune.run(
                experiment,  # type: ignore[arg-type]
                search_alg=search,
                scheduler=scheduler,
                resume="AUTO+ERRORED" if unpack_state(out / _RAY) else None,
                # A process imports torch once, not once per trial.
                reuse_actors=True,
                callbacks=[watcher, *_mlflow(config, out)],
                raise_on_failed_trial=False,
                verbose=0,
            )
        except (SearchStoppedError, KeyboardInterrupt):
            if time.monotonic() <= end:
                watcher.write_table()
                raise InterruptedRunError(
                    f"stopped; saved. Continue with --out {quote(str(out))} --resume"
                ) from None
            logger.info(
                "the time budget is spent; continue with --out %s --resume", quote(str(out))
            )
        return watcher.rows()


def _trainable(config: TuneConfig, split_hash: str, out: Path) -> Callable[[dict[str, Any]], None]:
    """Make the function that Ray runs for each trial, in a separate process."""
    threads = max(1, int(config.resources.cpus))

    def medrd_trial(point: Point) -> None:
        import torch
        from ray import tune as ray_tune

        torch.set_num_threads(threads)
        folder = out / TRIALS / ray_tune.get_context().get_trial_id()
        try:
            run_trial(config, split_hash, point, folder, lambda each: ray_tune.report(asdict(each)))
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # for the other trials on this GPU

    return medrd_trial


def _mlflow(config: TuneConfig, out: Path) -> list[Callback]:
    """If MLflow is installed, a logger to its server or to ``mlflow.db``."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out / 'mlflow.db'}"
    try:
        from mlflow.tracking import MlflowClient

        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except ImportError:
        return []
    except Exception as error:  # problems of MLflow must not stop the search
        why, *_ = str(error).splitlines() or [type(error).__name__]
        logger.warning("nothing is logged to MLflow at %s: %s", uri, why)
        return []
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return [MLflowLoggerCallback(tracking_uri=uri, experiment_name=config.name)]
