"""Several workers of a training, without Ray; and Ray's, lighter."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from medrd.training.worker import Worker


def without_compiler() -> Callable[[], None]:
    """What spares a process of Ray's the seconds in which its first optimiser imports all of
    torch.compile, which it does not use. (Nested, so that it travels by value.)"""

    def leave_out() -> None:
        import sys
        from unittest.mock import MagicMock

        sys.modules["torch._dynamo"] = MagicMock(disable=lambda call, *_, **__: call)

    return leave_out


def in_processes(size: int, folder: Path, work: Callable[[Worker], Any]) -> list[Any]:
    """Run ``work`` in each process of a group; returns the results in the order of ranks.

    The processes are forked, so that none of them imports torch anew, and have one thread, since
    a pool of threads does not survive a fork.
    """
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                torch.set_num_threads(1)
                meeting = f"file://{folder}/meeting"
                dist.init_process_group("gloo", meeting, rank=rank, world_size=size)
                torch.save(work(Worker(rank, size)), folder / f"{rank}.pt")
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * size
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]
