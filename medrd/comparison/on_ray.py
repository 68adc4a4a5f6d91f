"""``medrd compare --ray``: the cells of a comparison, several at a time.

A cell is what it is in :mod:`medrd.comparison.cells`; here each is run by one of a pool of
processes. One whose process dies goes on from its last checkpoint in another. Speeds in the
results are those of cells that ran beside others.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from medrd.comparison.cells import Finished, failed_cell, run_cell
from medrd.comparison.compare import Inputs, compare
from medrd.comparison.comparison import Comparison
from medrd.comparison.config import Cell, CompareConfig
from medrd.run.folder_lock import alone_in
from medrd.run.outputs import make_folder
from medrd.run.progress import progress
from medrd.run.signals import InterruptedRunError
from medrd.runner.actor import pool_on_ray
from medrd.runner.pool import A_CORE_EACH, Share, Work
from medrd.runner.pool_pass import LostItem

logger = logging.getLogger("medrd.compare")


def compare_on_ray(
    config: CompareConfig,
    out: str | Path,
    *,
    share: Share = A_CORE_EACH,
    address: str | None = None,
) -> Comparison:
    """Compare on all cores and GPUs of this machine, or of a cluster.

    Parameters
    ----------
    config, out
        As of :func:`medrd.comparison.compare.compare`; all nodes must see data, cache and ``out``.
    share
        What each process gets.
    address
        Of a Ray cluster (``auto`` on one of its nodes). Default: ``RAY_ADDRESS``, or a cluster
        of this machine alone.

    Raises
    ------
    ConfigError
        As of :func:`medrd.comparison.compare.compare`; no cluster at the address, more asked for
        than this machine has, or a device by number.
    InterruptedRunError
        On SIGTERM or Ctrl-C; what the cells have saved is kept.
    """
    return compare(config, out, run=partial(_run, share, address))


def _run(
    share: Share, address: str | None, cells: Sequence[Cell], out: Path, inputs: Inputs
) -> list[Finished]:
    finished: dict[int, Finished] = {}
    share = share.on({cell.config.train.device for cell in cells}, key="train.device")
    try:
        with (
            pool_on_ray(
                partial(_make, out, inputs), share, address, name_of=lambda cell: cell.name
            ) as pool,
            progress("comparing", len(cells)) as advance,
        ):
            for index, result in pool.map(cells):
                cell = cells[index]
                if isinstance(result, LostItem):
                    text = (
                        f"{result.attempts} processes did not survive it; the last: {result.reason}"
                    )
                    result = failed_cell(cell, out / cell.folder, text, {"error": text})
                finished[index] = result
                logger.info("[%d/%d] %s", len(finished), len(cells), cell.name)
                advance(note=cell.name)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"stopped after {len(finished)} of {len(cells)} cells; what they saved is kept. Run "
            "the same comparison again to go on."
        ) from None
    return [finished[index] for index in range(len(cells))]


def _make(out: Path, inputs: Inputs) -> Work[Cell, Finished]:
    def run(cell: Cell) -> Finished:
        folder = out / cell.folder
        make_folder(folder)
        # A process that is taken for dead may take a moment to let go.
        with alone_in(folder, "process", wait=True):
            return run_cell(cell, out, inputs[cell.folder])

    return run
