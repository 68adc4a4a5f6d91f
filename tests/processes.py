"""medrd's command line in real processes that start at once.

Pytest forks a server before its first test, with all that the test modules have imported, and the
server forks for each call. So a test pays for a real process (to kill, to ask for its exit code)
without its seconds of imports.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

_LIBRARIES = (
    "medrd.cli",
    "medrd.demo",
    "monai.transforms",
    "scipy.stats",
    "torch._dynamo",
    "torch",
)
"""Imported before the first call, in case that few test modules run and none has done so."""


@dataclass(frozen=True)
class Finished:
    """A process of medrd's that has ended; killed by signal n: ``code`` is -n."""

    code: int
    stdout: str
    stderr: str


class Processes:
    """``medrd("predict", run, scan, "--out", out)`` runs ``medrd`` in a process of its own.

    Pytest must not have replaced anything yet (streams aside) where the server is forked.
    """

    folder: Path
    """For what the processes print, and for their cache."""

    def __init__(self) -> None:
        self._calls = 0
        orders, here = os.pipe()
        there, codes = os.pipe()
        self._server = os.fork()
        if self._server == 0:
            try:
                _serve(orders, codes)
            finally:
                os._exit(0)
        os.close(orders)
        os.close(codes)
        self._orders, self._codes = os.fdopen(here, "w"), os.fdopen(there)

    def __call__(self, *argv: object, prelude: str = "") -> Finished:
        """``medrd ARGV...``; ``prelude`` is Python that the process runs first."""
        self._calls += 1
        out, err = (self.folder / f"{self._calls}.{name}" for name in ("out", "err"))
        order = {
            "argv": ["medrd", *map(str, argv)],
            "prelude": prelude,
            "streams": [os.devnull, str(out), str(err)],
            "cache": str(self.folder / "cache"),
        }
        print(json.dumps(order), file=self._orders, flush=True)
        code = json.loads(self._codes.readline())
        return Finished(code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))

    def close(self) -> None:
        self._orders.close()
        self._codes.close()
        os.waitpid(self._server, 0)


def _serve(orders: int, codes: int) -> None:
    """Fork for each order, until pytest ends."""
    low, high = sorted((orders, codes))
    for first, end in ((3, low), (low + 1, high), (high + 1, os.sysconf("SC_OPEN_MAX"))):
        os.closerange(first, end)  # else xdist would wait for this process
    logging.getLogger().handlers.clear()
    os.environ["OMP_NUM_THREADS"] = "1"
    with os.fdopen(orders) as lines, os.fdopen(codes, "w") as answers:
        for line in lines:
            for name in _LIBRARIES:
                importlib.import_module(name)
            sys.modules["torch"].set_num_threads(1)  # forked processes must not share a pool
            pid = os.fork()
            if pid == 0:
                _run(**json.loads(line))
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            print(code, file=answers, flush=True)


def _run(argv: list[str], prelude: str, streams: list[str], cache: str) -> None:
    for number, name in enumerate(streams):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY), number)
    sys.stdin = os.fdopen(0, encoding="utf-8")  # these were pytest's
    sys.stdout = os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    # A fork leaves torch without its pool, which two threads that ask at once make wrongly.
    sys.modules["torch"].set_num_threads(1)
    os.environ["MEDRD_CACHE"] = cache
    sys.argv = argv
    code: object = 1
    try:
        exec(prelude, {})
        importlib.import_module("medrd.cli").main()
        code = 0
    except SystemExit as leave:
        code = leave.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)
