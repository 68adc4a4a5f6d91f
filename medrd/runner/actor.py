"""What a call's processes of Ray's do before they take inputs, and what is said of one that they
died of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from medrd.errors import InputError, ModelError
from medrd.run.model_folder import Model, load_model
from medrd.runner.cluster import EVERYWHERE, STORE_BYTES, enter, given_address, ray_cluster
from medrd.runner.pool import Item, Pool, Result, Share, Work
from medrd.runner.pool_pass import LostItem


@contextmanager
def pool_on_ray(
    make: Callable[[], Work[Item, Result]],
    share: Share,
    address: str | None,
    *,
    name_of: Callable[[Item], str],
    should_stop: Callable[[], bool] = lambda: False,
    store_bytes: int = STORE_BYTES,
) -> Iterator[Pool[Item, Result]]:
    """Processes in which paths mean what they do to the caller, with a thread for each core.

    Parameters
    ----------
    make, share, name_of, should_stop
        As of :class:`medrd.runner.pool.Pool`.
    address
        Of a Ray cluster; None: ``RAY_ADDRESS``, or this machine alone for as long as it takes.
    store_bytes
        As of :func:`medrd.runner.cluster.ray_cluster`.

    Raises
    ------
    ConfigError
        No cluster at the address, or more asked for than a machine alone has.
    """
    with ray_cluster(given_address(address), store_bytes=store_bytes) as cluster:
        ready = partial(_make_ready, Path.cwd(), share.cpus, make)
        yield Pool(ready, share, cluster, name_of=name_of, should_stop=should_stop)


def _make_ready(
    folder: Path, threads: int, make: Callable[[], Work[Item, Result]]
) -> Work[Item, Result]:
    enter(folder)
    torch.set_num_threads(threads)
    return make()


def same_model(path: Path, wanted: str) -> Model:
    """The caller's model, by its hash.

    Raises
    ------
    ModelError
        The model is another there, or none.
    """
    model = load_model(path)
    if model.hash != wanted:
        raise ModelError(
            path,
            expected=f"the model {wanted[:12]} on every node",
            found=f"the model {model.hash[:12]} on one",
            remedy=EVERYWHERE,
        )
    return model


def lost_input(file: Path, lost: LostItem, *, limit: str) -> InputError:
    """What is said of an input that was given up; ``limit`` is what bounds an input's size."""
    return InputError(
        file,
        expected="an input that a process gets through",
        found=f"{lost.attempts} that did not, the last one by {lost.reason}",
        remedy=f"It may be too large for the memory that a process has: lower {limit}, or "
        "begin fewer processes with --actors. What was raised, if anything, stands in the log.",
    )
