"""``medrd train --workers N``: one model, each of its batches shared by several processes.

The command prepares the data and lets Ray Train run the epochs. It then continues from their
checkpoint as after any training: it calibrates and saves the model itself. Every worker holds the
whole model and reads its share of each batch from the same cache; the first one writes the run
folder. When a worker dies, all begin again from the last checkpoint. See
:mod:`medrd.training.worker`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medrd.config import Config
from medrd.data.slices import HealthySlices
from medrd.errors import ConfigError, MedrdError, ModelError
from medrd.extras import require_extra
from medrd.run.cohort import load_cohort, try_sides
from medrd.run.device import choose_execution
from medrd.run.folder_lock import lock_folder
from medrd.run.outputs import scratch_folder
from medrd.run.progress import Advance, progress
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
from medrd.training.board import Board
from medrd.training.fit import CHECKPOINT, fit, identity_of, stopped
from medrd.training.metrics_log import log_epoch, read_epochs
from medrd.training.setup import Training, build_detector_for
from medrd.training.train import train
from medrd.training.worker import Worker

logger = logging.getLogger("medrd.train")

MAX_DEATHS = 3
"""Deaths of workers after which the training is given up, as so many suggest a fault in it.
Preempted nodes are not counted."""
LEAST_SHARE = 2
"""Slices of a batch that each worker needs, so that BatchNorm has a variance."""
_LOOK_S = 0.2


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
        As for :func:`medrd.training.train.train`; ``train.batch_size`` is that of all workers
        together. A run can be resumed with another number of workers, or without any.
    workers
        Number of workers. If there are GPUs and ``train.device`` allows it, each gets one.
    cpus
        Cores, and threads, of each worker. Default: an equal share of this machine's; 1 on a
        cluster, where the number of cores per node is unknown.
    address
        Address of a Ray cluster whose nodes all see data, cache and ``out`` (``auto`` on one of its
        nodes). Default: ``RAY_ADDRESS``, or a cluster of this machine alone.

    Raises
    ------
    ConfigError
        The model has no gradients, ``train.compile`` or a device number is set, a batch has too few
        slices per worker, no cluster answers at the address, or the machine is too small.
    MedrdError
        As for :func:`medrd.training.train.train`; or workers died too often.
    InterruptedRunError
        On SIGTERM or Ctrl-C, once the checkpoint is saved.
    """
    require_extra("ray", "--workers")
    refuse_what_workers_cannot(config, workers)
    run_epochs = partial(_run_epochs, workers, cpus, given_address(address))
    return train(config, out, resume=resume, run_epochs=run_epochs)


def refuse_what_workers_cannot(config: Config, workers: int) -> None:
    """Raise ConfigError for settings that need a single process."""
    settings, least = config.train, LEAST_SHARE * workers
    wrong = None
    if settings.compile:
        wrong = ("train.compile", "false with --workers", "true", "Set train.compile=false.")
    elif settings.device not in ("auto", "cpu", "cuda"):
        wrong = ("train.device", "auto, cpu or cuda with --workers", settings.device, "Use auto.")
    elif settings.batch_size < least:
        wrong = (
            "train.batch_size",
            f"at least {LEAST_SHARE} slices for each of {workers} workers",
            str(settings.batch_size),
            f"Set train.batch_size={least} or more, or lower --workers.",
        )
    if wrong is not None:
        where, expected, found, remedy = wrong
        raise ConfigError(where, expected=expected, found=found, remedy=remedy)


@dataclass(frozen=True)
class Order:
    """The task of a worker.

    Attributes
    ----------
    identity
        Hash of config and data; see :func:`medrd.training.fit.identity_of`.
    folder
        The command's working folder.
    board
        The handle of a :class:`Board`.
    """

    config: Config
    out: Path
    identity: str
    folder: Path
    cpus: int
    gpu: bool
    board: Any


# --- The command ---


def _run_epochs(
    workers: int,
    cpus_each: int | None,
    address: str | None,
    training: Training,
    should_stop: Callable[[], bool],
) -> dict[str, Any] | None:
    config, out, count = training.config, training.out.absolute(), len(training.slices)
    reported = len(read_epochs(out))
    if (out / CHECKPOINT).is_file() and reported >= config.train.epochs:
        return None  # it was stopped after its epochs
    if count < LEAST_SHARE * workers:
        raise ConfigError(
            "--workers",
            expected=f"at most one for every {LEAST_SHARE} of the {count} healthy slices",
            found=str(workers),
            remedy="Lower --workers.",
        )
    identity = identity_of(config, training.slices)
    label = f"training with {workers} workers"
    with (
        ray_cluster(address) as cluster,
        scratch_folder(out) as scratch,
        progress(label, config.train.epochs, done=reported) as advance,
    ):
        cpus, gpu = resources_each(cluster, workers, cpus_each, config.train.device)
        news = News(out, advance, reported)
        for restarts in range(MAX_DEATHS + 1):
            order = Order(config, out, identity, Path.cwd(), cpus, gpu, _board())
            group = WorkerGroup(order, workers, scratch / f"ray{restarts}")
            if not follow(group, should_stop, news):
                error = stopped(len(read_epochs(out)), config, out)
                raise InterruptedRunError(f"{error} --workers {workers}")
            if group.failure is None:
                return {"count": workers, **group.record, "restarts": restarts}
            raised = raised_by_a_worker(group.failure)
            if isinstance(raised, InterruptedRunError):
                raise InterruptedRunError(f"{raised} --workers {workers}")
            if raised is not None:
                raise raised
            if restarts < MAX_DEATHS:
                logger.warning("a worker has died; all workers restart from the last checkpoint")
    raise MedrdError(
        "--workers",
        expected="workers that survive",
        found=f"{MAX_DEATHS + 1} deaths; the last one: {_last_line(group.failure)}",
        remedy=f"{news.reported} epochs are saved: look into Ray's logs "
        "(/tmp/ray/session_latest/logs), then continue with --resume.",
    )


def resources_each(
    cluster: Cluster, workers: int, cpus: int | None, device: str
) -> tuple[int, bool]:
    """Cores of each worker, and whether it gets a GPU.

    Raises
    ------
    ConfigError
        The machine has too few.
    """
    gpu = device == "cuda" or (device == "auto" and cluster.amount("GPU") > 0)
    wanted = {"CPU": float(cpus or 1), "GPU": 1.0 if gpu else 0.0}
    refuse_too_much(
        cluster, wanted, key="--workers", remedy="Lower --workers or --cpus.", processes=workers
    )
    if cpus is None:
        cpus = 1 if cluster.grows else max(1, int(cluster.amount("CPU")) // workers)
    return cpus, gpu


def _board() -> Any:
    """A handle of a new board, on this node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Board)
    return actor.options(num_cpus=0, scheduling_strategy=here).remote()


class WorkerGroup:
    """Ray Train with all workers, in a thread; in the main thread it would handle Ctrl-C itself.

    Attributes
    ----------
    record
        What :func:`work` returned.
    failure
        Why it failed; None while it runs and if it succeeded.
    """

    def __init__(self, order: Order, workers: int, storage: Path) -> None:
        self.record: dict[str, Any] = {}
        self.failure: Exception | None = None
        self._board = order.board
        self._trainer = _trainer(order, workers, storage)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def is_alive(self, wait_s: float) -> bool:
        """Wait for up to ``wait_s`` seconds; True if it is still running."""
        self._thread.join(wait_s)
        return self._thread.is_alive()

    def has_begun(self) -> bool:
        """True if the workers have started; before, they load or wait for resources."""
        import ray

        begun: bool = ray.get(self._board.has_begun.remote())
        return begun

    def stop(self) -> bool:
        """Ask the workers to save and stop; True if any are at work."""
        import ray

        heard: bool = ray.get(self._board.stop.remote())
        return heard

    def _run(self) -> None:
        try:
            self.record = self._trainer.fit().return_value
        except Exception as error:  # in a thread: the one that waits for it raises it
            self.failure = error


def _trainer(order: Order, workers: int, storage: Path) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    each = {"CPU": float(order.cpus)} | ({"GPU": 1.0} if order.gpu else {})
    loop: Any = work  # the stubs allow no return value
    return TorchTrainer(
        loop,
        train_loop_config={"order": order},
        torch_config=TorchConfig(backend="nccl" if order.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=order.gpu, resources_per_worker=each
        ),
        # Ray replaces preempted nodes; other failures are handled here, since most errors of ours
        # would only be repeated.
        run_config=RunConfig(storage_path=str(storage), failure_config=FailureConfig(0)),
    )


class News:
    """Logs the epochs that the workers have recorded since the last call."""

    def __init__(self, out: Path, advance: Advance, reported: int) -> None:
        self._out, self._advance, self.reported = out, advance, reported

    def report(self) -> None:
        for metrics in read_epochs(self._out)[self.reported :]:
            log_epoch(metrics)
            self._advance(note=f"loss {metrics.loss:.4f}  {metrics.slices_per_s:.0f} slices/s")
            self.reported += 1


def follow(group: WorkerGroup, should_stop: Callable[[], bool], news: News) -> bool:
    """Wait for the workers, pass on a request to stop, and log their epochs.

    Returns False at once if a stop was requested while no worker was at work.
    """
    stall = StallWarning()
    alive = True
    while alive:
        alive = group.is_alive(_LOOK_S)
        if alive and should_stop() and not group.stop():
            return False
        stall.check(at_work=not alive or group.has_begun())
        news.report()
    return True


def raised_by_a_worker(failure: Exception) -> MedrdError | InterruptedRunError | None:
    """The medrd error behind a failure of Ray Train, if there is one."""
    for error in getattr(failure, "worker_failures", {}).values():
        if isinstance(error, MedrdError | InterruptedRunError):
            return error
    return None


def _last_line(failure: Exception | None) -> str:
    causes = list(getattr(failure, "worker_failures", {}).values()) or [failure]
    lines = [line.strip() for line in str(causes[0]).splitlines() if line.strip()]
    return lines[-1] if lines else type(causes[0]).__name__


# --- A worker ---


def work(settings: dict[str, Any]) -> dict[str, Any]:
    """Run the epochs as one of the workers; return what ``run.json`` records about the workers."""
    import ray
    import ray.train
    import ray.train.torch
    import torch.distributed as dist

    order: Order = settings["order"]
    config = order.config
    enter(order.folder)
    torch.set_num_threads(order.cpus)
    device = str(ray.train.torch.get_device()) if order.gpu else "cpu"
    execution = choose_execution(device, config.train.precision)
    slices = _slices(order)
    detector = execution.place(build_detector_for(config))
    if order.gpu:  # PyTorch has no synchronised BatchNorm for CPUs: each has its own statistics
        from timm.layers import convert_sync_batchnorm

        convert_sync_batchnorm(detector)
    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size())
    first = worker.rank == 0
    # An earlier first worker, declared dead on an unreachable node, may still be writing.
    with lock_folder(order.out, "training", wait=True) if first else nullcontext():
        if first and not ray.get(order.board.begin.remote()):
            raise InterruptedRunError("stopped before it began")
        dist.barrier()  # from here on, only this first worker changes the checkpoint
        fit(
            Training(config, order.out, slices, detector, execution),
            should_stop=lambda: first and ray.get(order.board.is_stopping.remote()),
            worker=worker,
        )
    return {
        "device": execution.device.type,
        "precision": execution.precision,
        "threads": order.cpus,
    }


def _slices(order: Order) -> HealthySlices:
    """The training slices, which must be the same as the command's."""
    config = order.config
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
            found=f"other slices on one ({len(slices)} of {len(cached)} subjects)",
            remedy=EVERYWHERE,
        )
    return slices
