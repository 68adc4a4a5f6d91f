"""Start Ray on this machine for one call, or join a cluster.

Ray is imported inside the functions, so that everything else works without it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrd.errors import ConfigError
from medrd.extras import require_extra

logger = logging.getLogger("medrd.ray")

EVERYWHERE = "Put everything that the command reads and writes on storage that all nodes see."
STORE_BYTES = 512 * 2**20
"""Size of Ray's object store, if Ray is started here. Only the scores of an evaluation use much of
it; what does not fit goes to the disk."""
STALL_S = 30.0
"""Time without a working process after which a warning is logged, again and again."""
_HIDE_GPUS = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"


@dataclass(frozen=True)
class Cluster:
    """The resources of a running Ray.

    Attributes
    ----------
    resources
        Totals over the nodes, by Ray's names (``CPU``, ``GPU`` …).
    grows
        Whether nodes may still join. A local Ray never grows.
    nodes
        The resources of each node; default: one node has them all.
    """

    resources: Mapping[str, float]
    grows: bool
    nodes: tuple[Mapping[str, float], ...] = ()

    def amount(self, name: str) -> float:
        """Total amount of a resource in the cluster (0 if absent)."""
        return self.resources.get(name, 0.0)

    def room(self, wanted: Mapping[str, float]) -> int:
        """The number of processes with these resources that fit; none may span two nodes."""
        return sum(
            min(int(node.get(n, 0.0) / amount + 1e-9) for n, amount in wanted.items() if amount)
            for node in self.nodes or (self.resources,)
        )


def given_address(address: str | None) -> str | None:
    """The address of the cluster to join: the one given, or else ``RAY_ADDRESS``."""
    return address or os.environ.get("RAY_ADDRESS")


def settle_environment() -> None:
    """Set the variables that Ray reads when it is imported or started, unless the user has."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    # Ray Tune would handle Ctrl-C itself; here it ends the command with a message.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # Ray Train gives its workers a minute to import torch, which is too little on a busy disk.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    # Otherwise a process that asks for no GPU sees all GPUs of its node, and uses them.
    os.environ.setdefault(_HIDE_GPUS, "1")
    # `ray start` requires the user's token where there is one, so this connection must show it.
    if (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output ignores `verbose`


@contextmanager
def ray_cluster(address: str | None, *, dashboard: bool = False) -> Iterator[Cluster]:
    """Join a cluster, or start a local Ray that ends with the block.

    What Ray prints meanwhile, for instance about a dead node, goes to stderr, because stdout is for
    results.

    Parameters
    ----------
    address
        Address of a cluster (``auto`` on one of its nodes). None starts Ray on this machine alone.
    dashboard
        Serve the dashboard, if Ray is started here.

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    ConfigError
        No cluster answers at the address, or Ray cannot be started here.
    """
    require_extra("ray", "working on Ray")
    settle_environment()
    import ray

    joined = ray.is_initialized()
    with redirect_stdout(sys.stderr):
        if not joined:
            with _own_sigterm_handler():
                _start(address, dashboard=dashboard)
        try:
            resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            nodes = tuple(node["Resources"] for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]
            yield Cluster(resources, grows=joined or address is not None, nodes=nodes)
        finally:
            if not joined:
                ray.shutdown()


@contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces by one that exits without a message."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _start(address: str | None, *, dashboard: bool) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init("local", include_dashboard=dashboard, object_store_memory=STORE_BYTES, **quiet)
        else:
            _refuse_silence(address)
            ray.init(address, runtime_env=job_environment(), **quiet)
    except Exception as error:  # Ray raises a bare Exception on a machine that is too busy
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if address is None:
            raise ConfigError(
                "Ray",
                expected="a machine on which Ray starts",
                found=reason,
                remedy="Run it again when the machine is less busy (Ray gives its node 30 s to "
                "start), or look into /tmp/ray/session_latest/logs.",
            ) from None
        raise ConfigError(
            "--address",
            expected="a Ray cluster that answers",
            found=f"none at {address} ({reason})",
            remedy="Start one with ray start --head, or remove --address.",
        ) from None


def job_environment() -> dict[str, Any]:
    """Ray's ``runtime_env`` for processes on nodes that were not started here."""
    return {"env_vars": {_HIDE_GPUS: os.environ[_HIDE_GPUS]}}


def _refuse_silence(address: str) -> None:
    """Raise OSError at once for a host that does not answer; Ray would try it for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "/" not in host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def enter(folder: Path) -> None:
    """Change to the caller's folder in another process, so that relative paths stay valid.

    Raises
    ------
    ConfigError
        This node does not see the caller's folder.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise ConfigError(
            folder,
            expected="the folder that the command was started in, on every node",
            found=error.strerror or str(error),
            remedy=EVERYWHERE,
        ) from None


class StallWarning:
    """Logs a warning for every half minute in which no process works."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def check(self, *, at_work: bool) -> None:
        """Call this often, with whether any process is at work now."""
        if at_work:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > STALL_S:
            self._since = time.monotonic()
            logger.warning(
                "waiting for processes: they are starting, or no node has free resources"
            )


def refuse_too_much(
    cluster: Cluster,
    wanted: Mapping[str, float],
    *,
    key: str,
    remedy: str,
    processes: int = 1,
) -> None:
    """Refuse to ask for more than this machine has, for which Ray would wait forever.

    On a cluster, which may still grow, log a warning.

    Parameters
    ----------
    wanted
        Resources of each process, which must lie on one node, by Ray's names.
    key, remedy
        The option or config key that asked for them, and the remedy, with ``{name}`` for ``cpus``
        or ``gpus``.
    processes
        Number of processes.

    Raises
    ------
    ConfigError
        This machine has less, and no cluster was joined.
    """
    if cluster.room(wanted) >= processes:
        return
    if cluster.grows:
        each = " and ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
        logger.warning(
            "the cluster lacks resources for %d of %d processes with %s each; waiting for nodes",
            processes - cluster.room(wanted),
            processes,
            each,
        )
        return
    for name, amount in wanted.items():
        if amount * processes > cluster.amount(name):
            raise ConfigError(
                key.format(name=f"{name.lower()}s"),
                expected=f"at most the {cluster.amount(name):g} of this machine",
                found=f"{amount * processes:g}",
                remedy=remedy.format(name=f"{name.lower()}s"),
            )
