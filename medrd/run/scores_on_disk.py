"""Sorted runs of scores on disk, so that memory does not grow with the number of scans."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.metrics import Run, make_run
from medrd.run.outputs import make_folder


@contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside the results, removed at the end; needs no room elsewhere."""
    make_folder(out)
    folder = Path(tempfile.mkdtemp(prefix=".runs.", dir=out))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_on_disk(
    place: Path,
    scores: NDArray[np.float32],
    labels: NDArray[np.bool_],
    weights: NDArray[np.float64] | None = None,
    components: int = 0,
) -> Run:
    """A run (see :func:`medrd.metrics.make_run`) whose arrays are memory-mapped from ``place``."""
    run = make_run(scores, labels, weights, components)
    place.mkdir(parents=True)
    mapped: dict[str, Any] = {}
    for item in fields(run):
        value = getattr(run, item.name)
        if isinstance(value, np.ndarray):
            np.save(place / f"{item.name}.npy", value, allow_pickle=False)
            value = np.load(place / f"{item.name}.npy", mmap_mode="r", allow_pickle=False)
        mapped[item.name] = value
    return Run(**mapped)
