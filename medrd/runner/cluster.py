"""Ray, begun on this machine for one call or joined where it runs already.

Ray is imported inside the functions, so that everything else works without it.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrd.errors import ConfigError
from medrd.extras import require_extra

logger = logging.getLogger("medrd.ray")

EVERYWHERE = "Put what the command reads and writes on storage that all nodes see."
STORE_BYTES = 128 * 2**20
"""Of Ray's object store: hardly anything of ours passes through it."""
_PATIENCE_S = 30.0
_HIDE_GPUS = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"


@dataclass(frozen=True)
class Cluster:
    """A Ray that answers.

    Attributes
    ----------
    resources
        What its nodes have in all, by Ray's names (``CPU``, ``GPU`` …).
    grows
        Whether nodes may still join; one of this machine alone stays as it is.
    nodes
        What each of them has; default: one has it all.
    """

    resources: Mapping[str, float]
    grows: bool
    nodes: tuple[Mapping[str, float], ...] = ()

    def amount(self, name: str) -> float:
        """Of a resource; 0 where there is none."""
        return self.resources.get(name, 0.0)

    def room(self, wanted: Mapping[str, float]) -> int:
        """How many processes that each want so much its nodes hold; none lies on two of them."""
        return sum(
            min(int(node.get(n, 0.0) / amount + 1e-9) for n, amount in wanted.items() if amount)
            for node in self.nodes or (self.resources,)
        )


def given_address(address: str | None) -> str | None:
    """The address of a cluster; ``RAY_ADDRESS`` where none is given."""
    return address or os.environ.get("RAY_ADDRESS")


def settle_environment() -> None:
    """What Ray reads when it is imported or started; what the user has set stays."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    # Ray would take Ctrl-C for itself; here it ends the verb with a word.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # Ray Train gives its workers a minute to import torch: too little on a busy disk.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    # Else a process that asks for no GPU sees, and takes, all of its node's.
    os.environ.setdefault(_HIDE_GPUS, "1")
    # `ray start` asks for the user's token where there is one; so who connects must show it.
    if (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the other one prints whatever verbose says


@contextmanager
def ray_cluster(
    address: str | None, *, dashboard: bool = False, store_bytes: int = STORE_BYTES
) -> Iterator[Cluster]:
    """A Ray that was there before stays; one that is begun here ends here.

    What Ray prints meanwhile (of a node that died, say) goes to stderr: stdout is the results'.

    Parameters
    ----------
    address
        Of a cluster (``auto`` on one of its nodes); None begins one of this machine alone.
    dashboard
        Let a Ray that is begun here serve its dashboard.
    store_bytes
        Of the object store of a Ray that is begun here.

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    ConfigError
        Nobody answers at the address.
    """
    require_extra("ray", "working on Ray")
    settle_environment()
    import ray

    joined = ray.is_initialized()
    with redirect_stdout(sys.stderr):
        if not joined:
            _begin(address, dashboard=dashboard, store_bytes=store_bytes)
        try:
            resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            nodes = tuple(node["Resources"] for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]
            yield Cluster(resources, grows=joined or address is not None, nodes=nodes)
        finally:
            if not joined:
                ray.shutdown()


def _begin(address: str | None, *, dashboard: bool, store_bytes: int) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init("local", include_dashboard=dashboard, object_store_memory=store_bytes, **quiet)
        else:
            _refuse_silence(address)
            ray.init(address, runtime_env=job_environment(), **quiet)
    except Exception as error:  # a machine that is too busy is a bare Exception to Ray
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if address is None:
            raise ConfigError(
                "Ray",
                expected="a machine on which Ray begins",
                found=reason,
                remedy="Run it again when the machine is less busy (Ray gives its node 30 s to "
                "begin), or look into /tmp/ray/session_latest/logs.",
            ) from None
        raise ConfigError(
            "--address",
            expected="a Ray cluster that answers",
            found=f"none at {address} ({reason})",
            remedy="Begin one with ray start --head, or leave --address out.",
        ) from None


def job_environment() -> dict[str, Any]:
    """What processes need that nodes start which were not begun here; Ray's ``runtime_env``."""
    return {"env_vars": {_HIDE_GPUS: os.environ[_HIDE_GPUS]}}


def _refuse_silence(address: str) -> None:
    """Ray would try a host that does not answer for minutes. Raises OSError."""
    host, colon, port = address.rpartition(":")
    if colon and "/" not in host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def enter(folder: Path) -> None:
    """In another process: let paths mean what they mean to the caller.

    Raises
    ------
    ConfigError
        The caller's folder is not there on this node.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise ConfigError(
            folder,
            expected="the folder that the command was given in, on every node",
            found=error.strerror or str(error),
            remedy=EVERYWHERE,
        ) from None


class Patience:
    """Says every half minute that none of the processes is at work that should be."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def see(self, *, at_work: bool) -> None:
        """How it stands now."""
        if at_work:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > _PATIENCE_S:
            self._since = time.monotonic()
            logger.warning("waiting for processes: they are starting, or no node has room")


def refuse_too_much(
    cluster: Cluster,
    wanted: Mapping[str, float],
    *,
    key: str,
    remedy: str,
    processes: int = 1,
) -> None:
    """More than there is would be waited for without end; a cluster may still grow.

    Parameters
    ----------
    wanted
        By each of so many processes, hence of one node: amounts by Ray's names.
    key, remedy
        What asked for them, as it stands in a message with ``{name}`` for ``cpus`` or ``gpus``.

    Raises
    ------
    ConfigError
        More than a machine alone has.
    """
    if cluster.room(wanted) >= processes:
        return
    if cluster.grows:
        each = " and ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
        logger.warning(
            "the cluster has no room yet for %d of %d processes with %s each; waiting for nodes",
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
