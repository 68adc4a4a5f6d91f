"""One more pass over the healthy slices, for detectors that remember them or measure on them."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from medrd.data.slices import HealthySlices, Prefetcher, epoch_order
from medrd.models import Batch, Detector
from medrd.run.device import Execution
from medrd.run.progress import progress
from medrd.run.signals import InterruptedRunError


def collect(
    detector: Detector,
    slices: HealthySlices,
    execution: Execution,
    *,
    batch_size: int,
    seed: int,
    should_stop: Callable[[], bool],
) -> float:
    """Show every slice once, in a random order, and let the detector finish.

    Nothing of it is saved before the end: a stopped run begins the pass again. Returns seconds.

    Raises
    ------
    InterruptedRunError
        ``should_stop`` has said so, between two batches.
    """
    start = time.perf_counter()
    batches = epoch_order(len(slices), batch_size=batch_size, seed=seed, epoch=0, drop_last=False)
    detector.eval()
    with torch.no_grad(), progress("collecting", len(batches)) as advance:
        for batch in Prefetcher(slices, batches):
            region = torch.from_numpy(batch.region).to(execution.device)
            with execution.autocast():
                detector.collect(Batch(execution.images(batch.images), region))
            advance()
            if should_stop():
                raise InterruptedRunError(
                    "stopped while slices were collected; begin again with --resume"
                )
        detector.finish(torch.Generator().manual_seed(seed))
    return time.perf_counter() - start
