"""``medrd evaluate --ray``: test subjects by processes that load the model once each.

A process reads, predicts and judges; what comes back (:class:`medrd.evaluation.judge.Judged`) is
put together here, in the order of the subjects, as it is by
:func:`medrd.evaluation.evaluate.evaluate`.
So the numbers are the same to the last bit where an actor has as many threads. A process that
dies, or a whole node, takes with it what was under way there, and others do it again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from medrd.config import Config
from medrd.data.layouts import Subject
from medrd.evaluation.evaluate import evaluate
from medrd.evaluation.examine import Contender, Outcome, make_examiners
from medrd.run.model_folder import Model
from medrd.runner.actor import lost_input, pool_on_ray, same_model
from medrd.runner.pool import A_CORE_EACH, Share, Work
from medrd.runner.pool_pass import LostItem

_STORE_BYTES = 512 * 2**20
"""Of the object store of a Ray that is begun here: dozens of judged scans of BraTS's size. What
does not fit goes by the disk."""

_Item = tuple[int, Subject]
"""A subject under the contender of this number."""


def evaluate_on_ray(
    model: str | Path,
    config: Config,
    out: str | Path,
    *,
    share: Share = A_CORE_EACH,
    address: str | None = None,
    **options: Any,
) -> Path:
    """Evaluate on all cores and GPUs of this machine, or of a cluster.

    Parameters
    ----------
    model, config, out
        As of :func:`medrd.evaluation.evaluate.evaluate`; all nodes must see model and data.
    share
        What each process gets.
    address
        Of a Ray cluster (``auto`` on one of its nodes). Default: ``RAY_ADDRESS``, or a cluster
        of this machine alone for the time of the call.
    options
        As of :func:`medrd.evaluation.evaluate.evaluate`.

    Raises
    ------
    ConfigError
        No cluster at the address, more asked for than this machine has, or a device by number.
    MedrdError, InterruptedRunError
        As of :func:`medrd.evaluation.evaluate.evaluate`.
    """
    examine = partial(_examine, Path(model), share, address)
    return evaluate(model, config, out, examine=examine, **options)


def _examine(
    path: Path,
    share: Share,
    address: str | None,
    model: Model,
    device: str,
    contenders: Sequence[Contender],
    subjects: Sequence[Subject],
    should_stop: Callable[[], bool],
) -> Generator[Outcome, None, None]:
    share = share.on({device}, key="--device")
    items = [(number, subject) for number in range(len(contenders)) for subject in subjects]
    with (
        pool_on_ray(
            partial(_make, path, model.hash, device, contenders),
            share,
            address,
            name_of=lambda item: item[1].id,
            should_stop=should_stop,
            store_bytes=_STORE_BYTES,
        ) as pool,
        # Closed here, lest its actors outlive the connection where the caller breaks off.
        closing(pool.map_in_order(items)) as outcomes,
    ):
        for (_, subject), outcome in zip(items, outcomes, strict=False):  # a stop ends it early
            if isinstance(outcome, LostItem):
                outcome = lost_input(subject.files[0], outcome, limit="data.budget")
            yield outcome


def _make(
    path: Path, wanted: str, device: str, contenders: Sequence[Contender]
) -> Work[_Item, Outcome]:
    examiners = make_examiners(same_model(path, wanted), device, contenders)
    return lambda item: examiners[item[0]](item[1])
