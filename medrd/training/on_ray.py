"""``medrd train --workers N``: one model, each of its batches shared by several processes.

The caller prepares the data, has Ray Train run the epochs, and goes on from their checkpoint as
after any training: calibration and model are its own. The workers hold what one process would
hold and read their shares from the same cache; the first of them writes. When one dies, all begin
again from the last epoch's checkpoint. See :mod:`medrd.training.team`.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medrd import errors
from medrd.config import Config
from medrd.data.slices import HealthySlices
from medrd.errors import ConfigError, MedrdError, ModelError
from medrd.extras import require_extra
from medrd.files import write_json
from medrd.run.cohort import load_cohort, try_sides
from medrd.run.device import Execution, choose_execution
from medrd.run.folder_lock import alone_in
from medrd.run.progress import progress
from medrd.run.scores_on_disk import scratch_folder
from medrd.run.signals import InterruptedRunError
from medrd.runner.cluster import (
    EVERYWHERE,
    Cluster,
    StallWarning,
    enter,
    given_address,
    ray_cluster,
    refuse_too_much,
)
from medrd.training.fit import CHECKPOINT, fit, identity_of, stopped
from medrd.training.metrics_log import read_reports, say
from medrd.training.simulation import simulator_for
from medrd.training.team import Workers
from medrd.training.train import build_detector_for, train

logger = logging.getLogger("medrd.train")

DEATHS = 3
"""As often workers may die; a training that does not survive this has another fault. Nodes that a
cloud takes back are not counted by Ray Train."""
_LOOK_S = 0.2
_STOP, _ERROR, _STARTS = "stop", "error.json", "starts.jsonl"
_NOBODY = "nobody"
"""There while no workers are at work: they wait for room, begin, or have died."""


def train_on_ray(
    config: Config,
    out: str | Path,
    *,
    workers: int,
    cpus: int | None = None,
    address: str | None = None,
    resume: bool = False,
) -> Path:
    """Train with several processes; the run folder is that of :func:`medrd.training.train.train`.

    Parameters
    ----------
    config, out, resume
        As of :func:`medrd.training.train.train`; ``train.batch_size`` is that of all workers
        together. A run may be gone on with by another number of workers, or by none.
    workers
        How many. Where there are GPUs and ``train.device`` allows it, each gets one.
    cpus
        Cores, and threads, of each. Default: an equal part of this machine's; on a cluster one,
        since nobody knows how its cores are divided among its nodes.
    address
        Of a Ray cluster whose nodes all see data, cache and ``out`` (``auto`` on one of its
        nodes). Default: ``RAY_ADDRESS``, or a cluster of this machine alone.

    Raises
    ------
    MissingExtraError
        If Ray Train is not installed.
    ConfigError
        A model without gradients, ``train.compile``, one device by number, fewer slices a batch
        than workers, no cluster at the address, or a machine that is too small.
    MedrdError
        As of :func:`medrd.training.train.train`; workers that died too often.
    InterruptedRunError
        On SIGTERM or Ctrl-C, once the checkpoint is saved.
    """
    require_extra("ray", "medrd train --workers")
    refuse_what_workers_cannot(config, workers)
    optimise = partial(_optimise, workers, cpus, given_address(address))
    return train(config, out, resume=resume, optimise=optimise)


def refuse_what_workers_cannot(config: Config, workers: int) -> None:
    """Raise ConfigError for what only one process can do."""
    settings = config.train
    wrong = None
    if settings.compile:
        wrong = ("train.compile", "false with --workers", "true", "Set train.compile=false.")
    elif settings.device not in ("auto", "cpu", "cuda"):
        wrong = ("train.device", "auto, cpu or cuda with --workers", settings.device, "Use auto.")
    elif settings.batch_size < workers:
        wrong = (
            "train.batch_size",
            f"a slice for each of {workers} workers at least",
            str(settings.batch_size),
            f"Set train.batch_size={workers} or more, or lower --workers.",
        )
    if wrong is not None:
        where, expected, found, remedy = wrong
        raise ConfigError(where, expected=expected, found=found, remedy=remedy)


@dataclass(frozen=True)
class _Order:
    """What a worker is told.

    Attributes
    ----------
    identity
        Of config and data; see :func:`medrd.training.fit.identity_of`.
    folder
        The caller's.
    scratch
        Where caller and workers leave notes for each other.
    """

    config: Config
    out: Path
    identity: str
    folder: Path
    scratch: Path
    cpus: int
    gpu: bool


# --- The caller ---


def _optimise(
    workers: int,
    cpus_each: int | None,
    address: str | None,
    config: Config,
    out: Path,
    slices: HealthySlices,
    should_stop: Callable[[], bool],
) -> dict[str, Any] | None:
    out = out.absolute()
    if (out / CHECKPOINT).is_file() and len(read_reports(out)) >= config.train.epochs:
        return None  # it was stopped after its epochs
    if len(slices) < workers:
        raise ConfigError(
            "--workers",
            expected=f"at most as many as there are healthy slices ({len(slices)})",
            found=str(workers),
            remedy="Lower --workers.",
        )
    with ray_cluster(address) as cluster, scratch_folder(out) as scratch:
        (scratch / _NOBODY).touch()
        cpus, gpu = _share_of(cluster, workers, cpus_each, config.train.device)
        order = _Order(
            config, out, identity_of(config, slices), Path.cwd(), scratch.absolute(), cpus, gpu
        )
        training = _Training(_trainer(order, workers))
        _follow(training, order, workers, should_stop)
        if (scratch / _ERROR).is_file():
            raise _error_from(json.loads((scratch / _ERROR).read_text(encoding="utf-8")))
        done = len(read_reports(out))
        if training.failure is not None:
            raise MedrdError(
                "--workers",
                expected="workers that live",
                found=f"{_starts(order)} beginnings and no end; the last word: "
                f"{_last_word(training.failure)}",
                remedy=f"{done} epochs are saved: look into Ray's logs "
                "(/tmp/ray/session_latest/logs), then go on with --resume.",
            )
        if done < config.train.epochs:
            raise stopped(done, config, out, options=f" --workers {workers}")
        first: dict[str, Any] = json.loads(
            (scratch / _STARTS).read_text(encoding="utf-8").splitlines()[-1]
        )
        return {"count": workers, **first, "restarts": _starts(order) - 1}


def _share_of(cluster: Cluster, workers: int, cpus: int | None, device: str) -> tuple[int, bool]:
    """Cores and whether a GPU for each worker; raises ConfigError where there are too few."""
    gpu = device == "cuda" or (device == "auto" and cluster.amount("GPU") > 0)
    wanted = {"CPU": float(cpus or 1), "GPU": 1.0 if gpu else 0.0}
    refuse_too_much(
        cluster, wanted, key="--workers", remedy="Lower --workers or --cpus.", processes=workers
    )
    if cpus is None:
        # On a cluster nobody knows how its cores are divided among its nodes.
        cpus = 1 if cluster.grows else max(1, int(cluster.amount("CPU")) // workers)
    return cpus, gpu


def _trainer(order: _Order, workers: int) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
    from ray.train.torch import TorchConfig, TorchTrainer

    nobody = order.scratch / _NOBODY  # a plain path: Ray's controller need not import medrd

    class Deaths(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: Any) -> None:
            nobody.touch()

    callbacks: Any = [Deaths()]  # the stubs know Ray Tune's alone
    share = {"CPU": float(order.cpus)} | ({"GPU": 1.0} if order.gpu else {})
    return TorchTrainer(
        _work,
        train_loop_config={"order": order},
        torch_config=TorchConfig(backend="nccl" if order.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=order.gpu, resources_per_worker=share
        ),
        run_config=RunConfig(
            name="workers",
            storage_path=str(order.scratch / "ray"),
            failure_config=FailureConfig(max_failures=DEATHS),
            callbacks=callbacks,
        ),
    )


class _Training:
    """Ray Train at work in a thread: in the main one it would take Ctrl-C for itself."""

    def __init__(self, trainer: Any) -> None:
        self.failure: Exception | None = None
        self._trainer = trainer
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def goes_on(self, wait_s: float) -> bool:
        """Whether it has not ended within so many seconds."""
        self._thread.join(wait_s)
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # the caller's to judge
            self.failure = error


def _follow(
    training: _Training, order: _Order, workers: int, should_stop: Callable[[], bool]
) -> None:
    """Tell of epochs and deaths as the workers put them on record, and pass on a stop.

    With nobody at work to hear of a stop, it returns at once.
    """
    told, starts, stall = len(read_reports(order.out)), 1, StallWarning()
    epochs = order.config.train.epochs
    with progress(f"training with {workers} workers", epochs, done=told) as advance:
        alive = True
        # Ray would begin all of them again, to learn that they fail again.
        while alive and not (order.scratch / _ERROR).is_file():
            alive = training.goes_on(_LOOK_S)
            stop = should_stop()
            if stop:
                (order.scratch / _STOP).touch()
            # After the stop was passed on: who begins now hears of it.
            nobody = (order.scratch / _NOBODY).exists()
            if stop and nobody:
                return
            stall.check(at_work=not nobody)
            for report in read_reports(order.out)[told:]:
                say(report)
                advance(note=f"loss {report.loss:.4f}  {report.slices_per_s:.0f} slices/s")
                told += 1
            if _starts(order) > starts:
                starts = _starts(order)
                logger.warning("a worker has died; all go on from the last checkpoint")


def _starts(order: _Order) -> int:
    """How often the workers have begun."""
    path = order.scratch / _STARTS
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0


def _error_from(content: dict[str, str]) -> MedrdError:
    kind = getattr(errors, content.pop("error"), MedrdError)
    error: MedrdError = kind(content.pop("where"), **content)
    return error


def _last_word(failure: Exception) -> str:
    causes = list(getattr(failure, "worker_failures", {}).values()) or [failure]
    lines = [line.strip() for line in str(causes[0]).splitlines() if line.strip()]
    return lines[-1] if lines else type(causes[0]).__name__


# --- A worker ---


def _work(settings: dict[str, Any]) -> None:
    """What runs in each worker."""
    order: _Order = settings["order"]
    if not order.scratch.is_dir() or (order.scratch / _ERROR).is_file():
        return  # the caller has gone; or all were begun again, and would fail again
    try:
        _fit_share(order)
    except InterruptedRunError:
        return  # the caller knows
    except MedrdError as error:
        write_json(order.scratch / _ERROR, error.to_dict())
        raise  # frees the others, who may wait for this one


def _fit_share(order: _Order) -> None:
    import ray.train.torch

    enter(order.folder)
    torch.set_num_threads(order.cpus)
    config = order.config
    detector = build_detector_for(config)
    cohort = load_cohort(config)
    cached, _ = try_sides(cohort, ("train",), config)
    slices = HealthySlices(
        [cached[subject.id] for subject in cohort.side("train") if subject.id in cached],
        margin=config.data.healthy_margin,
    )
    if identity_of(config, slices) != order.identity:
        raise ModelError(
            config.data.root or "data.root",
            expected="the same training slices on every node",
            found=f"others on one ({len(slices)} of {len(cached)} subjects)",
            remedy=EVERYWHERE,
        )
    device = str(ray.train.torch.get_device()) if order.gpu else "cpu"
    execution = choose_execution(device, config.train.precision)
    execution.place(detector)
    team = Workers(detector)
    # A leader that is taken for dead, on a node out of reach, may still be writing.
    with alone_in(order.out, "training", wait=True) if team.leads else nullcontext():
        if team.leads:
            _put_on_record(order, execution)
        fit(
            detector,
            simulator_for(config, detector),
            slices,
            config,
            execution,
            order.out,
            should_stop=lambda: team.leads and _is_over(order),
            team=team,
        )


def _is_over(order: _Order) -> bool:
    """Whether a stop was asked for; a caller that has left can ask no more."""
    return (order.scratch / _STOP).exists() or not order.scratch.is_dir()


def _put_on_record(order: _Order, execution: Execution) -> None:
    """That the workers have begun, and on what."""
    (order.scratch / _NOBODY).unlink(missing_ok=True)
    record = {"device": execution.device.type, "precision": execution.precision}
    with (order.scratch / _STARTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record | {"threads": order.cpus}) + "\n")
        file.flush()
        os.fsync(file.fileno())
