"""Ray whose worker processes start with torch and what else they need.

A worker of Ray's is a new Python, which spends five seconds of processor time on imports. Here
pytest forks a server before its first test, and the server forks for each worker. Ordinary workers
are started in training/test_on_ray.py, and by the command that runner/test_verbs.py stops.
"""

from __future__ import annotations

import importlib
import itertools
import json
import logging
import os
import runpy
import selectors
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from medrd.runner.cluster import settle_environment

STORE_BYTES = 100 * 2**20
_SCRIPT = Path(__file__).with_name("ray_worker.py")
_LIBRARIES = ("medrd.tuning.trial", "pandas", "torch._dynamo", "torch")
"""Imported before the first worker. Ray is not: it reads its environment as it is imported."""


class WarmWorkers:
    """The server; ``address`` is that of its socket. It ends with pytest."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="medrd")
        self.address = str(Path(self._folder.name) / "socket")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.address)
        listener.listen(64)
        life, self._life = os.pipe()
        self._server = os.fork()
        if self._server == 0:
            try:
                _serve(listener, life)
            finally:
                os._exit(0)
        os.close(life)
        listener.close()

    def close(self) -> None:
        os.close(self._life)
        os.waitpid(self._server, 0)
        self._folder.cleanup()


def start_warm(patch: pytest.MonkeyPatch, address: str) -> None:
    """Have every Ray that this process starts from now on take its workers from the server."""
    settle_environment()
    from ray._private import ray_constants

    patch.setenv("MEDRD_TEST_WARM_RAY", address)
    patch.setattr(ray_constants, "SETUP_WORKER_FILENAME", str(_SCRIPT))


def _serve(listener: socket.socket, life: int) -> None:
    """Fork for each worker, until nobody holds the other end of ``life``."""
    kept = sorted((0, 1, 2, listener.fileno(), life, os.sysconf("SC_OPEN_MAX")))
    for before, after in itertools.pairwise(kept):
        os.closerange(before + 1, after)  # else xdist would wait for this process
    logging.getLogger().handlers.clear()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    with selectors.DefaultSelector() as events:
        events.register(listener, selectors.EVENT_READ)
        events.register(life, selectors.EVENT_READ)
        while all(key.fileobj is listener for key, _ in events.select()):
            for name in _LIBRARIES:
                importlib.import_module(name)
            sys.modules["torch"].set_num_threads(1)  # forked processes must not share a pool
            client, _ = listener.accept()
            if os.fork() == 0:
                _work(client)
            client.close()


def _work(client: socket.socket) -> None:
    """Become the worker that ``ray_worker.py`` was started as."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)  # Ray ends what a dead worker leaves in its group
        _, streams, _, _ = socket.recv_fds(client, 1, 2)
        with client.makefile("rb") as file:
            order = json.load(file)
        for number, stream in enumerate(streams, start=1):
            os.dup2(stream, number)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)  # these were pytest's
        sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", closefd=False)
        # A fork leaves torch without its pool, which two threads that ask at once make wrongly.
        sys.modules["torch"].set_num_threads(1)
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["folder"])
        sys.argv = order["argv"]
        runpy.run_path(sys.argv[0], run_name="__main__")
    except BaseException:
        logging.exception("a worker of Ray's")
    finally:
        os._exit(0)


@contextmanager
def warm_ray(environment: dict[str, Any] | None = None, **settings: Any) -> Iterator[Any]:
    """A cluster of one node, to which others can be added, and this process connected to it.

    Parameters
    ----------
    environment
        Ray's ``runtime_env``.
    settings
        Ray's parameters of the node, beside or instead of two cores and a small store.
    """
    settle_environment()
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    lean = {"include_log_monitor": False, "no_monitor": True}
    nodes = Cluster(initialize_head=True, head_node_args=node | lean | settings)
    try:
        ray.init(nodes.address, log_to_driver=False, runtime_env=environment)
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()
