"""One more pass over the healthy slices, for detectors that store features or take statistics."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from medrd.data.slices import Prefetcher, epoch_order
from medrd.models.detector import Batch
from medrd.run.progress import progress
from medrd.run.signals import InterruptedRunError
from medrd.training.setup import Training


def collect(training: Training, *, should_stop: Callable[[], bool]) -> float:
    """Show the detector every slice once, in random order, and return the seconds that it took.

    Nothing is saved before the end: a stopped run repeats the pass.

    Raises
    ------
    InterruptedRunError
        ``should_stop`` returned True between two batches.
    """
    start = time.perf_counter()
    config, detector, execution = training.config, training.detector, training.execution
    batches = epoch_order(
        len(training.slices),
        batch_size=config.train.batch_size,
        seed=config.seed,
        epoch=0,
        drop_last=False,
    )
    execution.place(detector).eval()  # the epochs may have had another memory format
    with torch.no_grad(), progress("collecting", len(batches)) as advance:
        for batch in Prefetcher(training.slices, batches):
            region = torch.from_numpy(batch.region).to(execution.device)
            with execution.autocast():
                detector.collect(Batch(execution.images(batch.images), region))
            advance()
            if should_stop():
                raise InterruptedRunError(
                    "stopped while collecting slices; start again with --resume"
                )
        detector.finish(torch.Generator().manual_seed(config.seed))
    return time.perf_counter() - start
